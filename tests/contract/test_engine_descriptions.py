"""`engines.port.Engine`: one suite over every engine that Daulat knows, and what each says of itself when it runs.

The metrics are written here in the format of real captures: vLLM's was taken from vLLM 0.32 on a CPU, SGLang's and
MindIE's from their documentation.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daulat.agent.seccomp import FAMILIES
from daulat.core.decision import INFERENCE_ACTIONS
from daulat.engines import exposition
from daulat.engines.external import external
from daulat.engines.known import ENGINES
from daulat.engines.port import Counters, Engine, Launch, Load
from daulat.errors import EngineError

LLAMACPP = """# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 60
llamacpp:prompt_tokens_cached_total 40
llamacpp:tokens_predicted_total 7
llamacpp:requests_processing 2
llamacpp:requests_deferred 1
"""
VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"quoted\\" {name} 5"} 1.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 9.0e+01
vllm:prompt_tokens_total{engine="1",model_name="m"} 10.0 1795523446037
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.795523446037106e+09
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 60.0
vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 40.0
vllm:prompt_tokens_cached_by_source_total{engine="0",model_name="m",source="device"} 40.0
vllm:generation_tokens_total{engine="0",model_name="m"} 7.0
"""
SGLANG = """# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{engine_type="unified",is_streaming="false",model_name="m"} 70.0
sglang:prompt_tokens_total{engine_type="unified",is_streaming="true",model_name="m"} 30.0
sglang:cached_tokens_total{cache_source="device",model_name="m"} 30.0
sglang:cached_tokens_total{cache_source="host",model_name="m"} 10.0
sglang:generation_tokens_total{model_name="m"} 7.0
sglang:num_running_reqs{model_name="m"} 2.0
sglang:num_queue_reqs{model_name="m"} 1.0
"""
MINDIE = """# TYPE request_received_total counter
request_received_total{model_name="m"} 3188
num_requests_running{model_name="m"} 2
num_requests_waiting{model_name="m"} 1
num_requests_swapped{model_name="m"} 0
prompt_tokens_total{model_name="m"} 60
generation_tokens_total{model_name="m"} 7
"""
METRICS = {"llama.cpp": LLAMACPP, "vllm": VLLM, "vllm-ascend": VLLM, "sglang": SGLANG, "mindie": MINDIE}
LAUNCH = Launch(
    *("/model", "a-model", "/engine/e.sock", "/engine"),
    *(4, 2048, 3),
    embeds=False,
    uid=61_000,
    python="/usr/bin/python3",
    cores=4,
    arguments=("--of-the-operator",),
    environment={"OF_THE_OPERATOR": "1"},
)

counting = pytest.mark.parametrize("engine", [ENGINES[name] for name in METRICS], ids=list(METRICS))
started = pytest.mark.parametrize(
    "engine", [engine for engine in ENGINES.values() if engine.command], ids=lambda engine: engine.name
)


@counting
def test_counters_leave_cached_tokens_out_and_sum_over_labels(engine: Engine) -> None:
    assert engine.metrics is not None
    cached = 0 if engine.name == "mindie" else 40  # it does not tell
    assert engine.metrics.counters(METRICS[engine.name].encode()) == Counters(60, cached, 7)


@counting
def test_running_and_waiting_requests_say_whether_it_is_drained(engine: Engine) -> None:
    assert engine.metrics is not None
    busy = METRICS[engine.name]
    assert engine.metrics.load(busy.encode()) == Load(2, 1)
    lines = busy.splitlines()
    names = (engine.metrics.running, engine.metrics.waiting)
    idle = [f"{line.rpartition(' ')[0]} 0" if line.startswith(names) else line for line in lines]
    assert engine.metrics.load("\n".join(idle).encode()).idle


@counting
def test_what_cannot_be_counted_is_an_error_and_never_a_zero(engine: Engine) -> None:
    metrics = engine.metrics
    assert metrics is not None
    broken = METRICS[engine.name].replace(" 7\n", " seven\n").replace(" 7.0\n", " seven\n")
    with pytest.raises(EngineError, match=metrics.completion):
        metrics.counters(broken.encode())
    if metrics.absent_is_zero:
        assert metrics.counters(b"") == Counters()
    else:
        with pytest.raises(EngineError, match="lack"):
            metrics.counters(b"")
    if metrics.prompt_has_cached:
        with pytest.raises(EngineError, match="cached"):
            metrics.counters(METRICS[engine.name].replace(" 40.0", " 400.0").replace(" 10.0", " 100.0").encode())


@started
def test_a_command_names_its_model_its_socket_and_what_the_operator_adds(engine: Engine) -> None:
    assert engine.command is not None
    command = engine.command(LAUNCH)
    said = " ".join(command.argv)
    assert "/engine/e.sock" in said or "/engine/e.sock" in command.relays
    assert '"/model"' in said or "/model" in command.argv or '"/model"' in "".join(command.files.values())
    if engine.name != "llama.cpp":
        assert command.argv[-1] == "--of-the-operator", "it comes last, so it wins"
        assert command.environment["OF_THE_OPERATOR"] == "1"
    assert ("inet" in engine.families) or not command.relays, "a relay connects to a port"
    assert "--host 127.0.0.1" in said or "--host" not in said


@pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))
def test_an_engine_has_known_families_actions_and_bounds_for_the_audit(engine: Engine) -> None:
    assert set(engine.families) <= set(FAMILIES)
    assert set(engine.capabilities(embeds=False)) <= set(INFERENCE_ACTIONS)
    assert engine.capabilities(embeds=True) == ("embeddings",)
    assert {"slots", "context"} <= set(engine.parameters(LAUNCH))
    assert engine.dialect in {"llama.cpp", "vllm", "openai"}


def test_vllm_keeps_prompts_out_of_its_logs_and_fetches_nothing() -> None:
    command = ENGINES["vllm"].command
    assert command is not None
    said = command(LAUNCH)
    assert {"--no-enable-log-requests", "--disable-uvicorn-access-log", "--enforce-eager"} <= set(said.argv)
    assert json.loads(said.argv[said.argv.index("--compilation-config") + 1]) == {
        "custom_ops": ["all", "-rotary_embedding"]
    }, "on a CPU alone"
    accelerated = command(replace(LAUNCH, accelerated=True)).argv
    assert not {"--compilation-config", "--enforce-eager"} & set(accelerated)
    assert said.environment["HF_HUB_OFFLINE"] == said.environment["VLLM_NO_USAGE_STATS"] == "1"
    assert said.environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "1", "a core is left to the gateway"
    assert "--trust-remote-code" not in said.argv


def test_an_external_engine_is_counted_where_its_kind_is_known() -> None:
    assert external(None).metrics is None
    like = external(ENGINES["vllm"])
    assert (like.metrics, like.asker, like.dialect) == (ENGINES["vllm"].metrics, ENGINES["vllm"].asker, "vllm")
    assert external(ENGINES["llama.cpp"]).dialect == "openai", "its slots are not Daulat's to choose"
    assert external(None).command is None


@given(st.text(max_size=300) | st.lists(st.sampled_from(VLLM.splitlines() + SGLANG.splitlines())).map("\n".join))
def test_no_metrics_break_the_reader(text: str) -> None:
    names = frozenset({"vllm:prompt_tokens_total", "sglang:cached_tokens_total", "a"})
    try:
        found = exposition.totals(text.encode(), names)
    except EngineError:
        return  # the one error that it may raise
    assert set(found) <= names
    assert all(value >= 0 for value in found.values())


def test_metrics_without_end_are_refused() -> None:
    with pytest.raises(EngineError, match="at most"):
        exposition.totals(b"a 1\n" * 2_000_000, frozenset({"a"}))


def test_mindie_loads_the_admitted_model_on_all_its_devices_whatever_the_operator_says() -> None:
    engine = ENGINES["mindie"]
    assert engine.command is not None
    seen = {"ASCEND_RT_VISIBLE_DEVICES": "2,3,6,7", "MIES_CONFIG_JSON_PATH": "/data/other.json"}
    command = engine.command(replace(LAUNCH, environment=seen))
    written = json.loads(command.files[command.environment["MIES_CONFIG_JSON_PATH"]])
    (model,) = written["BackendConfig"]["ModelDeployConfig"]["ModelConfig"]
    assert (model["modelWeightPath"], model["modelName"], model["trustRemoteCode"]) == ("/model", "a-model", False)
    assert (model["worldSize"], written["BackendConfig"]["npuDeviceIds"]) == (4, [[0, 1, 2, 3]])
    assert written["ServerConfig"]["ipAddress"] == written["ServerConfig"]["managementIpAddress"] == "127.0.0.1"
    ports = {written["ServerConfig"]["port"], written["ServerConfig"]["metricsPort"]}
    assert ports == set(command.relays.values())
    ours = engine.command(replace(LAUNCH, environment={"MIES_CONFIG_JSON_PATH": "/daulat/files/config.json"}))
    assert (ours.files, ours.environment["MIES_CONFIG_JSON_PATH"]) == ({}, "/daulat/files/config.json")

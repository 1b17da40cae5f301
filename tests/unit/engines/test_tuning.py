"""What an operator adds to an engine's command line tunes it: no model, code, name, address or secret comes in."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.recipes import ASKED, recipe

from daulat.engines import known, options, tuning
from daulat.engines.allowed import ALLOWED
from daulat.errors import ConfigError

VLLM_HARMFUL = [
    "--model", "--tokenizer", "--config", "--tool-parser-plugin", "--reasoning-parser-plugin",
    "--logits-processors", "--middleware", "--lora-modules", "--enable-lora", "--hf-config-path",
    "--served-model-name", "--host", "--port", "--uds", "--api-key", "--worker-cls", "--worker-extension-cls",
    "--scheduler-cls", "--chat-template", "--trust-remote-code", "--trust-request-chat-template", "--revision",
    "--code-revision", "--tokenizer-revision", "--config-format", "--hf-token", "--io-processor-plugin",
    "--tool-server", "--download-dir", "--generation-config", "--override-generation-config",
    "--quantization-param-path", "--allowed-local-media-path", "--root-path", "--default-chat-template-kwargs",
    "--log-config-file", "--enable-log-requests", "--enable-log-outputs", "--otlp-traces-endpoint",
    "--ssl-keyfile", "--model-impl", "--runner", "--convert", "--headless", "--disable-log-stats",
    "--profiler-config", "--data-parallel-address", "--structured-outputs-config", "--skip-tokenizer-init",
    "--weight-transfer-config", "--ray-workers-use-nsight",
]  # fmt: skip
SGLANG_HARMFUL = [
    "--model-path", "--model", "--tokenizer-path", "--config", "--chat-template", "--hf-chat-template-name",
    "--completion-template", "--lora-paths", "--enable-lora", "--json-model-override-args",
    "--speculative-draft-model-path", "--custom-weight-loader", "--enable-custom-logit-processor", "--api-key",
    "--admin-api-key", "--served-model-name", "--host", "--port", "--trust-remote-code", "--tool-server",
    "--dist-init-addr", "--model-impl", "--forward-hooks", "--hicache-storage-backend", "--crash-dump-folder",
    "--log-requests", "--model-loader-extra-config", "--revision", "--weight-version",
    "--preferred-sampling-params", "--is-embedding", "--nnodes", "--node-rank",
]  # fmt: skip
HARMFUL = {"vllm": VLLM_HARMFUL, "sglang": SGLANG_HARMFUL}


def said(arguments: list[str], engine: str = "", **environment: str) -> str:
    """Why it is refused; "" where it passes."""
    try:
        options.parse(json.dumps({"arguments": arguments, "environment": environment}), engine)
    except ConfigError as error:
        return error.message
    return ""


def written(name: str) -> Iterator[list[str]]:
    """Every way in which engines' parsers take a flag."""
    for spelled in (name, name.replace("-", "_").replace("__", "--", 1), name.upper(), name[:-1], name[:-3]):
        yield [spelled]
        yield [spelled, "/data/other"]
        yield [f"{spelled}=/data/other"]
        yield [f"{spelled}.inner", "x"]
        yield [f"{spelled}+", "x"]
        yield ["--max-model-len", "8", spelled, "x", "--max-model-len", "9"]


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine, names in HARMFUL.items() for name in names])
def test_what_could_change_model_code_name_or_address_is_refused_however_it_is_written(engine: str, name: str) -> None:
    for arguments in written(name):
        if arguments[0].partition("=")[0] in ALLOWED[engine].values:
            continue  # the beginning of a long name is a short one of its own: --tokenizer-mode
        assert said(arguments, engine), arguments
        assert said(arguments), arguments


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--model", "/data/other"], "may bring in what nobody admitted"),
        (["--tool-parser-plugin", "x.py"], "loads code"),
        (["--lora-modules", "a=/x"], "adds weights"),
        (["--served-model-name", "x"], "the deployment's name"),
        (["--port", "1"], "where an engine listens"),
        (["--api-key", "sk-123"], "holds a secret"),
        (["--api-key=sk-123"], "holds a secret"),
        (["--chat-template", "x"], "code that nobody admitted; import the model"),
        (["--max-num-seq", "8"], "did you mean --max-num-seqs"),
        (["--enforce-eager", "/data/other"], "takes no value"),
        (["/data/other"], "belongs to no argument"),
        (["--max-num-seqs", "8", "/data/other"], "takes one value"),
        (["--max-num-seqs"], "takes one value"),
        (["--reasoning-parser", "my.module.Parser"], "no path, no name of code"),
        (["--reasoning-parser", "/tmp/x.py"], "no path, no name of code"),
        (["--load-format", "dummy"], "must match"),
        (["--load-format", "pt"], "must match"),
        (["--distributed-executor-backend", "my.Executor"], "must match"),
        (["--speculative-config", '{"method": "eagle3", "model": "/data/draft"}'], "may not say 'model'"),
        (["--speculative-config", "{"], "a JSON object"),
        (["--speculative-config.model", "/data/draft"], "a JSON object, written whole"),
        (["--kv-transfer-config", '{"kv_connector_module_path": "x"}'], "may not say 'kv_connector_module_path'"),
        (["--kv-transfer-config", '{"kv_connector": "my.module.C"}'], "a path or a name of code"),
        (["--kv-transfer-config", '{"kv_connector_extra_config": {"spec_module_path": "x"}}'], "may not say"),
        (["--compilation-config", '{"backend": "my.module.f"}'], "may not say 'backend'"),
        (["--hf-overrides", '{"architectures": ["Other"]}'], "may not say 'architectures'"),
        (["--additional-config", '{"eplb_config": {"expert_map_path": "x"}}'], "may not say"),
    ],
)
def test_a_refusal_names_what_is_refused_and_why(arguments: list[str], why: str) -> None:
    found = said(arguments, "vllm")
    assert why in found
    assert "sk-123" not in found
    assert "/data/other" not in found


@pytest.mark.parametrize(
    "environment",
    [
        {name: "x"}
        for name in (
            "PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD", "LD_LIBRARY_PATH", "VLLM_PLUGINS",
            "VLLM_CONFIG_ROOT", "VLLM_API_KEY", "VLLM_HOST_IP", "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
            "VLLM_MODEL_REDIRECT_PATH", "VLLM_LOGGING_CONFIG_PATH", "VLLM_USE_MODELSCOPE",
            "VLLM_SERVER_DEV_MODE", "NCCL_NET_PLUGIN", "NCCL_TUNER_PLUGIN", "NCCL_CONF_FILE",
            "ASCEND_CUSTOM_OPP_PATH", "OMP_TOOL_LIBRARIES", "HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE", "VLLM_ALLOW_INSECURE_SERIALIZATION", "SGLANG_EXTERNAL_MODEL_PACKAGE",
            "SGLANG_USE_MODELSCOPE", "MIES_CONFIG_JSON_PATH", "MIES_INSTALL_PATH", "PATH", "HOME",
            "http_proxy", "X", "BASH_ENV", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "GCONV_PATH",
            "AWS_SECRET_ACCESS_KEY",
        )
    ],
    ids=lambda found: next(iter(found)),
)  # fmt: skip
def test_variables_that_load_code_or_hold_secrets_are_refused(environment: dict[str, str]) -> None:
    never_told = {"PATH", "HOME", "http_proxy", "X"}
    for engine in ("", *known.ENGINES):
        if engine == "llama.cpp" and not never_told.isdisjoint(environment):
            continue
        assert f"environment.{next(iter(environment))}" in said([], engine, **environment)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HCCL_ALGO", "/tmp/x"),
        ("LD_LIBRARY_PATH", "/usr/local/Ascend/driver/lib64:/tmp/x"),
        ("LD_LIBRARY_PATH", "/usr/local/Ascend/../../../tmp/x"),
        ("LD_LIBRARY_PATH", "lib"),
        ("OMP_NUM_THREADS", "$(id)"),
    ],
)
def test_no_variable_names_a_path_but_the_vendors(name: str, value: str) -> None:
    assert said([], "vllm-ascend", **{name: value})


TUNING: dict[str, str] = {
    "OMP_NUM_THREADS": "8",
    "OMP_PROC_BIND": "false",
    "HCCL_BUFFSIZE": "1024",
    "NCCL_SOCKET_IFNAME": "=eth0",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "ASCEND_RT_VISIBLE_DEVICES": "0,1",
    "VLLM_MLA_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0-15|16-31",
    "VLLM_USE_FLASHINFER_MOE_FP8": "1",
    "VLLM_ASCEND_ENABLE_MLAPO": "1",
    "LD_LIBRARY_PATH": "/usr/local/Ascend/driver/lib64:/usr/local/Ascend/ascend-toolkit/latest/lib64",
}


@pytest.mark.parametrize(("name", "value"), TUNING.items())
def test_variables_that_are_known_to_tune_pass(name: str, value: str) -> None:
    assert said([], "vllm-ascend", **{name: value}) == ""
    assert said([], "", **{name: value}) == ""


@pytest.mark.parametrize("engine", ["vllm", "vllm-ascend", ""])
def test_arguments_that_are_known_to_tune_pass(engine: str) -> None:
    assert said(["-tp", "8", "--max_num_seqs=8", "--no-enable-prefix-caching", "--dtype", "bfloat16"], engine) == ""
    assert said(["--chat-template-content-format", "openai", "--tool-call-parser", "deepseek_v3"], engine) == ""


def test_an_engine_that_is_started_by_daulat_alone_or_not_at_all_takes_no_arguments() -> None:
    for engine in ("llama.cpp", "mindie", "external"):
        assert "takes no arguments" in said(["--max-num-seqs", "8"], engine)
    assert said([], "llama.cpp", CUDA_VISIBLE_DEVICES="0") == "", "as it is told where devices are given to it"


def test_mindie_reads_a_config_that_daulat_wrote_and_no_other() -> None:
    assert said([], "mindie", MIES_CONFIG_JSON_PATH="/daulat/files/config.json") == ""
    assert said([], "mindie", MIES_CONFIG_JSON_PATH="/daulat/files/../x/config.json")
    assert said([], "mindie", MIES_CONFIG_JSON_PATH="/data/config.json")
    for asked in (("deepseek-r1", 2, {"precision": "w8a8"}), ("deepseek-v3.2", 1, {"precision": "w8a8"})):
        model, nodes, wishes = asked
        for process in recipe(model, "a3", nodes, engine="mindie", **wishes).processes:
            kept = {name: value for name, value in process.environment.items() if name not in PLACES | MINDIE_PLACES}
            tuning.check("mindie", (), kept)


ADDRESSING = {  # of a launch over several nodes, or by hand: Daulat's own command says these
    "--host", "--port", "--headless", "--served-model-name", "--model-path", "--data-parallel-address", "--nnodes",
    "--data-parallel-rpc-port", "--data-parallel-rank", "--data-parallel-start-rank", "--node-rank", "--dist-init-addr",
    "--disaggregation-bootstrap-port",
}  # fmt: skip
MINDIE_PLACES = {"MIES_CONFIG_JSON_PATH", "RANK_TABLE_FILE", "MIES_CONTAINER_IP", "MASTER_IP", "MASTER_PORT"}
PLACES = {"ASCEND_MF_STORE_URL", "MOONCAKE_CONFIG_PATH", "MMC_LOCAL_CONFIG_PATH"}
PLACES |= {"VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"}


def tuned(argv: tuple[str, ...]) -> list[str]:
    kept, words = list[str](), list(argv)
    while words:
        name = words.pop(0)
        value = [words.pop(0)] if words and (not words[0].startswith("-") or words[0][1:].isdigit()) else []
        kept += [] if name in ADDRESSING else [name, *value]
    return kept


@pytest.mark.parametrize(("model", "on", "nodes", "wishes"), [asked for asked in ASKED if "drafter" not in asked[3]])
def test_whatever_the_recipes_tune_passes(model: str, on: str, nodes: int, wishes: dict[str, Any]) -> None:
    made = recipe(model, on, nodes, **wishes)
    served = [one for one in made.processes if one.argv[:2] == ("vllm", "serve") or "sglang.launch_server" in one.argv]
    assert served
    for process in served:
        environment = {name: value for name, value in process.environment.items() if name not in PLACES}
        tuning.check(made.engine, tuned(process.argv[3:]), environment)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_no_name_that_passes_could_be_taken_for_the_beginning_of_a_harmful_one(engine: str) -> None:
    allowed = ALLOWED[engine]
    names = {*allowed.switches, *allowed.values, *allowed.many, *allowed.objects}
    own = {
        "--quantization",
        "--load-format",
        "--device",
        "--hf-overrides",
        "--reasoning-parser",
    }  # each is a whole name there
    short = {
        name for name in names - own for harmful in HARMFUL[engine] if harmful.startswith(name) and harmful != name
    }
    assert short == set()


class Loose(argparse.ArgumentParser):
    """As an engine's: abbreviations, underscores, and a model where a word is left over."""

    def error(self, message: str) -> Any:
        raise ConfigError(message)


def parser(engine: str) -> Loose:
    found, allowed = Loose(add_help=False), ALLOWED[engine]
    found.add_argument("word", nargs="?")
    for name in HARMFUL[engine]:
        found.add_argument(name, nargs="?", const="given")
    for name in sorted({*allowed.values, *allowed.objects}):
        found.add_argument(name, dest="tuned", action="append")
    for name in sorted(allowed.switches):
        found.add_argument(name, action=argparse.BooleanOptionalAction, dest="switched")
    for name in sorted(allowed.many):
        found.add_argument(name, nargs="+", dest="several")
    return found


ODD = ["/data/other", "--", "-", "=", "x.py", "sk-1", "-1", "{}", '{"model": "/x"}', "8", "auto", "a.b", ""]


def pieces(engine: str) -> list[tuple[str, ...]]:
    """Words of a command line: names whole, cut and with underscores, alone, before a word, or joined to one."""
    allowed = ALLOWED[engine]
    names = [*sorted({*allowed.values, *allowed.switches, *allowed.objects, *allowed.many}), *HARMFUL[engine]]
    spelled = [*names, *(name[:-2] for name in names), *("--" + name.strip("-").replace("-", "_") for name in names)]
    some = ("8", "auto", "{}", "/data/other")
    told = [told for name in spelled for value in some for told in ((name, value), (f"{name}={value}",))]
    return [*((name,) for name in spelled), *told, *((word,) for word in ODD)]


def hyphens(word: str) -> str:
    """As vLLM's parser takes a flag with underscores."""
    name, joined, value = word.partition("=")
    return name.replace("_", "-") + joined + value if word.startswith("--") else word


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_no_arguments_that_pass_change_anything_but_tuning(engine: str) -> None:
    like, any_piece, allowed = parser(engine), pieces(engine), ALLOWED[engine]
    whole = {*allowed.values, *allowed.switches}
    passing = [piece for piece in any_piece if piece[0].partition("=")[0] in whole and not said([*piece], engine)]
    assert len(passing) > 100

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(passing) | st.sampled_from(any_piece), max_size=5))
    def never(found: list[tuple[str, ...]]) -> None:
        arguments = [word for piece in found for word in piece]
        if said(arguments, engine):
            return
        read = vars(like.parse_args([hyphens(word) for word in arguments]))
        assert read.pop("word") is None
        assert {name for name, value in read.items() if value is not None} <= {"tuned", "switched", "several"}

    never()


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=12) | st.sampled_from(ODD), max_size=6),
    st.dictionaries(st.text(max_size=12), st.text(max_size=8), max_size=3),
)
def test_nothing_breaks_the_check(arguments: list[str], environment: dict[str, str]) -> None:
    for engine in ("", *known.ENGINES):
        with contextlib.suppress(ConfigError):  # the one error that it may raise
            tuning.check(engine, arguments, environment)

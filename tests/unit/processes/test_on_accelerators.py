"""What `daulat deploy` starts on accelerators: machines of fakes on PATH, the recipe in the plan, and an engine that
writes down its arguments and environment."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.__main__ import install
from tests.support.fleet import Fleet
from tests.support.installation import FACTS

from daulat.adapters.accelerators.discovery import discover
from daulat.core.deployment import Share, Spec
from daulat.core.snapshot import ModelRow
from daulat.engines import known, options
from daulat.engines.port import context_for
from daulat.errors import ConfigError, InvalidRequest
from daulat.pipeline.deploy import Deployment
from daulat.processes import deploying, plan
from daulat.processes.launcher import Wanted, jail
from daulat.processes.roster import Prepared
from daulat.registry.model import ModelFacts
from daulat.settings import Home

GIB = 2**30
R1 = replace(
    FACTS,
    name="deepseek-r1-w8a8",
    digest="d" * 64,
    format="safetensors",
    origin="vllm-ascend/DeepSeek-R1-0528-W8A8",
    quantisation="W8A8_DYNAMIC",
    size=690 * GIB,
    context_length=163_840,
)
QWEN = replace(R1, name="qwen3-32b", origin="Qwen/Qwen3-32B", quantisation="BF16", size=65 * GIB, context_length=40_960)
ENGINE = """#!/bin/sh
exec "{python}" -I -c 'import json, os, sys; print(json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ)}}))' "$@"
"""
Deploy = Callable[..., Spec]


class Site:
    """A machine of fakes, and deployments of one model there."""

    def __init__(self, folder: Path, facts: ModelFacts) -> None:
        self.folder, self.facts = folder, facts
        self.fleet = Fleet(folder / "home")
        self.fleet.deploying._store = self  # type: ignore[assignment]

    def find(self, _wanted: str) -> ModelFacts:
        return self.facts

    def deployed(self, **changes: Any) -> Spec:
        _, spec = asyncio.run(self.fleet.deploying.resolve(self.facts.name, "m", changes))
        return spec

    def told(self, spec: Spec, *, replica: int = 0) -> dict[str, Any]:
        """What a replica's supervisor would be told."""
        each = len(spec.devices) // spec.replicas
        share = Share(1, 0, spec.devices[replica * each : (replica + 1) * each])
        wish = Deployment("d", "m", spec, 1, 1, None, None, "", 0)
        prepared = Prepared(self.facts, self.folder, ModelRow("m", 1, "{}", 0, False, 1))
        return plan.supervisor(Home(self.folder), wish, prepared, share)

    def ran(self, spec: Spec) -> dict[str, Any]:
        """What the engine sees when it is started: its arguments and environment, as a program in its place says."""
        wanted = self.wanted(spec)
        confined, _ = jail(wanted)
        order = json.loads(confined.program[-1])
        engine = self.folder / "engine.sh"
        engine.write_text(ENGINE.format(python=sys.executable))
        engine.chmod(0o755)
        argv = [str(engine), *order["argv"][1:]]
        said = subprocess.run(argv, env=dict(confined.environment), capture_output=True, check=True, text=True)
        found: dict[str, Any] = json.loads(said.stdout)
        return {**found, "devices": confined.devices, "jail": confined, "parameters": self.logged(wanted)}

    def wanted(self, spec: Spec) -> Wanted:
        told = self.told(spec)
        said = options.parse(told["--engine-options"])
        context = context_for(told["--context"], self.facts.context_length)
        files = json.loads(told.get("--files", "{}"))
        model = self.folder / "weights"
        model.mkdir(exist_ok=True)
        return Wanted(
            *("r", "m", model, self.folder / "run"),
            slots=told["--slots"],
            context=context,
            threads=1,
            embeds=False,
            memory_mib=0,
            engine=known.named(told["--engine"]),
            options=said,
            files=files,
        )

    def logged(self, wanted: Wanted) -> dict[str, Any]:
        _, launch = jail(wanted)
        return wanted.engine.parameters(launch)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, ModelFacts], Site]:
    def made(kind: str, facts: ModelFacts) -> Site:
        machine = tmp_path / "machine"
        monkeypatch.setenv("PATH", f"{install(machine, kind)}:{os.environ['PATH']}")
        monkeypatch.setattr(deploying, "discover", partial(discover, root=machine))  # where its device files are
        return Site(tmp_path, facts)

    return made


Sites = Callable[[str, ModelFacts], Site]
OWN = {"python": sys.executable}


def after(argv: list[str], flag: str) -> str:
    """The value that holds: of the last one given."""
    return argv[len(argv) - 1 - argv[::-1].index(flag) + 1]


def test_a_deepseek_on_an_a3_node_is_started_as_its_recipe_says(site: Sites) -> None:
    here = site("a3", R1)
    spec = here.deployed(options=OWN)
    assert spec.devices == tuple(f"npu:{number}" for number in range(16))
    assert spec.options["device"] == {"kind": "npu", "product": "Ascend 910"}
    ran = here.ran(spec)
    argv, environment = ran["argv"], ran["env"]
    assert argv[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert (after(argv, "--tensor-parallel-size"), after(argv, "--data-parallel-size")) == ("8", "2")
    assert "--enable-expert-parallel" in argv
    assert after(argv, "--quantization") == "ascend"
    assert json.loads(after(argv, "--speculative-config"))["method"] == "mtp"
    assert environment["PYTORCH_NPU_ALLOC_CONF"] == "expandable_segments:True"
    assert environment["HCCL_BUFFSIZE"] == "1024"
    assert environment["HCCL_SOCKET_IFNAME"] == "lo"
    assert environment["ASCEND_RT_VISIBLE_DEVICES"] == ",".join(map(str, range(16)))
    assert "/dev/davinci15" in ran["devices"]
    assert not {"--host", "--port"} & set(argv)
    assert argv.count("--served-model-name") == argv.count("--max-model-len") == 1


def test_the_log_says_the_slots_and_context_that_the_engine_is_given(site: Sites) -> None:
    here = site("a3", R1)
    ran = here.ran(here.deployed(options=OWN, slots=32, context=16_384))
    assert (ran["parameters"]["slots"], ran["parameters"]["context"]) == (32, 16_384)
    assert after(ran["argv"], "--max-model-len") == "16384"
    assert int(after(ran["argv"], "--max-num-seqs")) * int(after(ran["argv"], "--data-parallel-size")) == 32
    with pytest.raises(ConfigError, match="give --context, so that what the log says"):
        here.deployed(options={**OWN, "arguments": ["--max-model-len=4096"]})


def test_what_the_operator_says_wins_over_the_recipe(site: Sites) -> None:
    here = site("a3", R1)
    said = {
        **OWN,
        "arguments": ["--tensor-parallel-size", "16", "--enable-prefix-caching", "--gpu-memory-utilization=0.8"],
        "environment": {"HCCL_BUFFSIZE": "512", "ASCEND_RT_VISIBLE_DEVICES": "1"},
        "device": {"product": "910C", "site": "hall 2"},
    }
    ran = here.ran(here.deployed(options=said))
    argv = ran["argv"]
    assert argv.count("--tensor-parallel-size") == 1
    assert after(argv, "--tensor-parallel-size") == "16"
    assert "--data-parallel-size" not in argv
    assert not [word for word in argv if word.startswith(("--no-enable-prefix", "--gpu-memory-utilization "))]
    assert argv.count("--gpu-memory-utilization") == 0
    assert argv[-4:] == said["arguments"]
    assert (ran["env"]["HCCL_BUFFSIZE"], ran["env"]["ASCEND_RT_VISIBLE_DEVICES"]) == ("512", "1")
    assert here.wanted(here.deployed(options=said)).options.device == {
        "kind": "npu",
        "product": "910C",
        "site": "hall 2",
        "count": 16,
    }


def test_gpus_are_counted_from_0_inside_a_sandbox_that_shows_them_alone(site: Sites) -> None:
    here = site("8xh200", replace(QWEN, size=20 * GIB))
    ran = here.ran(here.deployed(options=OWN, devices=["gpu:4", "gpu:5", "gpu:6", "gpu:7"]))
    assert ran["devices"] == ("/dev/nvidia4", "/dev/nvidia5", "/dev/nvidia6", "/dev/nvidia7", *ran["devices"][4:])
    assert ran["env"]["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert ran["env"]["NCCL_SOCKET_IFNAME"] == "lo"
    assert after(ran["argv"], "--tensor-parallel-size") == "4"


def test_the_drivers_files_that_are_there_are_shown(site: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    here = site("a3", R1)
    spec = here.deployed(options={**OWN, "read_only": ["/opt/mine"]})
    monkeypatch.setattr(plan.os.path, "exists", lambda path: str(path) in DRIVER)
    said = json.loads(here.told(spec)["--engine-options"])
    assert said["read_only"] == [*DRIVER, "/opt/mine"]
    assert said["environment"]["LD_LIBRARY_PATH"].startswith("/usr/local/Ascend/driver/lib64:")


DRIVER = [
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64",
    "/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info",
    "/usr/local/Ascend/driver/tools/hccn_tool",
    "/usr/local/Ascend/ascend-toolkit",
]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "ours", "origin": "ours/ours"}, "the catalogue does not know ours"),
        ({"quantisation": "fp8 e4m3"}, "does not compute in fp8; it does in"),
    ],
)
def test_several_devices_without_a_recipe_or_a_word_on_parallelism_are_refused(
    site: Sites, changes: dict[str, str], why: str
) -> None:
    here = site("a2", replace(R1, size=300 * GIB, **changes))
    with pytest.raises(InvalidRequest, match=why) as refused:
        here.deployed(options=OWN)
    assert '["--tensor-parallel-size", "8"]' in refused.value.message
    said = {**OWN, "arguments": ["-tp", "8"]}
    argv = here.ran(here.deployed(options=said))["argv"]
    assert argv[-2:] == ["-tp", "8"]
    assert "--enable-expert-parallel" not in argv


def test_what_has_no_room_is_refused_when_it_is_deployed(site: Sites) -> None:
    here = site("a2", R1)
    with pytest.raises(InvalidRequest, match=r"DeepSeek-R1-0528 does not fit on .*: in w8a8, weights take"):
        here.deployed(options=OWN, devices=[f"npu:{number}" for number in range(8)])


def test_one_device_needs_no_recipe(site: Sites) -> None:
    here = site("a2", replace(QWEN, name="ours", origin="ours/ours", size=GIB))
    spec = here.deployed(options=OWN)
    assert spec.devices == ("npu:0",)
    assert "--tensor-parallel-size" not in here.ran(spec)["argv"]


def test_devices_that_a_usual_recipe_would_leave_idle_are_used(site: Sites) -> None:
    here = site("a2", QWEN)
    spec = here.deployed(options=OWN, devices=[f"npu:{number}" for number in range(8)])
    assert after(here.ran(spec)["argv"], "--tensor-parallel-size") == "8"
    halves = here.deployed(options=OWN, devices=[f"npu:{number}" for number in range(8)], replicas=2)
    assert after(here.ran(halves)["argv"], "--tensor-parallel-size") == "4"


def test_mindie_is_handed_its_config_with_the_slots_and_context_that_are_logged(site: Sites) -> None:
    here = site("a3", R1)
    ran = here.ran(here.deployed(engine="mindie", slots=24, context=12_000))
    assert ran["env"]["MIES_CONFIG_JSON_PATH"] == "/daulat/files/config.json"
    (file,) = [path for path, inside in ran["jail"].read_only if inside == "/daulat/files/config.json"]
    assert file.stat().st_mode & 0o777 == 0o640
    whole = json.loads(file.read_text())
    backend = whole["BackendConfig"]
    assert (whole["ServerConfig"]["port"], whole["ServerConfig"]["metricsPort"]) == (1025, 1027)
    assert backend["ScheduleConfig"]["maxBatchSize"] == ran["parameters"]["slots"] == 24
    assert backend["ModelDeployConfig"]["maxSeqLen"] == ran["parameters"]["context"] == 12_000
    (model,) = backend["ModelDeployConfig"]["ModelConfig"]
    assert (model["modelName"], model["modelWeightPath"], model["worldSize"]) == ("m", "/model", 16)
    assert backend["npuDeviceIds"] == [list(range(16))]


def test_mindie_without_a_recipe_is_refused(site: Sites) -> None:
    here = site("a3", replace(R1, name="ours", origin="ours/ours", size=GIB))
    with pytest.raises(InvalidRequest, match=r"config.json alone, .*: the catalogue does not know ours"):
        here.deployed(engine="mindie")


def test_sglang_has_room_for_the_slots_on_every_rank(site: Sites) -> None:
    here = site("8xh200", replace(R1, origin="deepseek-ai/DeepSeek-R1", quantisation="fp8 e4m3"))
    argv = here.ran(here.deployed(engine="sglang", options=OWN, slots=12))["argv"]
    assert (after(argv, "--tp-size"), after(argv, "--dp-size")) == ("8", "8")
    assert after(argv, "--max-running-requests") == "16"
    assert after(argv, "--host") == "127.0.0.1"


def test_what_spans_nodes_is_left_to_the_recipe_by_hand(site: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    here = site("a3", R1)
    spec = replace(here.deployed(options=OWN), devices=tuple(f"npu:{number}" for number in range(32)))
    with pytest.raises(InvalidRequest, match="`daulat model recipe deepseek-r1"):
        here.told(spec)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_a_deployment_on_the_cpu_is_as_it_was(tmp_path: Path, engine: str) -> None:
    here = Site(tmp_path, QWEN)
    said = {"python": "/opt/python", "arguments": ["--max-model-len", "512"], "device": {"product": "910B3"}}
    told = here.told(Spec("a" * 64, engine=engine, options=said))
    found = json.loads(told["--engine-options"])
    assert {**found, "arguments": found["arguments"][-2:]} == said
    assert "--files" not in told
    assert "--tensor-parallel-size" not in found["arguments"]


def test_new_devices_are_looked_at_anew_and_what_is_not_changed_stays(site: Sites) -> None:
    here = site("a2", QWEN)
    spec = here.deployed(options=OWN, devices=["npu:0", "npu:1"])
    asyncio.run(here.fleet.deploying.wish("m", spec))
    assert here.deployed(replicas=2) == replace(spec, replicas=2)
    install(here.folder / "machine", "a3")
    assert here.deployed(devices=["npu:4", "npu:5"]).options["device"]["product"] == "Ascend 910"

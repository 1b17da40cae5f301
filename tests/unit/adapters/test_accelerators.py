"""Discovery on machines that are not there: the real code runs tools through PATH and calls libraries of ours."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.__main__ import install

from daulat.adapters.accelerators import cpu, dcmi, discovery
from daulat.adapters.accelerators.tools import Tools
from daulat.core.accelerator import MIB, Health
from daulat.fleet.inventory import Inventory

HERE = Path(__file__).parent


def look(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, *faults: str, deep: bool = False) -> Inventory:
    monkeypatch.setenv("PATH", f"{install(folder, kind, faults)}:{os.environ['PATH']}")
    return discovery.discover(root=folder, deep=deep)


def test_an_a3_node_has_sixteen_dies_that_are_joined_in_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = look(monkeypatch, tmp_path, "a3")
    npus = [one for one in found.accelerators if one.vendor == "ascend"]
    assert [one.physical_id for one in npus] == list(range(16))
    assert {one.architecture for one in npus} == {"A3"}
    assert all(one.health.fit for one in npus)
    assert found.problems == ()
    assert [link.kind for link in npus[0].links] == ["SIO", *["HCCS_SW"] * 14]


def test_an_a2_node_is_asked_in_depth_and_its_files_tell_the_physical_ids(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = look(monkeypatch, tmp_path, "a2", "ecc:3", "link-down:5", "hot:6", "process-stuck:7", deep=True)
    npus = [one for one in found.accelerators if one.vendor == "ascend"]
    assert [one.physical_id for one in npus] == list(range(8))
    assert npus[0].port.address == "10.20.0.10"
    assert npus[0].serial == "10FAKE000000"
    assert npus[0].memory_temperature == 39
    assert (npus[3].ecc.double_bit, npus[3].health.state, npus[3].health.codes) == (3, "alarm", ("80E01801",))
    assert (npus[5].port.state, npus[5].port.link_ups) == ("down", 2)
    assert npus[6].health.state == "warning"
    assert [(user.pid, user.memory) for user in npus[7].processes] == [(31337, 57344 * MIB)]
    assert found.problems == ("NPU physical 5: its link is down", "NPU physical 5: net health is Receive timeout")


def test_faults_come_and_go_while_somebody_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lost = look(monkeypatch, tmp_path, "a3", "die-lost:5")
    (missing,) = [one for one in lost.accelerators if one.vendor == "ascend" and not one.health.fit]
    assert missing.physical_id == 5
    assert lost.problems == ("/dev/davinci5 is there, npu-smi lists no such NPU",)
    gone = look(monkeypatch, tmp_path, "a3", "driver-gone")
    assert any("the driver is not loaded" in words for words in gone.problems)
    assert all(not one.health.fit for one in gone.accelerators if one.vendor == "ascend"), "the files are still there"
    assert look(monkeypatch, tmp_path, "a3").problems == ()


def test_a_tool_that_hangs_is_given_up_and_not_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{install(tmp_path, 'a2', ('hang',))}:{os.environ['PATH']}")
    tools = Tools(seconds=0.3)
    found = discovery.discover(tools, root=tmp_path)
    assert list(tools.silent) == ["npu-smi"]
    assert "`npu-smi info` did not answer in 0.3 s" in found.problems
    assert tools.run("npu-smi", "info", "-m") is None


def test_a_tool_that_talks_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "npu-smi"
    tool.write_text("#!/bin/sh\nexec yes\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tools = Tools(seconds=20)
    assert tools.run("npu-smi", "info") is None
    assert tools.silent["npu-smi"].endswith("says more than 1 MiB")


def test_what_a_tool_says_wrongly_is_a_problem_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{install(tmp_path, 'a2')}:{os.environ['PATH']}")
    (tmp_path / "bin/npu-smi").write_text("#!/bin/sh\necho '| 0 | nonsense |'\n")
    found = discovery.discover(root=tmp_path)
    assert any(words.startswith("npu-smi info: line 2: ") for words in found.problems)
    assert any(one.vendor == "cpu" for one in found.accelerators)


def test_eight_h200(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = look(monkeypatch, tmp_path, "8xh200", "ecc:1", "hot:2", "process-stuck:3")
    gpus = [one for one in found.accelerators if one.vendor == "nvidia"]
    assert [one.health.state for one in gpus] == ["ok", "critical", "warning", *["ok"] * 5]
    assert {link.kind for link in gpus[0].links} == {"NV18"}
    assert gpus[3].processes[0].memory == 57344 * MIB
    gone = look(monkeypatch, tmp_path, "8xh200", "driver-gone")
    assert any("the NVIDIA driver is not loaded" in words for words in gone.problems)


def test_the_cpu_has_numa_nodes_instruction_sets_and_memory(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: Kunpeng-920\nFeatures\t: fp asimd asimddp sve i8mm bf16\n")
    for node, cpus in enumerate(("0-47", "48-95,97")):
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n")
        (folder / "meminfo").write_text(
            f"Node {node} MemTotal:       1000 kB\nNode {node} MemFree:        300 kB\nNode {node} FilePages: 200 kB\n"
        )
    first, second = cpu.read(tmp_path).accelerators
    assert first.product == "Kunpeng-920"
    assert first.features == ("asimd", "asimddp", "bf16", "i8mm", "sve")
    assert (first.cores, second.cores, second.cpu_affinity) == (48, 49, "48-95,97")
    assert (second.numa_node, second.memory_total, second.memory_used) == (1, 1000 * 1024, 500 * 1024)


@pytest.mark.parametrize("kind", ["a2", "a3"])
def test_a_look_between_finds_double_bit_errors_beside_a_health_that_says_ok(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    found = look(monkeypatch, tmp_path, kind, "ecc-quiet:3", "pages:5")
    npus = [one for one in found.accelerators if one.vendor == "ascend"]
    assert {one.physical_id: one.health.state for one in npus if not one.health.fit} == {3: "alarm"}
    assert npus[5].health.reasons == ("2 pages of the memory are isolated for double bit errors",)
    assert found.problems == ()


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`libdcmi.so` and `libnvidia-ml.so.1` with the vendors' interfaces, of one device each."""
    folder = tmp_path_factory.mktemp("libraries")
    for source, name in (("fake_dcmi.c", "libdcmi.so"), ("fake_nvml.c", "libnvidia-ml.so.1")):
        subprocess.run(["cc", "-shared", "-fPIC", "-O0", "-o", folder / name, HERE / source], check=True)
    return folder


needs_cc = pytest.mark.skipif(
    not any(Path(p, "cc").exists() for p in os.environ["PATH"].split(":")), reason="no cc here"
)


@needs_cc
def test_dcmi_tells_everything_by_ctypes(libraries: Path) -> None:
    reading = dcmi.read(ctypes.CDLL(str(libraries / "libdcmi.so")))
    assert reading is not None
    first, second = reading.accelerators
    assert [(one.card, one.die, one.logical_id, one.physical_id) for one in (first, second)] == [
        (3, 0, 6, 6),
        (3, 1, 7, 7),
    ]
    assert (first.product, first.architecture, first.cores) == ("Ascend 910_9392", "A3", 24)
    assert (first.pci, first.unique_id) == ("0000:9d:00.0", "00000001 00000002 00000003 00000004 DEADBEEF")
    assert (first.memory_kind, first.memory_total, first.memory_used) == ("HBM", 65536 * MIB, 3402 * MIB)
    assert (first.power, first.temperature, first.memory_temperature) == (172.5, 41, 45)
    assert (first.utilisation.core, first.utilisation.vector, first.utilisation.overall) == (12, 3, 17)
    assert first.health == Health("ok")
    assert (first.frequency, first.voltage, second.voltage, first.ecc.enabled) == (1800, 0.81, None, True)
    assert (second.health.state, second.health.codes) == ("alarm", ("80E01801",))
    assert (second.ecc.double_bit, second.ecc.total_single_bit) == (3, 14)
    assert second.power is None, "the function fails for it"
    assert [(user.pid, user.memory) for user in first.processes] == [(4711, 1 << 30)]
    assert first.port.health == "Success"


@needs_cc
@pytest.mark.parametrize("memory", ["HBM", "DDR"])
def test_dcmis_count_of_double_bit_errors_is_an_alarm_whatever_its_health_says(
    libraries: Path, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    monkeypatch.setenv("FAKE_DCMI_QUIET", "1")
    if memory == "DDR":
        monkeypatch.setenv("FAKE_DCMI_DDR", "1")
    reading = dcmi.read(ctypes.CDLL(str(libraries / "libdcmi.so")))
    assert reading is not None
    first, second = reading.accelerators
    assert (first.health, second.health.state) == (Health("ok"), "alarm")
    assert second.health.reasons == ("3 double bit errors of the memory",)


@needs_cc
@pytest.mark.parametrize(("said", "watts"), [("165", 16.5), (str(0x7FFD), None), (str(0x7FFF), None), ("-1", None)])
def test_a_chip_without_a_sensor_has_its_boards_power(
    libraries: Path, monkeypatch: pytest.MonkeyPatch, said: str, watts: float | None
) -> None:
    monkeypatch.setenv("FAKE_DCMI_BOARD", said)
    reading = dcmi.read(ctypes.CDLL(str(libraries / "libdcmi.so")))
    assert reading is not None
    assert [one.power for one in reading.accelerators] == [watts]


@needs_cc
def test_dcmi_that_cannot_begin_is_a_problem(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DCMI_INIT", "-8005")
    reading = dcmi.read(ctypes.CDLL(str(libraries / "libdcmi.so")))
    assert reading is not None
    assert reading.problems == ("dcmi_init failed, ret is -8005",)


@needs_cc
def test_nvml_tells_of_gpus_and_their_mig_devices(libraries: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "daulat", "accelerators", "--json"],
        env={"PATH": "/nonexistent", "LD_LIBRARY_PATH": str(libraries), "FAKE_DCMI_INIT": "-8005"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(said.stdout)
    assert said.returncode == 1, "DCMI, which is beside it, cannot begin"
    assert [words[:28] for words in found["problems"]] == ["dcmi_init failed, ret is -80"]
    whole, first, second = [one for one in found["accelerators"] if one["vendor"] == "nvidia"]
    assert (whole["product"], whole["pci"], whole["architecture"]) == ("NVIDIA H100", "0000:4f:00.0", "Hopper")
    assert (whole["memory_total"], whole["power"], whole["temperature"]) == (80 << 30, 99.31, 33)
    assert whole["health"]["state"] == "ok"
    assert whole["serial"] is None, "NVML does not support it here"
    assert whole["processes"] == [{"pid": 4711, "name": None, "memory": 1 << 30}], "an older driver has `_v2` only"
    assert [(one["partition"], one["parent"], one["features"]) for one in (first, second)] == [
        ("MIG 0", "GPU-whole", ["GI 1", "CI 0"]),
        ("MIG 1", "GPU-whole", ["GI 2", "CI 0"]),
    ]
    assert first["memory_total"] == 40 << 30

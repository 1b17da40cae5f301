"""`daulat accelerators`: a machine is shown, saved outputs are explained, what is wrong decides the exit code."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.fakes import ascend_tools, machine
from tests.fakes.__main__ import install
from tests.support.verbs import Shell


def test_a_machine_is_shown_and_the_exit_code_is_1_when_something_is_wrong(
    run: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{install(tmp_path, '8xh200', ('ecc:1',))}:{os.environ['PATH']}")
    said = run("accelerators")
    assert said.code == 1
    assert "CRIT" in said.out
    assert "GPU 1: 3 uncorrectable errors of the memory" in said.out
    install(tmp_path, "8xh200")
    said = run("accelerators", "--json")
    assert said.code == 0
    assert said.value["topology"]["GPU0"]["GPU7"] == "NV18"


def test_saved_outputs_are_explained_together(run: Shell, tmp_path: Path) -> None:
    a3 = machine.describe("a3", ("process-stuck:9", "hot:3"))
    (tmp_path / "info.txt").write_text(ascend_tools.info(a3))
    (tmp_path / "topo.txt").write_text(ascend_tools.topo(a3))
    said = run("accelerators", "explain", str(tmp_path / "info.txt"), str(tmp_path / "topo.txt"), "--json")
    assert said.code == 0
    assert [(one["tool"], one["what"], one["line"]) for one in said.value["readings"]] == [
        ("npu-smi", "info", 1),
        ("npu-smi", "topo", 1),
    ]
    dies = said.value["accelerators"]
    assert len(dies) == 16
    assert dies[9]["links"][8] == {"peer": "Phy-ID8", "kind": "SIO"}
    assert dies[9]["processes"] == [{"pid": 31337, "name": None, "memory": 57344 * 2**20}]
    assert (dies[1]["power"], dies[3]["health"]["state"]) == (None, "warning")
    text = run("accelerators", "explain", str(tmp_path / "info.txt")).out
    assert "NPU 4 die 1: used by process 31337, 56.0 GiB" in text


def test_standard_input_is_read(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"davinci0\ndavinci11\n")))
    assert [one["physical_id"] for one in run("accelerators", "explain", "-", "--json").value["accelerators"]] == [
        0,
        11,
    ]


def test_metrics_are_printed_once_for_machines_without_a_service(
    run: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{install(tmp_path, 'a2', ('hot:0',))}:{path}")
    said = run("accelerators", "metrics")
    assert said.code == 0
    assert "\nmachine_npu_nums 8\n" in said.out
    assert "\nmachine_unhealthy_npu_nums 1\n" in said.out
    monkeypatch.setenv("PATH", path)
    assert run("accelerators", "metrics").code == 1


def test_what_is_malformed_names_file_line_and_words(run: Shell, tmp_path: Path) -> None:
    path = tmp_path / "info.txt"
    path.write_text("NPU ID : 0\nHBM Capacity(MB) : 6553G\n")
    said = run("accelerators", "explain", str(path))
    assert said.code == 1
    assert f"{path}, line 2: '6553G' is not a whole number: 'HBM Capacity(MB) : 6553G'" in said.err
    assert run("accelerators", "explain", str(tmp_path / "none.txt")).code == 1

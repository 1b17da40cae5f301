"""`daulat doctor`: every check can fail, says what to do then, and does not stop the others."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support import gguf_files
from tests.support.verbs import FakeControl, Shell

from daulat.adapters import model_import, sandbox
from daulat.adapters.models import ModelStore
from daulat.adapters.sandbox import SandboxReport
from daulat.catalog import charters
from daulat.cli import doctor as module

GOOD = SandboxReport("G2", "bubblewrap works")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, run: Shell) -> None:
    """A machine on which all is well, whatever this one is like."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DAULAT_PORT", str(probe.getsockname()[1]))
    monkeypatch.setattr(sandbox, "check", lambda: GOOD)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    monkeypatch.setattr(module, "_fsync_seconds", lambda _: 0.0002)
    monkeypatch.setattr(module, "_synchronised", lambda: True)
    monkeypatch.setattr(module, "_MEMORY_WEAK", 0)


def checks(run: Shell, name: str) -> list[dict[str, Any]]:
    said = run("doctor", "--json")
    assert set(said.value) == {"grade", "good", "checks"}
    assert said.value["good"] == (said.code == 0)
    assert {check["name"] for check in said.value["checks"]} == set(module._LOOKS), (
        "no check keeps another from looking"
    )
    return [check for check in said.value["checks"] if check["name"] == name and check["verdict"] != "good"]


def test_a_good_machine_is_graded_and_exits_with_0(run: Shell) -> None:
    said = run("doctor")
    assert said.code == 0
    assert "This machine can reach grade G2 by itself." in said.out
    assert "BAD" not in said.out
    assert "weak" not in said.out


def test_without_a_sandbox_the_grade_is_g1(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sandbox, "check", lambda: SandboxReport("G1", "bwrap not found", "sudo apt-get install bubblewrap")
    )
    said = run("doctor")
    assert said.code == 1
    assert "BAD   sandbox   G1: bwrap not found\n      -> sudo apt-get install bubblewrap" in said.out
    assert "grade G1" in said.out
    assert checks(run, "sandbox")[0]["verdict"] == "bad"


def test_a_missing_engine_is_bad(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (found,) = checks(run, "python")
    assert "daulat[serve]" in found["advice"]


def test_a_port_that_another_has_is_bad(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("DAULAT_PORT", str(other.getsockname()[1]))
        (found,) = checks(run, "sockets")
    assert found["verdict"] == "bad"
    assert "--port N" in found["advice"]


def test_a_socket_of_a_dead_service_does_not_make_a_taken_port_good(
    run: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run.home.control_socket))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("DAULAT_PORT", str(other.getsockname()[1]))
        assert checks(run, "sockets")


def test_a_running_installation_has_its_port_rightly(run: Shell, control: FakeControl) -> None:
    control.status = {"url": "http://127.0.0.1:1"}
    assert checks(run, "sockets") == []


@pytest.mark.parametrize(("free", "verdict"), [(2**30, "weak"), (2**20, "bad")])
def test_a_full_disk(run: Shell, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    (found,) = checks(run, "disk")
    assert (found["verdict"], "make room" in found["advice"]) == (verdict, True)


def test_a_slow_disk_is_weak_and_a_fast_one_is_measured(
    run: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_fsync_seconds", lambda _: 0.5)
    (found,) = checks(run, "disk")
    assert (found["verdict"], "500.00 ms" in found["seen"]) == ("weak", True)
    monkeypatch.undo()
    assert 0 <= module._fsync_seconds(tmp_path) < 10
    assert list(tmp_path.glob(".daulat-doctor*")) == []


def test_a_folder_that_may_not_be_written_is_bad(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    (found,) = checks(run, "disk")
    assert "not writable" in found["seen"]


def test_a_clock_that_nobody_keeps_is_weak_and_a_wrong_one_bad(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_synchronised", lambda: False)
    assert checks(run, "time")[0]["verdict"] == "weak"
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    assert checks(run, "time")[0]["verdict"] == "bad"


def test_the_kernel_is_asked_who_keeps_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert module._synchronised() in {True, False}


def test_little_memory_is_weak(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY_WEAK", 2**60)
    assert checks(run, "memory")[0]["verdict"] == "weak"


def test_a_starter_charter_is_weak_and_a_broken_one_bad(run: Shell) -> None:
    run.home.charter.write_text(charters.starter())
    assert checks(run, "charter")[0]["verdict"] == "weak"
    run.home.charter.write_text("profile = 1")
    (found,) = checks(run, "charter")
    assert found["verdict"] == "bad"
    assert str(run.home.charter) in found["seen"]


def test_wrong_settings_are_bad_and_the_other_checks_go_on(run: Shell) -> None:
    run.home.settings.write_text("prot = 1")
    (found,) = checks(run, "charter")
    assert "did you mean 'port'" in found["seen"]


def test_a_model_may_be_a_file_or_a_name_and_is_bad_when_it_is_neither(run: Shell, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf_files.make(gguf_files.KEYS))
    name = model_import.add(ModelStore(run.home.models), path).name
    for good in (path, name):
        run.home.settings.write_text(f'model = "{good}"')
        assert checks(run, "model") == []
    run.home.settings.write_text('model = "nothing"')
    (found,) = checks(run, "model")
    assert found["verdict"] == "bad"
    assert name in found["seen"]


@pytest.mark.parametrize(
    ("ready", "enough", "progress", "verdict"),
    [
        (2, "True", "True", "good"),
        (2, "True", "False", "weak"),
        (1, "False", "True", "weak"),
        (0, "False", "True", "bad"),
    ],
)
def test_a_running_installations_deployments_are_looked_at(
    run: Shell, control: FakeControl, ready: int, enough: str, progress: str, verdict: str
) -> None:
    said = [{"status": enough, "message": f"{ready} of 2 replicas answer"}, {"status": progress, "message": "given up"}]
    found = {"name": "tiny", "admitted": 9, "spec": {"replicas": 2}}
    control.status = {
        "url": "http://127.0.0.1:1",
        "deployments": [{**found, "status": {"ready_replicas": ready, "conditions": said}}],
    }
    (check,) = [check for check in run("doctor", "--json").value["checks"] if check["name"] == "replicas"]
    assert check["verdict"] == verdict
    assert f"{ready} of 2 replicas answer" in check["seen"]
    assert ("given up" in check["seen"]) == (progress == "False")
    assert bool(check["advice"]) == (verdict != "good")


def test_operators_whose_time_ends_are_a_warning(run: Shell, control: FakeControl) -> None:
    words = "from 2027-01-01 on fewer than 3 operators may sign"
    control.status = {"url": "http://127.0.0.1:1", "deployments": [], "warnings": [words]}
    (found,) = checks(run, "operators")
    assert (found["verdict"], found["seen"]) == ("weak", words)
    assert "renew them" in found["advice"]

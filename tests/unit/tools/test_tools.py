"""The scripts behind `make` on a machine that lacks something: what they run, and what they say when they may not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NEEDED = ("sh", "dirname", "grep", "cat", "env")


class Machine:
    """A PATH with nothing on it but a shell's needs and the stand-ins that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.calls = folder / "bin", folder / "calls"
        self.bin.mkdir()
        self.calls.touch()
        for name in NEEDED:
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)

    def put(self, name: str, body: str = "exit 0") -> Path:
        """A program that notes its call and does `body`."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls}\n{body}\n')
        path.chmod(0o755)
        return path

    def run(self, tool: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "tools" / tool), *arguments]
        environment = {"PATH": str(self.bin), **environment}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_there_is_left_alone(machine: Machine) -> None:
    machine.put("bwrap")
    assert machine.run("bubblewrap").returncode == 0
    machine.put("dpkg-query", "echo install ok installed")
    machine.put("apt-get", "exit 9")
    assert machine.run("debian-packages", "gcc").returncode == 0
    assert not any(call.startswith("apt-get") for call in machine.called())


def test_root_installs_what_is_missing_and_nothing_else(machine: Machine) -> None:
    machine.put("dpkg-query", '[ "$3" = gcc ] && echo install ok installed || exit 1')
    machine.put("apt-get")
    machine.put("id", "echo 0")
    done = machine.run("debian-packages", "gcc", "wrk", "nginx-light")
    assert done.returncode == 0
    assert done.stdout == "Installing wrk nginx-light ...\n"
    assert "apt-get install -y -qq --no-install-recommends wrk nginx-light" in machine.called()


def test_old_package_lists_do_not_stop_it_and_a_failed_install_says_what_to_try(machine: Machine) -> None:
    machine.put("dpkg-query", "exit 1")
    machine.put("id", "echo 0")
    machine.put("apt-get", '[ "$1" = install ]')
    done = machine.run("bubblewrap")
    assert done.returncode == 0
    assert "trying with the lists at hand" in done.stderr
    machine.put("apt-get", 'echo "E: no space" >&2; exit 100')
    done = machine.run("bubblewrap")
    assert done.returncode == 1
    assert "E: no space" in done.stderr
    assert done.stderr.endswith("Try:  apt-get install -y --no-install-recommends bubblewrap\n")


def test_an_ordinary_user_is_told_the_exact_command(machine: Machine) -> None:
    machine.put("apt-get")
    machine.put("id", "echo 1000")
    for sudo in ("", "exit 1"):
        if sudo:
            machine.put("sudo", sudo)
        done = machine.run("bubblewrap")
        assert (done.returncode, done.stdout) == (1, "")
        said = "Missing: bubblewrap. Install with:  sudo apt-get install -y --no-install-recommends bubblewrap\n"
        assert done.stderr == said
    assert not any(call.startswith("apt-get") for call in machine.called())


def test_a_user_who_may_use_sudo_does(machine: Machine) -> None:
    machine.put("apt-get")
    machine.put("id", "echo 1000")
    machine.put("sudo", 'shift; "$@"')
    assert machine.run("bubblewrap").returncode == 0
    assert "sudo -n apt-get install -y -qq --no-install-recommends bubblewrap" in machine.called()


def test_where_there_is_no_apt_get_it_says_so(machine: Machine) -> None:
    done = machine.run("bubblewrap")
    assert done.returncode == 1
    assert "Missing: bubblewrap (Debian's names). There is no apt-get here" in done.stderr


@pytest.mark.parametrize("body", ["", "exit 1"], ids=["missing", "too old"])
def test_a_python_that_does_not_do_is_named_and_so_is_the_way_out(machine: Machine, tmp_path: Path, body: str) -> None:
    python = machine.bin / "python3"
    if body:
        machine.put("python3", '[ "$1" = --version ] && echo Python 3.9.2 && exit 0; exit 1')
    done = machine.run("virtual-environment", str(tmp_path / "venv"), PYTHON=str(python))
    assert done.returncode == 1
    found = "Python 3.9.2" if body else "not there, or cannot be run"
    assert done.stderr.splitlines() == [
        f"Daulat needs Python 3.11 or newer; '{python}' is {found}.",
        "Name another one:  make up PYTHON=/usr/bin/python3.12",
    ]
    assert not (tmp_path / "venv").exists()


def test_a_python_without_venv_gets_debians_package(machine: Machine, tmp_path: Path) -> None:
    machine.put("python3", 'case "$*" in *ensurepip*) exit 1;; esac; exit 0')
    done = machine.run("virtual-environment", str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "python3-venv" in done.stderr


def test_half_an_environment_is_removed_and_what_was_there_before_is_not(machine: Machine, tmp_path: Path) -> None:
    for name in ("rm", "mkdir"):
        (machine.bin / name).symlink_to(str(shutil.which(name)))
    half = 'case "$*" in "-m venv"*) mkdir -p "$3/bin"; exit 1;; esac; exit 0'
    machine.put("python3", half)
    for existed in (False, True):
        folder = tmp_path / f"venv-{existed}"
        if existed:
            folder.mkdir()
        assert machine.run("virtual-environment", str(folder)).returncode == 1
        assert folder.exists() == existed


def test_an_environment_is_made(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [ROOT / "tools/virtual-environment", tmp_path / "venv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
    assert "Creating the virtual environment" in done.stdout
    assert (tmp_path / "venv/bin/python").exists()


def make(*arguments: str) -> str:
    """What a `make` prints that knows nothing of one around it."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    return subprocess.run(
        ["make", *arguments], capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=60
    ).stdout


def test_make_passes_arguments_through_and_needs_nothing_twice(tmp_path: Path) -> None:
    """With everything installed, `make up` is `daulat up` with ARGS, and prints nothing of its own."""
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    for name, body in (("python", "exit 1"), ("daulat", 'echo "daulat $*"')):
        (environment / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (environment / "bin" / name).chmod(0o755)
    (environment / "serve.stamp").touch()
    arguments = ["--json", "--home", "/srv/a folder", "--port", "9000"]
    quoted = " ".join(f"'{item}'" for item in arguments)
    assert make("up", f"VENV={environment}", f"ARGS={quoted}") == f"daulat up {' '.join(arguments)}\n"


def test_make_help_lists_the_two_commands_first() -> None:
    lines = make("help").splitlines()
    assert lines[0].startswith("  make up ")
    assert lines[1].startswith("  make test ")


def test_ci_runs_the_tests_the_checks_and_the_slow_lanes_in_that_order() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    lanes = [line.split()[1] for line in lines if line.startswith("lane ")]
    assert lanes == ["test", "check", "test-slow", "test-fault", "test-deepseek", "test-vllm"]
    assert os.access(ROOT / ".ci/run", os.X_OK)

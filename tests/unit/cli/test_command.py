"""The command as a whole: every verb of the issue, help that costs nothing, errors that say what to do, exit codes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.verbs import SERVING_ONLY, Shell, base_install

from daulat.cli import VERBS

PROMISED = {"up", "status", "doctor", "key", "person", "tenant", "policy", "log", "receipt", "verify", "audit", "bench"}


def test_every_promised_verb_exists() -> None:
    assert set(VERBS) >= PROMISED


def test_verbs_of_the_base_install_need_nothing_of_the_serving_install(tmp_path: Path) -> None:
    for verb in ("verify", "audit", "receipt", "bench", "status", "doctor", "key", "person", "tenant", "auditor"):
        done = base_install(verb, "--help")
        assert (done.returncode, done.stderr) == (0, ""), verb
        assert "Usage: daulat" in done.stdout
    assert base_install("--help").returncode == 0
    status = base_install("status", "--home", str(tmp_path))
    assert "no service answers" in status.stderr


def test_doctor_of_the_base_install_says_what_is_missing(tmp_path: Path) -> None:
    done = base_install("doctor", "--json", "--home", str(tmp_path))
    checks = json.loads(done.stdout)["checks"]
    assert any(check["name"] == "python" and "daulat[serve]" in check["advice"] for check in checks)


def test_a_serving_verb_in_the_base_install_names_the_install_it_needs(tmp_path: Path) -> None:
    done = base_install("up", "--home", str(tmp_path))
    assert done.returncode == 1
    assert "pip install 'daulat[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_loads_no_package_that_it_does_not_use() -> None:
    program = (
        "import sys; sys.argv = ['daulat', 'verify', '--help']\n"
        "from daulat.cli import main\n"
        "try: main()\n"
        f"finally: print('LOADED', sorted(set({SERVING_ONLY!r}) & set(sys.modules)))"
    )
    before = _spent()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "LOADED []" in done.stdout
    assert "daulat verify receipt.json --vkey log.vkey" in done.stdout
    assert _spent() - before < 5, "help is at hand at once"


def _spent() -> float:
    """Processor seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_unknown_verbs_and_options_are_wrong_usage(run: Shell) -> None:
    assert run("fly").code == 2
    assert run("status", "--fly").code == 2
    assert run("verify").code == 2
    assert "No such command" in run("fly").err


def test_an_error_of_ours_is_one_line_or_one_json_line_and_exit_code_1(run: Shell) -> None:
    plain = run("status")
    assert (plain.code, plain.out) == (1, "")
    assert plain.err.startswith(f"daulat: no service answers in {run.home.path}")
    assert plain.err.count("\n") == 1
    assert "daulat up" in plain.err
    asked = run("status", "--json")
    assert (asked.code, asked.out) == (1, "")
    assert asked.value == {"error": {"code": "unavailable", "message": plain.err.removeprefix("daulat: ").strip()}}


def test_an_error_of_the_machine_is_one_line_too(run: Shell, tmp_path: Path) -> None:
    run.home.log.rmdir()
    run.home.log.write_text("a file where a folder belongs")
    said = run("log", "show")
    assert said.code == 1
    assert said.err == f"daulat: {run.home.log}/current: Not a directory\n"
    assert run("log", "show", "--json").value["error"]["code"] == "machine_error"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_in_the_overview_with_a_sentence(run: Shell, verb: str) -> None:
    overview = run("--help")
    assert overview.code == 0
    assert any(line.split()[:1] == [verb] and line.endswith(".") for line in overview.out.splitlines())

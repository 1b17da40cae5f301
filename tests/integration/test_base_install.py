"""`daulat verify` and `daulat audit` with the base install alone: whatever else is here cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.support import logs
from tests.support.log_server import TOKEN, serve
from tests.support.logs import REQUEST, RESPONSE, SIGNER

# A verifier is started for one receipt, and importing is most of what that costs. Measured: 0.1 s of CPU, 203 modules.
BUDGET_SECONDS = 1.5
MAX_MODULES = 300

CHILD = """
import json, resource, sys

allowed = set(json.loads(sys.argv.pop(1))) | sys.stdlib_module_names

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from daulat.cli import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([used.ru_utime + used.ru_stime, sorted(sys.modules)]), file=sys.stderr)
"""


def base_install() -> set[str]:
    """The top-level modules of Daulat, of what it requires without extras, and of what that requires."""
    wanted, seen = ["daulat"], set[str]()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name.lower())
    modules = {
        module
        for module, distributions in metadata.packages_distributions().items()
        if seen & {distribution.lower() for distribution in distributions}
    }
    return modules | {"daulat"}


def daulat(*arguments: object) -> tuple[int, str, str, float, set[str]]:
    command = [sys.executable, "-c", CHILD, json.dumps(sorted(base_install())), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    *errors, last = done.stderr.splitlines() or [""]
    assert last.startswith("["), done.stderr
    seconds, modules = json.loads(last)
    return done.returncode, done.stdout, "\n".join(errors), seconds, set(modules)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "receipt.json").write_text(json.dumps(logs.write().receipt("answer")))
    (tmp_path / "request").write_bytes(REQUEST)
    (tmp_path / "response").write_bytes(RESPONSE)
    (tmp_path / "vkey").write_text(SIGNER.vkey)
    (tmp_path / "token").write_text(TOKEN)
    return tmp_path


def test_the_base_install_is_what_the_documents_say() -> None:
    found = base_install()
    assert {"click", "cryptography", "httpx", "daulat"} <= found
    assert not found & {"msgspec", "cedarpy", "uvloop", "httptools", "starlette", "sqlalchemy", "gguf", "xllamacpp"}


def test_a_receipt_verifies_and_says_that_decisions_were_not_run_again(files: Path) -> None:
    bodies = ["--request", files / "request", "--response", files / "response"]
    code, out, err, seconds, modules = daulat("verify", files / "receipt.json", "--vkey", files / "vkey", *bodies)
    assert (code, err) == (0, "")
    assert "byte for byte" in out
    assert "that the policy decides as the entry says: install daulat[serve]" in out
    assert seconds < BUDGET_SECONDS
    assert len(modules) < MAX_MODULES
    assert not modules & {"httpx", "asyncio", "daulat.bootstrap", "daulat.pipeline"}, "verify needs no network"


def test_a_lie_is_caught_without_cedar(files: Path) -> None:
    (files / "receipt.json").write_text(json.dumps(logs.write({"answer": {"admission.lease": None}}).receipt("answer")))
    code, out, err, *_ = daulat("verify", files / "receipt.json", "--vkey", files / "vkey", "--json")
    assert (code, out) == (1, "")
    assert "step 6 (chain)" in json.loads(err)["error"]["message"]


def test_a_log_is_audited(files: Path) -> None:
    with serve({"2026": logs.write()}) as url:
        arguments = ["audit", url, "--vkey", files / "vkey", "--token-file", files / "token"]
        code, out, _, _, modules = daulat(*arguments)
        assert code == 0
        assert "Decisions were not run again: install daulat[serve] for that." in out
        assert not modules & {"daulat.bootstrap", "daulat.pipeline", "daulat.gateway"}
        machine = daulat(*arguments, "--json")
    assert json.loads(machine[1])["logs"][0]["decisions_rerun"] is None


def test_other_verbs_say_what_is_missing(files: Path) -> None:
    code, _, err, *_ = daulat("up", "--home", files / "home")
    assert code == 1
    assert "pip install 'daulat[serve]'" in err

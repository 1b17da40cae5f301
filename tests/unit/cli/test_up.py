"""`daulat up` before and around the service: what must be in order, what is printed, how it ends.

The service itself is started in `tests/integration`; here the control plane is a stand-in.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import gguf_files, logs
from tests.support.verbs import Shell, publish, write_file

from daulat.adapters import model_import
from daulat.adapters.models import ModelStore
from daulat.catalog import charters
from daulat.cli import up as module
from daulat.errors import DaulatError, Unavailable
from daulat.processes.lock import lock
from daulat.processes.plan import Plan
from daulat.settings import Home

SECRETS = {"api_key": "sk-the-first", "auditor_token": "at-the-first"}


class StandIn:
    """`Control`, which starts nothing. Class attributes say how it goes."""

    secrets: dict[str, str] | None = SECRETS
    failure = ""
    fails: DaulatError | None = None
    vkey = "ai.example/2026+00000000+AAAA"
    profile = "evaluation"
    stopped = 0

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """At once."""

    async def wait_engine(self, progress: Callable[[float], None]) -> None:
        progress(0.5)
        if self.fails is not None:
            raise self.fails
        progress(1.0)
        self.ended.set()  # as Ctrl-C would

    async def stop(self) -> None:
        type(self).stopped += 1


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch, home: Home, tmp_path: Path) -> type[StandIn]:
    """A stand-in of this test's own, a free port, and a tiny model."""

    class Own(StandIn):
        """Whose attributes a test may change."""

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = tmp_path / "small.gguf"
    model.write_bytes(gguf_files.make(gguf_files.KEYS))
    home.settings.write_text(f'port = {port}\nmodel = "{model}"\n')
    monkeypatch.setattr(module, "Control", Own)
    monkeypatch.setattr(module, "_log_to", lambda _: None)
    return Own


def test_the_first_start_says_all_that_is_needed_and_secrets_once(run: Shell, control: type[StandIn]) -> None:
    said = run("up")
    assert said.code == 0
    assert control.stopped == 1
    for words in (
        "sk-the-first   (shown once)",
        "at-the-first   (shown once)",
        "URL               http://127.0.0.1:",
        f"also in {run.home.vkey}: give it to every auditor",
        "Authorization: Bearer sk-the-first",
        'api_key="sk-the-first"',
        "export DAULAT_API_KEY=sk-the-first",
        "Ctrl-C stops everything.",
    ):
        assert words in said.out
    assert said.err.startswith(f"First start: wrote {run.home.charter}")
    assert "Nothing is left running." in said.err
    assert run.home.charter.read_text().startswith("#")


def test_a_later_start_says_where_a_key_comes_from(run: Shell, control: type[StandIn]) -> None:
    control.secrets = None
    said = run("up")
    assert "key create --person first-person" in said.out
    assert '-H "Authorization: Bearer $DAULAT_API_KEY"' in said.out
    assert 'api_key=os.environ["DAULAT_API_KEY"]' in said.out
    assert "sk-the-first" not in said.out


def test_what_is_printed_to_paste_is_valid_shell_and_python(run: Shell, control: type[StandIn]) -> None:
    for control.secrets in (SECRETS, None):
        printed = run("up").out
        curl = printed[printed.index("  curl") : printed.index("\n\n  ", printed.index("  curl"))]
        words = shlex.split(curl)
        assert words[:2] == ["curl", "-i"]
        assert json.loads(words[-1])["messages"][0]["content"] == module.QUESTION
        python = printed[printed.index("from openai") : printed.index("\n\nCheck it")]
        compile("\n".join(line.removeprefix("  ") for line in python.splitlines()), "pasted", "exec")
        commands = [line.strip() for line in printed.splitlines() if re.search(r"^  .*daulat (receipt|verify) ", line)]
        assert len(commands) == 2
        for command in commands:
            assert subprocess.run(["sh", "-n", "-c", command], check=False).returncode == 0
            assert run(*shlex.split(command.partition("daulat ")[2]), "--help").code == 0


def test_for_scripts_one_line_when_ready_and_nothing_else(run: Shell, control: type[StandIn]) -> None:
    first = run("up", "--json")
    assert (first.code, first.err) == (0, "")
    assert list(first.value) == ["url", "api_key", "auditor_token", "log_url", "log_vkey", "home"]
    assert first.value["api_key"] == "sk-the-first"
    assert first.value["log_url"] == f"{first.value['url']}/log"
    control.secrets = None
    later = run("up", "--json").value
    assert (later["api_key"], later["auditor_token"], later["home"]) == (None, None, str(run.home.path))


def test_a_first_start_that_fails_still_hands_out_what_it_made(run: Shell, control: type[StandIn]) -> None:
    control.fails = Unavailable("no lease is granted by place.lease.sandbox: too weak")
    said = run("up")
    assert (said.code, said.out, control.stopped) == (1, "", 1)
    assert "sk-the-first   (shown once)" in said.err
    assert said.err.endswith("daulat: no lease is granted by place.lease.sandbox: too weak\n")
    said = run("up", "--json")
    assert (said.code, said.out) == (1, "")
    made, why = map(json.loads, said.err.splitlines())
    assert made == {"secrets": SECRETS}
    assert why["error"] == {"code": "unavailable", "message": "no lease is granted by place.lease.sandbox: too weak"}
    control.secrets = None
    assert run("up", "--json").value["error"]["code"] == "unavailable", "and alone, where nothing was made"


def test_a_service_that_fails_later_says_why_and_exits_with_1(run: Shell, control: type[StandIn]) -> None:
    control.failure = "the sequencer could not start 3 times in a row"
    said = run("up")
    assert said.code == 1
    assert "Stopping: the sequencer could not start" in said.err
    said = run("up", "--json")
    assert (said.code, control.stopped) == (1, 2)
    assert json.loads(said.out)["api_key"] == "sk-the-first", "it was ready"
    assert json.loads(said.err)["error"] == {"code": "unavailable", "message": control.failure}


def test_a_model_file_is_imported_once_and_found_again_by_name(run: Shell, control: type[StandIn]) -> None:
    assert "storing the model" in run("up").err
    again = run("up")
    assert "storing the model" not in again.err
    assert "checking the model" in again.err
    (facts,) = ModelStore(run.home.models).all()
    assert run("up", "--model", facts.name).code == 0


def test_a_model_that_was_changed_in_the_store_is_not_served(run: Shell, control: type[StandIn]) -> None:
    run("up")
    (path,) = run.home.models.glob("*/model.gguf")
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    said = run("up", "--model", path.parent.name)
    assert (said.code, "import it again" in said.err) == (1, True)
    assert hashlib.sha256(data).hexdigest() == path.parent.name


def _taken(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    return ["--port", str(taken)]


def _held(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    lock(home)
    return []


def _no_bubblewrap(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return []


def _setting(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    home.settings.write_text("slot = 3\n")
    return []


def _variable(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    monkeypatch.setenv("DAULAT_SLOTS", "many")
    return []


def _charter(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    home.charter.write_text(charters.starter().replace("approvals = 0", 'approvals = "none"'))
    return []


def _rule(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    write_file(home.policies, "mine.cedar", "permit (")
    return []


def _no_charter(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    publish(home)
    return []


def _other_charter(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    publish(home)
    home.charter.write_text(charters.starter("another.example"))
    return []


def _not_ours(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    return []


def _a_file(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    return ["--home", str(home.settings / "x")]


def _no_model(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    return ["--model", "nothing/here.gguf"]


def _no_such_name(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    return ["--model", "gpt-9"]


def _no_gguf(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    return ["--model", str(write_file(home.path, "x.gguf", "PK\3\4"))]


def _port(home: Home, monkeypatch: pytest.MonkeyPatch, taken: int) -> list[str]:
    return ["--port", "70000"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_taken, ["cannot listen on 127.0.0.1:", "Address already in use", "daulat up --port N"]),
        (_held, ["is running already", "daulat status"]),
        (_no_bubblewrap, ["apt-get install -y --no-install-recommends bubblewrap"]),
        (_setting, ["settings.toml", "did you mean 'slots'?"]),
        (_variable, ["DAULAT_SLOTS", "'many'", "a whole number"]),
        (_charter, ["charter.toml", "approvals", "a whole number"]),
        (_rule, ["mine.cedar", "do not parse"]),
        (_no_charter, ["charter.toml", "put it back", "daulat log show 0"]),
        (_other_charter, ["'another.example'", f"'{logs.NAME}'", "put it back"]),
        (_not_ours, ["belongs to another user", "--home"]),
        (_a_file, ["cannot be made", "--home"]),
        (_no_model, ["nothing/here.gguf", "no such model file", "daulat model list"]),
        (_no_such_name, ["'gpt-9'", "daulat model list"]),
        (_no_gguf, ["x.gguf", "no GGUF file"]),
        (_port, ["--port", "from 1 to 65535"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_not_in_order_is_one_line_that_says_what_to_do(
    run: Shell, control: type[StandIn], monkeypatch: pytest.MonkeyPatch, spoil: Any, words: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = run("up", *spoil(run.home, monkeypatch, other.getsockname()[1]))
    assert (said.code, said.out, control.stopped) == (1, "", 0), "nothing was started"
    last = said.err.splitlines()[-1]
    assert last.startswith("daulat: ")
    assert [word for word in words if word not in last] == []
    assert "Traceback" not in said.err


def test_what_to_type_is_what_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = tmp_path / "daulat"
    command.touch()
    monkeypatch.setattr(sys, "argv", [str(command)])
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert module._program() == str(command)
    monkeypatch.setattr(shutil, "which", lambda _: str(command))
    assert module._program() == "daulat"
    monkeypatch.setattr(sys, "argv", ["/x/daulat/__main__.py"])
    assert module._program() == f"{sys.executable} -m daulat"


def test_a_model_out_of_another_installations_store_keeps_its_name(
    run: Shell, control: type[StandIn], tmp_path: Path
) -> None:
    run("up")
    (facts,) = ModelStore(run.home.models).all()
    other = ModelStore(tmp_path / "other")
    wishes = model_import.Wishes("called-by-hand", licence="mit")
    taken = model_import.add(other, ModelStore(run.home.models).path(facts.digest), wishes)
    shutil.rmtree(run.home.models / facts.digest)
    assert run("up", "--model", other.path(taken.digest)).code == 0
    assert [found.name for found in ModelStore(run.home.models).all()] == ["called-by-hand"]

"""`daulat up` with PostgreSQL as its control database, and what happens when that goes away."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import postgres
from tests.support.postgres import PASSWORD, Postgres
from tests.support.service import Service, contents, daulat

from daulat.adapters import sandbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
    pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing()),
]
QUESTION = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


@pytest.fixture(scope="module")
def service(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    server.ask("CREATE DATABASE daulat")
    environment = {
        "DAULAT_DATABASE": server.url("daulat", tcp=True),
        "PGPASSFILE": str(server.passfile()),
        "DAULAT_CANARY_SECONDS": "2",
        "DAULAT_CONTEXT": "512",
        "DAULAT_DEVICE_SECONDS": "1",
    }
    made = Service(tmp_path_factory.mktemp("postgresql") / "home", environment=environment)
    made.start("--slots", "2")
    with made.closing():
        yield made


def asked(service: Service, key: str = "") -> int:
    """The status of one answer, by the first key or another."""
    with service.client() as client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return client.post("chat/completions", json=QUESTION, headers=headers).status_code


def new_key(service: Service) -> str:
    """Empty while there is none to be had."""
    said = daulat("key", "create", "--person", "first-person", home=service.home, code=None)
    return str(said["api_key"]) if isinstance(said, dict) else ""


def test_it_answers_and_nothing_of_it_is_in_the_home(service: Service, server: Postgres) -> None:
    assert asked(service) == 200
    assert not (service.home / "control.db").exists()
    assert server.ask("SELECT count(*) FROM tenants", "daulat") == "2"
    assert server.ask("SELECT label FROM keys", "daulat") == "first-key"


def test_a_key_made_now_works_at_once_and_after_a_restart(service: Service) -> None:
    key = daulat("key", "create", "--person", "first-person", "--label", "second", home=service.home)["api_key"]
    assert asked(service, key) == 200
    assert service.stop() == 0
    first = service.facts["api_key"]
    service.start("--slots", "2")
    assert service.facts["api_key"] == first, "no second first key is made"
    assert asked(service, key) == 200
    daulat("key", "revoke", "second", home=service.home)
    assert asked(service, key) == 401


def test_answers_go_on_without_it_and_acts_do_after(service: Service, server: Postgres) -> None:
    leases = len(service.entries("node.lease/v1"))
    server.stop(signal.SIGQUIT)  # as if it had crashed
    try:
        assert asked(service) == 200
        said = daulat("key", "create", "--person", "first-person", home=service.home, code=1)
        assert '"unavailable"' in said
        assert "the control database cannot be read" in said
        assert PASSWORD not in said
        service.wait(lambda: "the control database cannot be read" in (service.home / "daulat.log").read_text())
        canaries = len(service.entries("canary/v1"))
        time.sleep(5)  # two canaries, whose reports are made again and again
        assert asked(service) == 200
        assert len(service.entries("canary/v1")) <= canaries + 1, "trying again fills no log"
    finally:
        server.start()
    assert asked(service, service.wait(lambda: new_key(service))) == 200
    seen = len(service.entries("canary/v1"))
    service.wait(lambda: len(service.entries("canary/v1")) > seen)
    assert len(service.entries("node.lease/v1")) >= leases
    service.wait(lambda: service.status()["not_serving_because"] == [])


def test_the_log_is_sound_and_no_password_is_anywhere(service: Service, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(service.facts["auditor_token"])
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(tmp_path / "token"))
    daulat("audit", service.facts["log_url"], *asked)
    assert daulat("log", "fsck", home=service.home)["sound"]
    for path, content in contents(service.home):
        if path.suffix != ".gguf" and "models" not in path.parts:
            assert PASSWORD.encode() not in content, path
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            assert PASSWORD.encode() not in line.read_bytes().replace(b"\0", b" ")


def test_nothing_is_left_running(service: Service) -> None:
    assert service.stop() == 0
    assert service.left_running() == []

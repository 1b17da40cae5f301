"""A backup of a service that answers, over its own home by consent, and elsewhere after the machine was lost."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import openai
import pytest
from openai import OpenAI
from tests.support.service import Service, daulat

from daulat.adapters import sandbox
from daulat.settings import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
MODEL = "smollm2-135m-instruct"
PERSON = ("person", "add", "other-person", "--citizenship", "MY", "--assurance", "substantial")


def client(service: Service, key: str = "api_key") -> OpenAI:
    return OpenAI(api_key=service.facts[key], base_url=f"http://127.0.0.1:{service.port}/v1", max_retries=0)


def opened(service: Service) -> None:
    service.wait(lambda: not (found := daulat("vault", "status", home=service.home))["reason"] and found["lease"])
    service.wait(Home(service.home).vault_beat.exists)


def kept(service: Service, content: bytes, key: str = "api_key") -> str:
    """Keep a file, once the worker has seen that it can be kept; its id."""

    def tried() -> Any:
        try:
            return client(service, key).files.create(file=content, purpose="user_data").id
        except openai.InternalServerError:
            return None

    return str(service.wait(tried))


def receipt(service: Service, request: str, key: str = "api_key") -> bytes | None:
    headers = {"authorization": f"Bearer {service.facts[key]}"}
    url = f"http://127.0.0.1:{service.port}/v1/receipts/{request}"
    answer = httpx.get(url, headers=headers, timeout=60, trust_env=False)
    return answer.content if answer.status_code == 200 else None


def audited(service: Service, folder: Path) -> None:
    """It holds, and continues what this auditor saw the last time."""
    (folder / "token").write_text(service.facts["auditor_token"])
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(folder / "token"))
    found = daulat("audit", service.facts["log_url"], *asked, "--state", str(folder / "state"))
    assert found["holds"], found


class Asking:
    """Asks one question after the other for as long as it is entered."""

    def __init__(self, service: Service) -> None:
        self._service, self._over = service, threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answered = 0
        self.failed: list[Exception] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        with self._service.client() as asks:
            while not self._over.is_set():
                answer = asks.post("completions", json={"model": MODEL, "prompt": "a", "max_tokens": 2})
                if answer.status_code != 200:
                    self.failed.append(AssertionError(answer.text))
                self.answered += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("backup")
    (made / "passphrase").write_text("a passphrase for tests alone\n")
    (made / "other").write_text("another passphrase for tests alone\n")
    return made


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    made = Service(folder / "home", environment={"DAULAT_CONTEXT": "512"})
    made.start("--slots", "1")
    with made.closing():
        daulat("tenant", "add", "other-agency", home=made.home)
        daulat(*PERSON, "--tenant", "other-agency", home=made.home)
        made.facts["other_key"] = daulat("key", "create", "--person", "other-person", home=made.home)["api_key"]
        opened(made)
        yield made


def test_a_backup_is_made_while_it_answers_and_sets_nothing_back_alone(service: Service, folder: Path) -> None:
    secret, other = ("--passphrase-file", str(folder / "passphrase")), ("--keys-passphrase-file", str(folder / "other"))
    mine, theirs = kept(service, b"mine"), kept(service, b"theirs", "other_key")
    service.facts["mine"] = mine
    answer = client(service).chat.completions.create(
        model=MODEL, max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
    )
    (folder / "receipt").write_bytes(service.wait(lambda: receipt(service, str(answer._request_id))))
    with Asking(service) as asking:
        service.wait(lambda: asking.answered)
        old = daulat("backup", str(folder / "old"), *secret, home=service.home)
        assert service.wait(lambda: asking.answered > 1)
    assert not asking.failed
    client(service).files.delete(mine)
    key = folder / "operator.key"
    daulat("operator", "key", str(key), "--name", "ali", *secret)
    daulat("operator", "first", str(key), home=service.home)
    signing = ("--key", str(key), *secret, "--yes")
    assert daulat("operate", "erase-person", "other-person", *signing, home=service.home)["state"] == "done"
    assert service.stop() == 0
    said = daulat("restore", str(folder / "old"), *secret, home=service.home, code=1)
    assert json.loads(said)["error"]["code"] == "not_agreed"
    service.start("--slots", "1")
    agreed = daulat("operate", "restore-backup", str(folder / "old"), *signing, home=service.home)
    assert (agreed["state"], agreed["result"]["digest"]) == ("done", old["digests"]["backup"])
    assert service.stop() == 0
    assert daulat("restore", str(folder / "old"), *secret, home=service.home)["standing"] == "behind"
    service.start("--slots", "1")
    opened(service)
    assert client(service).files.content(mine).content == b"mine"
    with pytest.raises(openai.AuthenticationError):  # whoever was erased stays erased
        client(service, "other_key").files.content(theirs)
    assert len(list((service.home / "vault" / "objects").iterdir())) == 1
    audited(service, folder)
    daulat("backup", str(folder / "new"), "--keys", str(folder / "keys"), *secret, *other, home=service.home)


def test_a_lost_machine_goes_on_elsewhere(service: Service, folder: Path) -> None:
    secret, other = ("--passphrase-file", str(folder / "passphrase")), ("--keys-passphrase-file", str(folder / "other"))
    assert service.stop() == 0
    elsewhere = Service(folder / "elsewhere" / "home", environment=service.environment, facts=dict(service.facts))
    elsewhere.home.mkdir(parents=True)
    shutil.copytree(service.home / "models", elsewhere.home / "models")
    keys = ("--keys", str(folder / "keys"))
    restored = daulat("restore", str(folder / "new"), *keys, *secret, *other, home=elsewhere.home)
    assert (restored["standing"], restored["problems"]) == ("empty", [])
    elsewhere.start("--slots", "1")
    with elsewhere.closing():
        opened(elsewhere)
        assert client(elsewhere).files.content(service.facts["mine"]).content == b"mine"
        with elsewhere.client() as asks:
            assert asks.post("completions", json={"model": MODEL, "prompt": "a", "max_tokens": 2}).status_code == 200
        audited(elsewhere, folder)  # the auditor finds the log that they know, going on
        (folder / "vkey").write_text(service.facts["log_vkey"])
        assert daulat("verify", str(folder / "receipt"), "--vkey", str(folder / "vkey"))
        assert elsewhere.stop() == 0
    assert daulat("log", "fsck", "--without-models", home=elsewhere.home)["sound"]

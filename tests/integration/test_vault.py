"""The vault of a whole service through the `openai` package: two tenants, rotation, a vault that dies, the audit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from tests.support.service import LONG_SECONDS, Service, contents, daulat

from daulat.adapters import sandbox
from daulat.adapters.vault_folder import Folder
from daulat.adapters.vault_keys import SqliteKeys
from daulat.adapters.vault_root import PassphraseRoot
from daulat.core.clock import SystemClock
from daulat.errors import VerificationFailed
from daulat.vault.keyring import Keyring

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine"),
]
MODEL = "smollm2-135m-instruct"
MARK = "Kementerian-Rahsia-7431"  # stands in everything that is kept, and may stand nowhere on the disk


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("vault") / "home", environment={"DAULAT_CONTEXT": "512"})
    made.start("--slots", "1")
    with made.closing():
        daulat("tenant", "add", "other-agency", home=made.home)
        daulat(
            *("person", "add", "other-person", "--tenant", "other-agency", "--citizenship", "MY"),
            *("--assurance", "substantial"),
            home=made.home,
        )
        made.facts["other_key"] = daulat("key", "create", "--person", "other-person", home=made.home)["api_key"]
        wait_open(made)
        yield made


def fetched(service: Service, id_: str | None) -> bytes | None:
    """The receipt of the other person's request, once there is one."""
    headers = {"authorization": f"Bearer {service.facts['other_key']}"}
    url = f"http://127.0.0.1:{service.port}/v1/receipts/{id_}"
    answer = httpx.get(url, headers=headers, timeout=60, trust_env=False)
    return answer.content if answer.status_code == 200 else None


def audited(service: Service, folder: Path) -> None:
    (folder / "token").write_text(service.facts["auditor_token"])
    asked = ("--vkey", service.facts["log_vkey"], "--token-file", str(folder / "token"))
    found = daulat("audit", service.facts["log_url"], *asked)
    assert found["holds"], found


def client(service: Service, key: str = "api_key") -> OpenAI:
    return OpenAI(api_key=service.facts[key], base_url=f"http://127.0.0.1:{service.port}/v1", max_retries=0)


def wait_open(service: Service) -> None:
    end = time.monotonic() + LONG_SECONDS
    while not (found := daulat("vault", "status", home=service.home))["lease"] or found["reason"]:
        assert time.monotonic() < end, found
        time.sleep(0.2)


def answered(service: Service, mine: OpenAI, **asked: Any) -> Any:
    """An answer that is kept, once the worker believes that the vault is open: it looks once a second."""

    def tried() -> Any:
        try:
            return mine.chat.completions.create(**asked, store=True)
        except openai.InternalServerError as error:
            if error.code != "vault_unavailable":
                raise
            return None

    return service.wait(tried)


def test_a_file_is_its_owners_alone_and_nowhere_in_clear(service: Service) -> None:
    mine, theirs = client(service), client(service, "other_key")
    content = (MARK.encode() + b"\n") * 100_000  # 2.4 MB
    made = mine.files.create(file=(f"{MARK}.txt", content), purpose="user_data")
    assert mine.files.content(made.id).content == content
    assert [file.id for file in mine.files.list()] == [made.id]
    assert [file.id for file in theirs.files.list()] == []
    for ask in (theirs.files.retrieve, theirs.files.content, theirs.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)
    assert [path for path, content in contents(service.home) if MARK.encode() in content] == []
    daulat("vault", "rotate", home=service.home)
    daulat("vault", "rotate", "--tenant", "first-agency", home=service.home)
    assert mine.files.content(made.id).content == content
    assert mine.files.delete(made.id).deleted


def test_completions_are_kept_when_asked_and_their_owners_alone(service: Service) -> None:
    mine, theirs = client(service), client(service, "other_key")
    messages: Any = [{"role": "user", "content": f"Say hello. {MARK}"}]
    asked = {"model": MODEL, "max_tokens": 8, "messages": messages}
    mine.chat.completions.create(**asked)
    assert list(mine.chat.completions.list()) == [], "nothing is kept unasked"
    whole = answered(service, mine, **asked, metadata={"kind": "whole"})
    stream = answered(service, mine, **asked, stream=True, metadata={"kind": "stream"})
    words = "".join(event.choices[0].delta.content or "" for event in stream if event.choices)
    kept = list(mine.chat.completions.list(order="asc"))
    assert [one.choices[0].message.content for one in kept] == [whole.choices[0].message.content, words]
    assert [one.id for one in mine.chat.completions.list(metadata={"kind": "whole"})] == [whole.id]
    assert mine.chat.completions.retrieve(whole.id).usage == whole.usage
    (message,) = mine.chat.completions.messages.list(whole.id)
    assert (message.role, message.content) == ("user", messages[0]["content"])
    assert list(theirs.chat.completions.list()) == []
    for ask in (
        theirs.chat.completions.retrieve,
        theirs.chat.completions.delete,
        theirs.chat.completions.messages.list,
    ):
        with pytest.raises(openai.NotFoundError):
            ask(whole.id)
    assert [path for path, content in contents(service.home) if MARK.encode() in content] == []
    for one in kept:
        assert mine.chat.completions.delete(one.id).deleted


LARGE = 512 << 20


def highest(service: Service) -> dict[str, int]:
    """By process, the most memory that it ever had, in bytes."""
    found = {}
    for row in daulat("status", home=service.home)["processes"]:
        if row["name"].startswith(("vault", "worker")):
            said = Path(f"/proc/{row['pid']}/status").read_text()
            found[row["name"]] = int(said.partition("VmHWM:")[2].split()[0]) << 10
    return found


def receive(mine: OpenAI, id_: str, into: bytearray) -> None:
    """As much of a file as arrives."""
    with mine.files.with_streaming_response.content(id_) as answer:
        for data in answer.iter_bytes():
            into += data


def sealed(service: Service) -> set[str]:
    return {path.name for path in (service.home / "vault" / "objects").iterdir()}


def test_half_a_gigabyte_passes_both_ways_and_nobody_holds_it(service: Service, tmp_path: Path) -> None:
    mine, before = client(service), highest(service)
    path, piece = tmp_path / "large.bin", os.urandom(1 << 20)
    hashed = hashlib.sha256()
    with path.open("wb") as stream:
        for number in range(LARGE >> 20):
            data = number.to_bytes(8) + piece[8:]
            hashed.update(data)
            stream.write(data)
    with path.open("rb") as stream:
        made = mine.files.create(file=stream, purpose="user_data")
    assert (made.bytes, [file.id for file in mine.files.list()]) == (LARGE, [made.id])
    found = hashlib.sha256()
    with mine.files.with_streaming_response.content(made.id) as answer:
        for data in answer.iter_bytes():
            found.update(data)
    assert found.digest() == hashed.digest()
    grown = {name: most - before[name] for name, most in highest(service).items()}
    assert len(grown) >= 2
    assert max(grown.values()) < 48 << 20, grown
    with path.open("ab") as stream:
        stream.write(b"and one byte more")
    with path.open("rb") as stream, pytest.raises(openai.APIStatusError, match=f"at most {LARGE} bytes") as refused:
        mine.files.create(file=stream, purpose="user_data")
    assert refused.value.status_code == 413
    assert mine.files.delete(made.id).deleted


def test_a_file_that_is_damaged_or_cut_off_in_the_middle_is_never_whole(service: Service) -> None:
    mine, before = client(service), sealed(service)
    content = os.urandom(100_000_000)
    made = mine.files.create(file=content, purpose="user_data")
    assert hashlib.sha256(mine.files.content(made.id).content).digest() == hashlib.sha256(content).digest()
    (name,) = sealed(service) - before
    with (service.home / "vault" / "objects" / name).open("r+b") as stream:
        stream.seek(70_000_000)
        byte = stream.read(1)
        stream.seek(70_000_000)
        stream.write(bytes([byte[0] ^ 1]))
    got = bytearray()
    with pytest.raises(Exception, match="without sending complete message body"):
        receive(mine, made.id, got)
    assert 60_000_000 < len(got) < 70_000_000
    assert content.startswith(got)
    assert mine.files.delete(made.id).deleted

    def broken() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + content[:30_000_000]
        service.wait(lambda: sealed(service) - before)  # it is on its way, under a name that is none
        raise KeyError("the client leaves")

    headers = {"authorization": f"Bearer {service.facts['api_key']}", "content-type": "multipart/form-data; boundary=b"}
    url = f"http://127.0.0.1:{service.port}/v1/files"
    with pytest.raises(KeyError):
        httpx.post(url, content=broken(), headers=headers, timeout=LONG_SECONDS, trust_env=False)
    service.wait(lambda: sealed(service) == before)
    assert list(mine.files.list()) == []


def test_strangers_and_wrong_methods_are_told_so(service: Service) -> None:
    stranger = OpenAI(api_key="sk-" + "a" * 43, base_url=f"http://127.0.0.1:{service.port}/v1", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.files.list()
    with pytest.raises(openai.NotFoundError):
        client(service).files.retrieve("../../etc/passwd")


def test_a_vault_that_is_killed_is_there_again_with_everything(service: Service) -> None:
    mine = client(service)
    made = mine.files.create(file=b"stays", purpose="user_data")
    (pid,) = [row["pid"] for row in daulat("status", home=service.home)["processes"] if row["name"] == "vault"]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(6)  # about when a worker notices that it says nothing
    service.wait(lambda: "vault does not answer" in not_stored(mine))
    assert mine.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], max_tokens=1).choices
    os.kill(pid, signal.SIGCONT)
    half = uploading(service, 5_000_000)  # last: a client that sends nothing more is cut off after half a minute
    service.wait(lambda: [name for name in sealed(service) if name.startswith(".")])
    os.kill(pid, signal.SIGKILL)
    assert half.recv(15) == b"HTTP/1.1 503 Se"
    half.close()
    end = time.monotonic() + LONG_SECONDS
    while True:
        try:
            assert mine.files.content(made.id).content == b"stays"
            break
        except openai.InternalServerError:
            assert time.monotonic() < end
            time.sleep(0.2)
    wait_open(service)
    assert not [name for name in sealed(service) if name.startswith(".")], "half an upload"


def not_stored(mine: OpenAI) -> str:
    """Why nothing can be stored while the vault is frozen."""
    with pytest.raises(openai.InternalServerError) as refused:
        mine.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], store=True, max_tokens=1)
    return str(refused.value)


def uploading(service: Service, size: int) -> socket.socket:
    """So many bytes of a file that is larger."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=LONG_SECONDS)
    lines = (
        "POST /v1/files HTTP/1.1",
        "Host: test",
        f"Authorization: Bearer {service.facts['api_key']}",
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {size * 2}",
    )
    form = '\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    connection.sendall(("\r\n".join(lines) + form).encode() + bytes(size))
    return connection


def test_the_place_is_leased_in_the_log_and_the_audit_finds_nothing(service: Service, tmp_path: Path) -> None:
    leases = service.entries("storage.lease/v1")
    assert {(lease["kind"], lease["jurisdiction"]) for lease in leases} == {("folder", "MY")}
    audited(service, tmp_path)


def test_an_object_put_in_the_place_of_another_is_refused_and_leaves_an_entry(service: Service) -> None:
    mine, theirs = client(service), client(service, "other_key")
    objects = service.home / "vault" / "objects"
    before = set(objects.iterdir())
    made = mine.files.create(file=b"mine", purpose="user_data")
    (one,) = set(objects.iterdir()) - before
    theirs.files.create(file=b"theirs", purpose="user_data")
    (other,) = set(objects.iterdir()) - before - {one}
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    with pytest.raises(openai.InternalServerError, match="in the place of another"):
        mine.files.content(made.id)
    refused = service.wait(lambda: service.entries("access.refused/v1"))
    assert (refused[-1]["action"], refused[-1]["code"]) == ("vault.read", "verification_failed")
    one.write_bytes(kept)
    assert mine.files.content(made.id).content == b"mine"


@pytest.fixture(scope="module")
def signing(service: Service, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The first operator's key: nobody else has to agree in an evaluation."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "passphrase").write_text("a passphrase for tests alone\n")
    secret = ("--passphrase-file", str(folder / "passphrase"))
    daulat("operator", "key", str(folder / "key"), "--name", "ali", *secret)
    daulat("operator", "first", str(folder / "key"), home=service.home)
    return ("--key", str(folder / "key"), *secret, "--yes")


def moved_by_days(service: Service, id_: str, days: int) -> None:
    """As if it had been stored at another time."""
    with contextlib.closing(sqlite3.connect(service.home / "vault" / "index.db", LONG_SECONDS)) as index, index:
        moved = index.execute("UPDATE object SET created = created + ? WHERE id = ?", (days * 86_400_000, id_))
        assert moved.rowcount == 1


def test_a_rule_takes_away_what_is_over_and_the_log_counts_it(
    service: Service, signing: tuple[str, ...], tmp_path: Path
) -> None:
    mine, theirs = client(service), client(service, "other_key")
    old, new = (mine.files.create(file=content, purpose="user_data") for content in (b"old", b"new"))
    other = theirs.files.create(file=b"of another tenant", purpose="user_data")
    for id_ in (old.id, other.id):
        moved_by_days(service, id_, -2)
    before = len(list((service.home / "vault" / "objects").iterdir()))
    rule = ("--files", "1", "--completions", "none")
    assert daulat("retention", "set", "first-agency", *rule, *signing, home=service.home)["state"] == "done"
    (entry,) = service.wait(lambda: service.entries("retention/v1"))
    assert entry["deleted"] == {"files": 1, "completions": 0}
    assert entry["tenant"] == service.entries("operator.action/v2")[-1]["subject"]
    with pytest.raises(openai.NotFoundError):
        mine.files.retrieve(old.id)
    assert mine.files.content(new.id).content == b"new"
    moved_by_days(service, other.id, 2)  # a row that somebody has changed does not open
    assert theirs.files.content(other.id).content == b"of another tenant"
    theirs.files.delete(other.id)
    assert len(list((service.home / "vault" / "objects").iterdir())) == before - 2
    audited(service, tmp_path)


def test_a_person_gets_all_that_is_held_about_them_once(
    service: Service, signing: tuple[str, ...], tmp_path: Path
) -> None:
    mine = client(service)
    made = mine.files.create(file=("resit.txt", MARK.encode()), purpose="user_data")
    messages: Any = [{"role": "user", "content": "Hello"}]
    answer = answered(service, mine, model=MODEL, max_tokens=4, messages=messages)
    service.wait(
        lambda: any(one["admission"]["request_id"] == answer._request_id for one in service.entries("inference/v1"))
    )
    path = tmp_path / "first-person.zip"
    asked = ("pdpa", "access", "first-person", "-o", str(path), "--plain")
    assert "nobody has agreed" in daulat(*asked, home=service.home, code=1)
    assert daulat("operate", "export-person", "first-person", *signing, home=service.home)["state"] == "done"
    found = daulat(*asked, home=service.home)
    (entry,) = service.entries("export/v1")
    assert (entry["digest"], entry["held"]) == (found["digest"], found["held"])
    with zipfile.ZipFile(path) as archive:
        kept = {each["id"]: each["path"] for each in json.loads(archive.read("manifest.json"))["objects"]}
        assert archive.read(kept[made.id]) == MARK.encode()
        assert kept[made.id].endswith("/resit.txt")
        stored = json.loads(archive.read(kept[answer.id]))
        assert stored["completion"]["choices"][0]["message"]["content"] == answer.choices[0].message.content
        requests = [json.loads(line)["entry"] for line in archive.read("log.jsonl").splitlines()]
    asked_for = [one["admission"]["request_id"] for one in requests if one["type"] == "inference/v1"]
    assert answer._request_id in asked_for
    assert "nobody has agreed" in daulat(*asked[:-2], str(tmp_path / "again"), "--plain", home=service.home, code=1)
    audited(service, tmp_path)


def stranger(theirs: OpenAI) -> bool:
    """Whether that key is nobody's."""
    try:
        theirs.files.list()
    except openai.AuthenticationError:
        return True
    return False


def test_a_person_is_erased_by_consent_and_every_proof_holds(
    service: Service, signing: tuple[str, ...], tmp_path: Path
) -> None:
    mine, theirs = client(service), client(service, "other_key")
    stays = mine.files.create(file=b"stays", purpose="user_data")
    gone = theirs.files.create(file=MARK.encode(), purpose="user_data")
    answer = theirs.chat.completions.create(model=MODEL, max_tokens=4, messages=[{"role": "user", "content": "Hello"}])
    receipt = service.wait(lambda: fetched(service, answer._request_id))
    backup = tmp_path / "backup"
    shutil.copytree(service.home / "vault", backup)
    before = tmp_path / "before"
    before.mkdir()
    with sqlite3.connect(service.home / "control.db") as there, sqlite3.connect(before / "control.db") as copy:
        there.backup(copy)
    assert daulat("operate", "erase-person", "other-person", *signing, home=service.home)["state"] == "done"
    with pytest.raises(openai.AuthenticationError):
        theirs.files.list()
    assert mine.files.content(stays.id).content == b"stays"
    (entry,) = service.entries("erasure/v1")
    inference = next(
        one for one in service.entries("inference/v1") if one["admission"]["request_id"] == answer._request_id
    )
    assert entry["subject"] == inference["admission"]["principal"]
    assert (entry["scope"], entry["keys"], entry["objects"]) == ("person", 1, 2)
    assert "other-person" not in [row["name"] for row in daulat("person", "list", home=service.home)]
    (tmp_path / "receipt").write_bytes(receipt)
    (tmp_path / "vkey").write_text(service.facts["log_vkey"])
    assert daulat("verify", str(tmp_path / "receipt"), "--vkey", str(tmp_path / "vkey"))
    audited(service, tmp_path)
    # A backup of the vault from before the erasure, put back: nobody's object opens with it.
    assert service.stop() == 0
    (tmp_path / "now").mkdir()
    shutil.move(service.home / "vault", tmp_path / "now" / "vault")
    shutil.copytree(backup, service.home / "vault")
    root = PassphraseRoot(service.home / "keys" / "vault.root", service.home / "keys" / "vault.passphrase")
    rows, place = SqliteKeys(backup / "keys.db"), Folder(backup / "objects")
    ring = Keyring(root, rows, SystemClock())
    for row in rows.all():
        with pytest.raises(VerificationFailed):
            ring.key(row.id)
    assert len(list(place.names())) >= 2
    assert gone.id
    # And a control database from before it: whoever is here again is erased again, because this log tells of it.
    shutil.rmtree(service.home / "vault")
    shutil.move(tmp_path / "now" / "vault", service.home / "vault")
    for path in service.home.glob("control.db*"):
        path.unlink()
    for path in before.iterdir():
        shutil.copy(path, service.home)
    service.start("--slots", "1")
    wait_open(service)
    service.wait(lambda: len(service.entries("erasure/v1")) > 1)
    service.wait(lambda: stranger(theirs))  # what is published comes behind the entry
    assert "other-person" not in [row["name"] for row in daulat("person", "list", home=service.home)]
    assert mine.files.content(stays.id).content == b"stays"
    first, second = service.entries("erasure/v1")
    assert (first["subject"], second["keys"]) == (second["subject"], 0)
    audited(service, tmp_path)

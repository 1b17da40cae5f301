"""An export through real sockets: the control process, the vault and the verb, from the proposal to the archive."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support import age as reader
from tests.support.vaults import MemoryIndex, MemoryKeys, MemoryPlace, MemoryRoot
from tests.support.verbs import FakeControl, Shell, publish

from daulat.adapters import age, rpc
from daulat.core.clock import SystemClock
from daulat.core.commitments import pseudonym
from daulat.pipeline.retain import Kept as Rules
from daulat.processes import rights
from daulat.processes.rights import Giving, Rights
from daulat.settings import Home
from daulat.vault.keyring import Keyring
from daulat.vault.objects import Objects, Whose

PASSPHRASE = "a passphrase for tests alone"


class Site:
    """A home with a log, a control process' socket and a vault's."""

    def __init__(self, home: Home) -> None:
        self.home = home
        home.run.mkdir(parents=True, exist_ok=True)
        publish(home)
        self.control = FakeControl(home)
        clock = SystemClock()
        ring = Keyring(MemoryRoot(), MemoryKeys(), clock)
        self.place, self.index = MemoryPlace(), MemoryIndex()
        self.objects = Objects(ring, self.index, self.place, clock, lambda: None, 1 << 20)
        self.rights = Rights(self.control.rows, self.control._note, clock, 0, self.control.desk)
        self.control.more = {
            **self.rights.handlers(lambda use_case: use_case),
            "retention.rules": self._rules,
            "operators": self._operators,
        }
        self.rules = Rules(self.control.rows, self.control._note, 0)

    async def _rules(self) -> list[dict[str, Any]]:
        return self.rules.all()

    async def _operators(self) -> list[dict[str, Any]]:
        return [{"name": "ali", "revoked": None}, {"name": "gone", "revoked": 1}]

    def person(self) -> dict[str, Any]:
        return self.control.rows.find("people", "first-person")

    def put(self, person: Mapping[str, Any], kind: Any, id_: str, content: bytes, **about: Any) -> None:
        self.objects.put(Whose(person["tenant"], person["id"]), kind, id_, [content], lambda: about)

    def agree(self) -> None:
        """As consent does it, which `tests.unit.pipeline.test_export` is about."""
        asyncio.run(self.rights.act.prepare({"person": "first-person"}).carry_out())

    @contextmanager
    def serving(self) -> Iterator[None]:
        with self.control.serving():
            loop = asyncio.new_event_loop()
            giving = Giving(lambda: self.objects, rpc.Client(self.home.control_socket))
            server = loop.run_until_complete(rpc.serve(self.home.vault_socket, giving.handlers()))
            thread = threading.Thread(target=loop.run_forever)
            thread.start()
            try:
                yield
            finally:
                loop.call_soon_threadsafe(server.close)
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.run_until_complete(giving._control.close())
                loop.close()


@pytest.fixture
def site(run: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(age.Sealing.__init__, "__defaults__", (4,))
    made = Site(run.home)
    with made.serving():
        yield made


def filled(site: Site) -> None:
    """Two files of one name, a completion, and somebody else's file."""
    person = site.person()
    site.put(person, "file", "file-1", b"one", filename="../resit.pdf", purpose="user_data")
    site.put(person, "file", "file-2", b"two", filename="../resit.pdf", purpose="user_data")
    site.put(person, "completion", "chatcmpl-1", b'{"completion": {}}', model="m", metadata={})
    site.put({**person, "id": "somebody-else"}, "file", "file-9", b"not theirs", filename="x")


def test_nothing_comes_out_before_it_is_agreed_to(site: Site, run: Shell, tmp_path: Path) -> None:
    filled(site)
    said = run("pdpa", "access", "first-person", "-o", tmp_path / "a.zip", "--plain", "--json")
    assert said.code == 1
    assert "daulat operate export-person first-person" in said.value["error"]["message"]
    assert not list(tmp_path.glob("*a.zip*"))
    for method, params in (("export.list", {}), ("export.read", {"kind": "file", "id": "file-1"})):
        with pytest.raises(Exception, match="nobody has agreed"):
            rpc.call(run.home.vault_socket, method, person=site.person()["id"], **params)


def test_one_archive_has_all_of_it_and_the_log_says_so(site: Site, run: Shell, tmp_path: Path) -> None:
    filled(site)
    site.agree()
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    path = tmp_path / "a.zip.age"
    asked = ("pdpa", "access", "first-person", "-o", path, "--archive-passphrase-file", tmp_path / "passphrase")
    said = run(*asked, "--json")
    assert said.code == 0, said
    assert said.value["held"] == {"rows": 3, "files": 2, "completions": 1, "entries": 0}
    with zipfile.ZipFile(io.BytesIO(reader.opened(path.read_bytes(), PASSPHRASE))) as inner:
        manifest = json.loads(inner.read("manifest.json"))
        assert [(each["path"], inner.read(each["path"])) for each in manifest["objects"]] == [
            ("files/1/_resit.pdf", b"one"),
            ("files/2/_resit.pdf", b"two"),
            ("completions/3/chatcmpl-1.json", b'{"completion": {}}'),
        ]
        assert [each["about"].get("filename") for each in manifest["objects"]] == ["../resit.pdf"] * 2 + [None]
        rows = json.loads(inner.read("person.json"))
        assert [row["name"] for row in rows["person"]] == ["first-person"]
        assert inner.read("log.jsonl") == b""
        assert manifest["logs"]
    type_, entry = site.control.entries[-1]
    assert type_ == "export/v1"
    assert entry["digest"] == hashlib.sha256(path.read_bytes()).hexdigest() == said.value["digest"]
    assert entry["sealed"] is True
    assert entry["held"] == said.value["held"]
    again = run("pdpa", "access", "first-person", "-o", tmp_path / "b", "--plain")
    assert again.code == 1, "an agreement is good for one archive"


def test_their_entries_are_in_it_with_what_they_used(site: Site, run: Shell, tmp_path: Path) -> None:
    """The log of `tests.support.logs`, whose person this one is made to be."""
    from tests.support import logs  # noqa: PLC0415

    site.agree()
    log = [json.loads(entry) for entry in logs.write().entries]
    asked = [entry for entry in log if entry["type"] == "inference/v1"]
    principal = asked[0]["admission"]["principal"]
    mine = [entry for entry in asked if entry["admission"]["principal"] == principal]
    found = site.rights._exports.held

    def held(wanted: str) -> dict[str, Any]:
        return {**found(wanted), "pseudonyms": {"person": principal}}

    site.rights._exports.held = held  # type: ignore[method-assign]
    path = tmp_path / "a.zip"
    said = run("pdpa", "access", "first-person", "-o", path, "--plain", "--json")
    assert said.code == 0, said
    with zipfile.ZipFile(path) as inner:
        lines = [json.loads(line) for line in inner.read("log.jsonl").splitlines()]
        manifest = json.loads(inner.read("manifest.json"))
    assert [line["entry"] for line in lines if line["entry"]["type"] == "inference/v1"] == mine
    assert all(log[line["index"]] == line["entry"] for line in lines)
    assert sum(use["requests"] for use in manifest["usage"].values()) == len(mine) > 0
    tokens = sum(entry["completion"]["usage"]["completion_tokens"] for entry in mine)
    assert sum(use["completion_tokens"] for use in manifest["usage"].values()) == tokens
    assert said.value["held"]["entries"] == len(lines)


def test_what_is_damaged_is_named_and_does_not_keep_the_rest(site: Site, run: Shell, tmp_path: Path) -> None:
    filled(site)
    site.agree()
    name = next(iter(site.place.objects))
    site.place.objects[name] = site.place.objects[name][:-1] + b"x"
    renamed = next(row for row in site.index.rows if row.kind == "completion")
    site.index.rows[site.index.rows.index(renamed)] = replace(renamed, created=1)
    path = tmp_path / "a.zip"
    assert run("pdpa", "access", "first-person", "-o", path, "--plain").code == 0
    with zipfile.ZipFile(path) as inner:
        first, second, third = json.loads(inner.read("manifest.json"))["objects"]
        assert first["path"] is None
        assert "changed" in first["unreadable"]
        assert inner.read(second["path"]) == b"two"
        assert "changed" in third["about"]["unreadable"]
        assert inner.read(third["path"]) == b'{"completion": {}}'


def test_a_large_object_comes_in_pieces_and_as_much_of_it_as_opens(
    site: Site, run: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "_PIECE", 100_000)
    person, contents = site.person(), [os.urandom(300_000) for _ in range(2)]
    for number, content in enumerate(contents):
        site.put(person, "file", f"file-{number}", content, filename=f"{number}.bin")
    _, second = site.place.objects
    whole = site.place.objects[second]
    site.place.objects[second] = whole[:-1] + bytes([whole[-1] ^ 1])
    site.agree()
    which = {"person": person["id"], "kind": "file", "id": "file-0"}
    for offset in (0, 250_000, 0, 131_072, 299_999, 300_000, 400_000):
        said = rpc.call(run.home.vault_socket, "export.read", **which, offset=offset)
        assert contents[0][offset:].startswith(base64.b64decode(said["content"]))
        assert bool(said["content"]) is (offset < 300_000)
    path = tmp_path / "a.zip"
    assert run("pdpa", "access", "first-person", "-o", path, "--plain").code == 0
    with zipfile.ZipFile(path) as inner:
        one, other = json.loads(inner.read("manifest.json"))["objects"]
        assert inner.read(one["path"]) == contents[0]
        assert "unreadable" not in one
        assert "changed" in other["unreadable"]
        assert inner.read(other["path"]) == contents[1][: 4 * 65_536]


def test_where_the_log_cannot_be_written_no_archive_stays(
    site: Site, run: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    site.agree()
    monkeypatch.setattr(site.rights._exports, "_log", broken)
    assert run("pdpa", "access", "first-person", "-o", tmp_path / "a.zip", "--plain").code == 1
    assert not list(tmp_path.glob("*a.zip*"))


def test_a_person_is_corrected_over_the_socket(site: Site, run: Shell) -> None:
    said = run("person", "correct", "first-person", "--name", "Siti", "--assurance", "high", "--json")
    assert said.value["changed"] == ["assurance", "name"]
    row = site.control.rows.find("people", "Siti")
    assert row["assurance"] == "high"
    assert "Siti" not in repr(site.control.entries)
    assert run("person", "correct", "Siti").code == 1


def test_the_record_says_for_whom_where_and_how_long(site: Site, run: Shell) -> None:
    house = site.control.rows.find("tenants", "first-agency")
    from daulat.core.retention import Rule  # noqa: PLC0415

    site.rules.set(house["id"], Rule(30, None))
    found = run("pdpa", "record", "--json").value
    mine = next(row for row in found["for_whom"] if row["name"] == "first-agency")
    assert mine["kept_days"] == {"files": 30, "completions": None}
    assert mine["pseudonym"] == pseudonym(base64.b64decode(house["epoch_key"]), "tenant", house["id"])
    assert list(found["where"]) == ["MY"]
    assert found["promised"]["country"] == "MY"
    assert found["models"]
    assert found["access"]["operators"] == ["ali"]
    assert found["access"]["auditors"] == 1
    assert found["erased_tenants_requests"] > 0, "the story's tenant is none of this home"
    assert found["evidence"]
    text = run("pdpa", "record").out
    assert "first-agency" in text
    assert "to be filled in by the data controller" in text

"""The vault's process: a place that fails, one that lies elsewhere, and an end that says nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.support import worlds
from tests.support.log_server import listening
from tests.support.outside_vaults import made_bucket, seaweed, secret
from tests.support.service import free_port
from tests.support.vaults import MemoryIndex, MemoryKeys, MemoryPlace, MemoryRoot
from tests.support.worlds import StillClock
from tests.unit.pipeline.test_consent import House

from daulat.adapters import rpc
from daulat.adapters.snapshot_file import SnapshotFile
from daulat.core import entries
from daulat.core.clock import SystemClock
from daulat.errors import Unavailable
from daulat.processes import keeping
from daulat.processes import vault as vault_process
from daulat.processes.storing import Storing
from daulat.processes.vault import Vault
from daulat.settings import Home, Settings
from daulat.vault.keyring import Keyring
from daulat.vault.objects import Objects, Whose
from daulat.vault.ports import Place

ALI = Whose("agency", "ali")
NOTHING = keeping.Asked.of(Settings())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


# What has expired, and a place that does not answer.


class Expiring:
    """A vault with one object that is over, in a place."""

    def __init__(self, home: Home, place: Place) -> None:
        self.clock, self.index = StillClock(), MemoryIndex()
        ring = Keyring(MemoryRoot(), MemoryKeys(), self.clock)
        self.objects = Objects(ring, self.index, place, self.clock, lambda: None, 1 << 20)
        self.objects.put(ALI, "file", "over", [b"x"], dict, expires=lambda: self.objects.after(10))
        self.objects.put(ALI, "file", "stays", [b"y"], dict)
        self.clock.pass_seconds(20)
        self.vault = Vault(home, NOTHING)
        self.vault._objects, self.vault.reason = self.objects, ""

    async def reason(self) -> str:
        return str((await self.vault.status())["reason"])

    async def over_a_failure(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Both places of the object are there while the place fails, and gone soon after."""
        begin()
        working = asyncio.create_task(self.vault.expire())

        async def said() -> bool:
            return bool(await self.reason())

        await until(said)
        assert (await self.reason()).startswith("what has expired cannot be taken away: ")
        assert [row.id for row in self.index.expired(self.clock.now_ms())] == ["over"], "so that it is tried again"
        await asyncio.sleep(0.1)
        assert not working.done()
        await asyncio.to_thread(end)

        async def mended() -> bool:
            return not await self.reason()

        await until(mended)
        assert [*self.index.names()] == [self.index.get("file", "ali", "stays").name]  # type: ignore[union-attr]
        working.cancel()


def test_a_place_that_fails_is_said_once_and_tried_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vault_process, "_TRY_SECONDS", 0.01)
    place = MemoryPlace()
    site, right = Expiring(home, place), place.delete

    def away(_name: str) -> None:
        raise Unavailable("the bucket is away")

    def fails() -> None:
        place.delete = away  # type: ignore[method-assign]

    def works() -> None:
        place.delete = right  # type: ignore[method-assign]

    asyncio.run(site.over_a_failure(fails, works))
    assert len(place.objects) == 1
    assert [record.message for record in caplog.records] == [
        "what has expired cannot be taken away: the bucket is away"
    ]


@pytest.mark.slow
def test_a_real_bucket_that_is_killed_and_comes_back(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a real server's word for its bucket's region is heard: SeaweedFS names none, which means us-east-1."""
    monkeypatch.setattr(vault_process, "_TRY_SECONDS", 0.1)
    folder, port = tmp_path / "weed", free_port()
    folder.mkdir()
    running = [seaweed(folder, port)]
    running[0].__enter__()
    try:
        place = made_bucket(folder, port, "kept")
        assert place.region() == "us-east-1"
        with site_of(home, folder / "s3", f"s3+http://127.0.0.1:{port}/kept") as vault:
            asyncio.run(opened(vault))
            assert vault.reason == "the charter keeps data in MY, and the storage place lies in US"
        site = Expiring(home, place)

        def kill() -> None:
            running.pop().__exit__(None, None, None)

        def start() -> None:
            running.append(seaweed(folder, port))
            running[0].__enter__()

        asyncio.run(site.over_a_failure(kill, start))
        assert len([*place.names()]) == 1
    finally:
        for each in running:
            each.__exit__(None, None, None)


# A bucket's region against the charter.


class Provider(BaseHTTPRequestHandler):
    """As much of S3 as a vault needs, with a region of the test's own (GetBucketLocation)."""

    region = ""
    kept: dict[str, bytes]

    def do_GET(self) -> None:
        if self.region == "no bucket":
            self._say(404, "<Error><Code>NoSuchBucket</Code></Error>")
        elif "location" in self.path:
            space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
            self._say(200, f"<LocationConstraint {space}>{self.region}</LocationConstraint>")
        else:
            self._say(200, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")

    def do_PUT(self) -> None:
        self.kept[self.path] = self.rfile.read(int(self.headers["content-length"]))
        self._say(200, "")

    def do_DELETE(self) -> None:
        self.kept.pop(self.path, None)
        self._say(204, "")

    def _say(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def site_of(home: Home, secret_file: Path, storage: str, stated: str = "") -> Iterator[Vault]:
    """A vault that is to keep in a bucket, and a control process' half that leases places under a charter of MY."""
    house = House(home.path)
    storing = Storing(house.rows, house.book, SystemClock(), (0, house.charter), house.desk, home)  # type: ignore[arg-type]
    if not home.snapshot.exists():
        SnapshotFile(home.snapshot).write(worlds.snapshot())
    asked = replace(NOTHING, storage=storage, storage_country=stated, storage_secret_file=str(secret_file))
    made = Vault(home, asked)
    made.leases = storing.handlers(lambda use_case: use_case)  # type: ignore[attr-defined]
    made.log = house.log  # type: ignore[attr-defined]
    yield made
    house.rows.close()


async def opened(vault: Vault) -> None:
    """As long as it takes to know whether it can be."""
    server = await rpc.serve(vault._home.control_socket, vault.leases)  # type: ignore[attr-defined]
    working, before = asyncio.create_task(vault.stay_open()), vault.reason

    async def known() -> bool:
        return vault.reason != before

    await until(known)
    working.cancel()
    await vault._control.close()
    server.close()


@pytest.mark.skipif(importlib.util.find_spec("botocore") is None, reason="needs the extra `s3`")
@pytest.mark.parametrize(
    ("region", "stated", "grade", "words"),
    [
        ("ap-southeast-5", "", "G3", ""),
        ("ap-southeast-5", "MY", "G3", ""),
        ("kul-1", "MY", "G1", ""),
        ("kul-1", "", "", "the charter keeps data in MY, and the storage place is in no country that anybody states"),
        ("kul-1", "SG", "", "the charter keeps data in MY, and the storage place lies in SG"),
        ("ap-southeast-1", "", "", "the charter keeps data in MY, and the storage place lies in SG"),
        ("ap-southeast-1", "MY", "", "the bucket's region 'ap-southeast-1' lies in SG, not in MY as the settings say"),
        ("", "", "", "the charter keeps data in MY, and the storage place lies in US"),
        ("", "MY", "", "the bucket's region 'us-east-1' lies in US, not in MY as the settings say"),
        ("no bucket", "MY", "", "bucket 'kept': NoSuchBucket"),
    ],
)
def test_nothing_is_written_to_a_bucket_whose_region_lies_elsewhere(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, region: str, stated: str, grade: str, words: str
) -> None:
    root = MemoryRoot()
    monkeypatch.setattr(keeping, "root", lambda _home, _asked: root)
    kept: dict[str, bytes] = {}
    provider = type("Here", (Provider,), {"region": region, "kept": kept})
    with listening(provider) as url:
        address = f"s3+{url.rstrip('/')}/kept"
        with site_of(home, secret(tmp_path / "s3", "a:b"), address, stated) as vault:
            asyncio.run(opened(vault))
            found = [entries.decode(line) for line in vault.log]  # type: ignore[attr-defined]
            leases = [entry for entry in found if entry["type"] == "storage.lease/v1"]
            if not words:
                assert vault.reason == ""
                vault.objects().put(ALI, "file", "a", [b"x"], dict)
                (lease,) = leases
                assert (lease["kind"], lease["jurisdiction"]) == ("s3", "MY")
                assert lease["evidence"]["site"] == {"grade": grade, "statement": f"region {region}"}
                assert lease["evidence"]["region"]["region"] == region
                assert len(kept) == 1
                return
            assert words in vault.reason
            with pytest.raises(Unavailable, match=r"Nothing is (kept here|written where no lease)") as refused:
                vault.objects().put(ALI, "file", "a", [b"x"], dict)
            assert words in refused.value.message
            assert refused.value.code in {"vault_unavailable", "storage_not_leased"}
            assert (kept, leases) == ({}, [])


# Whose key it is.


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "/v1/files", "vault.read"),
        ("GET", "/v1/files/file-1", "vault.read"),
        ("GET", "/v1/files/file-1/content", "vault.read"),
        ("DELETE", "/v1/files/file-1", "vault.read"),
        ("POST", "/v1/files", "vault.keep"),
        ("GET", "/v1/chat/completions", "vault.read"),
        ("GET", "/v1/chat/completions/chatcmpl-1", "vault.read"),
        ("GET", "/v1/chat/completions/chatcmpl-1/messages", "vault.read"),
        ("POST", "/v1/chat/completions/chatcmpl-1", "vault.keep"),
        ("DELETE", "/v1/chat/completions/chatcmpl-1", "vault.read"),
    ],
)
def test_a_key_that_another_made_for_whoever_signs_in_opens_no_vault(
    home: Home, method: str, path: str, action: str
) -> None:
    later = 2**50
    keys = (worlds.key(1, expires=later), replace(worlds.key(2, worlds.OTHER_SECRET, expires=later), opens_vault=False))
    people = tuple(worlds.person(number, expires=later) for number in (1, 2))
    SnapshotFile(home.snapshot).write(worlds.snapshot(roll=worlds.roll(number=1, keys=keys, people=people)))
    site, told = Expiring(home, MemoryPlace()), list[tuple[str, str, str]]()
    site.vault._tell = lambda *said: told.append(said)  # type: ignore[assignment, misc]
    client = TestClient(site.vault.application())
    said = client.request(method, path, headers={"authorization": f"Bearer {worlds.OTHER_SECRET}"})
    assert (said.status_code, said.json()["error"]["code"]) == (403, "key_not_own")
    assert "make one of your own at /me" in said.json()["error"]["message"]
    assert told == [(worlds.OTHER_SECRET, action, "key_not_own")]
    mine = client.request(method, path, headers={"authorization": f"Bearer {worlds.SECRET}"})
    assert mine.status_code != 403
    assert len(told) == 1


# The end.


def test_a_shutdown_says_nothing(home: Home) -> None:
    """Not even with somebody connected."""
    SnapshotFile(home.snapshot).write(worlds.snapshot())
    command = [sys.executable, "-m", "daulat.processes.vault", "--home", str(home.path), "--asked", NOTHING.text()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(os.fspath(home.vault_socket))
            caller.send(b'{"method": "status", "params": {}}\n')
            assert b'"open": ' in caller.recv(4096)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
    told = [said["message"] for said in map(json.loads, err.splitlines()) if said["level"] != "info"]
    assert [words for words in told if not words.startswith("nothing can be kept: control")] == []
    assert (process.returncode, out) == (0, "")

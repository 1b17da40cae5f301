"""A disk that really is full: admission stops with a reason, what runs ends, the log goes on, and all recovers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.support.battered import Battered
from tests.support.load import Exchange, Load
from tests.support.reckoning import reckon

from daulat.adapters import rpc
from daulat.adapters.reserve import free_bytes
from daulat.errors import Unavailable
from daulat.settings import Home

pytestmark = pytest.mark.slow

DISK_BYTES = 640 * 2**20
NEARLY = 200 * 2**20  # free: below the watermark, with room left
STREAM_SECONDS = 3.0
WAITS_SECONDS = 5.0  # longer than three starts that give up


class SmallDisk(Battered):
    """A home on a file system of its own and of a known size, which only the service's mount namespace has."""

    def __init__(self) -> None:
        super().__init__()
        self.home.path.mkdir()
        small = ("--size", str(DISK_BYTES), "--tmpfs", str(self.home.path))
        self._prefix = ("bwrap", "--dev-bind", "/", "/", *small, "--die-with-parent", "--")

    async def start(self) -> None:
        await super().start()
        # The namespace's files are seen from outside through a process in it.
        self.view = Home(Path(f"/proc/{self.secrets['pid']}/root") / self.home.path.relative_to("/"))

    def fill(self, leave: int) -> None:
        """Take all that is free at this moment but so much: not what the service gives up because of it."""
        descriptor = os.open(self.view.path / "filler", os.O_CREAT | os.O_WRONLY, 0o600)
        more = free_bytes(self.view.path) - leave
        try:
            while more > 0:
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, more)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    more -= 65_536  # somebody else has taken some meanwhile
                else:
                    break
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        (self.view.path / "filler").unlink()


async def _refused(load: Load) -> Exchange | None:
    """A refusal for want of space, once there is one."""
    exchange = await load.one()
    load.exchanges.append(exchange)
    return exchange if exchange.status == 503 else None


async def _served(load: Load) -> bool:
    exchange = await load.one(stream=True)
    load.exchanges.append(exchange)
    return exchange.status == 200


def test_a_full_disk_stops_admission_and_nothing_else() -> None:
    asyncio.run(_full())


async def _full() -> None:
    async with SmallDisk() as service, Load(service.port, service.secrets["api_key"], 1, leaves=0) as load:
        load.start()
        await service.until(lambda: _count(load, 50))
        for leave in (NEARLY, 0):
            await load.pause()
            assert service.engine is not None
            service.engine.pause = STREAM_SECONDS / service.engine.events
            begun = len(load.exchanges)
            load.resume()
            await service.until(lambda begun=begun: _streaming(load, begun))
            service.fill(leave)
            refusal = await service.until(lambda: _refused(load))
            error = json.loads(refusal.body)["error"]
            assert error["code"] == "storage_full"
            assert "MiB are free for the journal, 256 are needed" in error["message"]
            await load.pause()  # what had begun ends
            under_way = [item for item in load.exchanges[begun:] if item.status == 200]
            assert len(under_way) > 1
            assert all(item.whole for item in load.exchanges[begun:])
            await service.integrated()
            reckon(service.view, load.exchanges)  # on the full disk
            service.engine.pause = 0.001
            service.empty()
            await service.until(lambda: _served(load))
        load.resume()
        wanted = len(load.exchanges) + 50
        await service.until(lambda: _count(load, wanted))
        await load.pause()
        await service.integrated()
        reckoning = reckon(service.view, load.exchanges)
        assert reckoning.outcomes["interrupted"] == 0
        starts = [(child["name"], child["starts"]) for child in (await service.status())["processes"]]
        # Nobody died of it, but for a sequencer in the middle of a step that found room when it began.
        assert all(count == 1 for name, count in starts if name != "sequencer"), starts
        assert all(count <= 3 for _, count in starts), starts


async def _count(load: Load, count: int) -> bool:
    return len(load.exchanges) >= count


async def _streaming(load: Load, begun: int) -> bool:
    """Whether some answers have begun and none can have ended yet."""
    return sum(bool(exchange.body) for exchange in load.exchanges[begun:]) > 3


def test_what_dies_on_a_full_disk_comes_back_when_there_is_room() -> None:
    asyncio.run(_killed_while_full())


async def _killed_while_full() -> None:
    async with SmallDisk() as service, Load(service.port, service.secrets["api_key"], 2) as load:
        load.start()
        await service.until(lambda: _count(load, 100))
        before = await service.processes()
        service.fill(0)
        await service.until(lambda: _gone(service.view.log / ".reserve"))
        await load.pause()
        for name in ("sequencer", "worker"):
            for pid in before[name]:
                with contextlib.suppress(ProcessLookupError):  # a step that was under way found nothing left
                    os.kill(pid, signal.SIGKILL)
        load.resume()
        await service.until(lambda: _waits(service, set(before["sequencer"])))
        with pytest.raises(Unavailable):
            rpc.call(service.view.sequencer_socket, "status")
        service.empty()
        after = await service.processes()
        assert not set(after["worker"]) & set(before["worker"])
        await service.until(lambda: _served(load))
        await load.pause()
        await service.integrated()
        reckon(service.view, load.exchanges)


async def _gone(path: Path) -> bool:
    return not path.exists()


async def _waits(service: SmallDisk, before: set[int]) -> bool:
    """Whether a new sequencer has lived for a while: it is not ready, and does not give up.

    Whatever becomes free is taken again: what the log had kept back, above all, whose pages go after its name.
    """
    service.fill(0)
    for process in psutil.process_iter(["cmdline", "create_time", "pid"]):
        line = " ".join(process.info["cmdline"] or ())
        if "daulat.processes.sequencer" in line and str(service.home.path) in line and process.pid not in before:
            return bool(time.time() - process.info["create_time"] > WAITS_SECONDS)
    return False


_ON_THE_RESERVE = """
import errno, os, sys
from pathlib import Path
from daulat.adapters.journal_files import RESERVE_BYTES, JournalFolder, WorkerSegments
from daulat.ledger import records
folder = Path(sys.argv[1])
segments = WorkerSegments(folder, 4, "test/1")
filler = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
facts = os.statvfs(folder)
os.posix_fallocate(filler, 0, facts.f_bavail * facts.f_frsize)
number = 0
try:
    while True:
        record = (records.head(records.ADMISSION, number + 1, 1_000_000), bytes(1_000_000))
        segments.commit(records.encode_group(number, record))
        number += 1
except OSError as error:
    assert error.errno == errno.ENOSPC, error
data = JournalFolder(folder).read(4, 0, 0)
assert len(list(records.groups(data, records.header_length(data), 0))) == number
assert number * 1_000_000 > RESERVE_BYTES, number
"""


def test_a_worker_goes_on_upon_its_reserve_to_the_last_byte_and_not_beyond(tmp_path: Path) -> None:
    command = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--size",
        str(64 * 2**20),
        "--tmpfs",
        str(tmp_path),
        "--die-with-parent",
    ]
    program = [sys.executable, "-c", _ON_THE_RESERVE, str(tmp_path)]
    done = subprocess.run([*command, "--", *program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr

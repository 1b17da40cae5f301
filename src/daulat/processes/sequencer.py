"""The sequencer's process: the only one that reads the log's key."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from daulat.adapters import log_files, rpc
from daulat.adapters.journal_files import JournalFolder, sync_folder
from daulat.adapters.log_files import LogFolder
from daulat.adapters.request_index import RequestIndex
from daulat.adapters.reserve import LogRoom
from daulat.adapters.seal import SqliteSeal
from daulat.core.clock import SystemClock
from daulat.errors import ConfigError, Conflict, DaulatError, IntegrityError, Unavailable
from daulat.ledger.sequencer import Sequencer
from daulat.processes import edge
from daulat.settings import Home
from daulat.tlog.note import Signer

TICK_SECONDS: Final = 0.4
ROOM_SECONDS: Final = 1.0
HANDOVER_SECONDS: Final = 20.0  # under the time in which the control plane wants its child to be ready
_log = logging.getLogger(__name__)


def load_or_create_key(home: Home, name: str) -> Signer:
    """The log's key under the name of a shard. Created on the first start, mode 0600; never logged.

    Raises:
        ConfigError: the file is not a private key, or others may read it.
    """
    path = home.keys / "log.key"
    if not path.exists():
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(Signer.generate(name).export() + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(home.keys)
    if path.stat().st_mode & 0o077:
        raise ConfigError("others may read it; run: chmod 600", location=str(path))
    try:
        return Signer.load(path.read_text()).renamed(name)
    except ValueError as error:
        raise ConfigError(str(error), location=str(path)) from None


@contextlib.contextmanager
def alone(home: Home, seconds: float = HANDOVER_SECONDS) -> Iterator[None]:
    """Hold the log for this process. One that its dying parent has told to stop may still be taking in the last of it.

    Raises:
        Conflict: another process writes this log, and does not end.
    """
    descriptor = os.open(home.path / "sequencer.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Conflict(f"another sequencer writes the log of {home.path}") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def open_sequencer(home: Home, name: str, period: str) -> Sequencer:
    """Recover or begin the log `<name>/<period>` of this home, which is to be held (`alone`)."""
    origin = f"{name}/{period}"
    signer = load_or_create_key(home, origin)
    seal = SqliteSeal(home.sequencer_db, origin)
    _close_older(home, name, seal, origin)
    log_files.set_current_period(home.log, period)  # before it is sealed: from then on the older one is closed
    sequencer = Sequencer(
        origin=origin,
        signer=signer,
        seal=seal,
        log=LogFolder(home.log / period),
        index=RequestIndex(home.index_db, origin),
        journals=JournalFolder(home.journal),
        clock=SystemClock(),
    )
    LogFolder(home.log / period).set_vkey(signer.vkey)
    log_files.replace_file(home.vkey, f"{signer.vkey}\n".encode())
    return sequencer


def _close_older(home: Home, name: str, seal: SqliteSeal, origin: str) -> None:
    """Before a new shard begins, the one in force takes in all that is left for it; then it is final."""
    older = [known for known in seal.origins() if known != origin]
    if origin in seal.origins() or not older:
        if origin in seal.origins() and origin != seal.origins()[-1]:
            raise ConfigError(f"{origin} is closed; the log in force is {seal.origins()[-1]}", location="log_period")
        return
    previous = older[-1]
    period = previous.removeprefix(f"{name}/")
    last = Sequencer(
        origin=previous,
        signer=load_or_create_key(home, previous),
        seal=SqliteSeal(home.sequencer_db, previous),
        log=LogFolder(home.log / period),
        index=RequestIndex(home.index_db, previous),
        journals=JournalFolder(home.journal),
        clock=SystemClock(),
    )
    last.tick()
    if JournalFolder(home.journal).workers():
        raise ConfigError("a worker of the old shard is still alive; stop it first", location=str(home.journal))


class Service:
    """The sequencer behind its socket. All its work runs on one thread; the loop only waits."""

    def __init__(self, sequencer: Sequencer, origin: str, vkey: str, room: LogRoom) -> None:
        self._sequencer, self._origin, self._vkey, self._room = sequencer, origin, vkey, room
        self._thread = ThreadPoolExecutor(1, "sequencer")
        self._ticked = time.monotonic()

    async def append(self, entries: list[str]) -> dict[str, Any]:
        """Add control entries; answers when a published checkpoint covers them.

        Raises:
            Unavailable: the disk is full; nothing was added.
        """
        self._room.need()
        indices = await self._run(self._sequencer.append, [entry.encode() for entry in entries])
        return {"indices": indices}

    async def flush(self) -> dict[str, Any]:
        """Take in the journals now."""
        return {"taken": await self.tick()}

    async def status(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._ticked
        return {
            "origin": self._origin,
            "size": self._sequencer.size,
            "vkey": self._vkey,
            "checkpoint": self._sequencer.checkpoint.decode(),
            "seconds_since_tick": round(seconds, 3),
        }

    async def tick(self) -> int:
        """Take in what there is, while there is room for it: what a full disk leaves in the journals is not lost."""
        try:
            self._room.need()
        except Unavailable as error:
            _log.warning("the log waits: %s", error.message)
            return 0
        taken: int = await self._run(self._sequencer.tick)
        self._ticked = time.monotonic()
        return taken

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


async def run(home: Home, name: str, period: str) -> int:
    """Serve until a signal, or until the log can no longer be trusted; returns the exit code."""
    stop = edge.stop_event(asyncio.get_running_loop())
    room = LogRoom(home.log)
    if not await _room_comes(room, stop):
        return 0
    sequencer = open_sequencer(home, name, period)
    service = Service(sequencer, f"{name}/{period}", home.vkey.read_text().strip(), room)
    failed: list[BaseException] = []

    async def append(entries: list[str]) -> dict[str, Any]:
        try:
            return await service.append(entries)
        except IntegrityError as error:
            if error.code == "seal_broken":
                failed.append(error)
                stop.set()
            raise

    handlers: dict[str, rpc.Handler] = {"append": append, "flush": service.flush, "status": service.status}
    await service.tick()  # a journal that was changed shows here: a sequencer that cannot go on is never ready
    async with await rpc.serve(home.sequencer_socket, handlers):
        edge.ready()
        while not stop.is_set():
            await service.tick()
            try:
                await asyncio.wait_for(stop.wait(), TICK_SECONDS)
            except TimeoutError:
                continue
        if not failed:
            await service.tick()
    if failed:
        _log.error("the log stops here: %s", failed[0])
        return 1
    return 0


async def _room_comes(room: LogRoom, stop: asyncio.Event) -> bool:
    """Wait for room to recover in: whether it has come before a signal."""
    while not stop.is_set():
        try:
            room.need()
        except Unavailable as error:
            _log.error("the log cannot go on: %s", error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), ROOM_SECONDS)
        else:
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="daulat-sequencer")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--period", required=True)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    edge.begin("sequencer", parent=arguments.parent)
    home = Home(arguments.home)
    try:
        with alone(home):
            raise SystemExit(asyncio.run(run(home, arguments.name, arguments.period)))
    except IntegrityError as error:
        _log.exception("the log cannot be trusted: %s", error.message)
        raise SystemExit(1) from None
    except DaulatError as error:
        _log.error("the sequencer cannot start: %s", error.message)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

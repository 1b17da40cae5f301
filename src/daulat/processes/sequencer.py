"""The sequencer's process: the only one that reads the log's key."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from daulat.adapters import log_files, rpc
from daulat.adapters.journal_files import JournalFolder
from daulat.adapters.log_files import LogFolder
from daulat.adapters.request_index import RequestIndex
from daulat.adapters.reserve import LogRoom
from daulat.adapters.seal import SqliteSeal
from daulat.core.clock import SystemClock
from daulat.errors import ConfigError, Conflict, DaulatError, IntegrityError, Unavailable
from daulat.ledger.sequencer import Sequencer
from daulat.processes import edge, log_keys
from daulat.settings import Home

TICK_SECONDS: Final = 0.4
ROOM_SECONDS: Final = 1.0
HANDOVER_SECONDS: Final = 20.0  # under the time in which the control plane wants its child to be ready
_log = logging.getLogger(__name__)


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
    """Recover or begin the log `<name>/<period>` of this home, which is to be held (`alone`).

    Raises:
        PermissionDenied: it would begin with a new key that nobody has agreed to; the one before stays in force.
        Conflict: so would it after one that has no entry yet.
    """
    origin = f"{name}/{period}"
    seal = SqliteSeal(home.sequencer_db, origin)
    signer = log_keys.load(home, name, _periods(seal, name, period))
    begins = origin not in seal.origins()
    _close_older(home, name, seal, origin)
    if begins:
        log_keys.must_be_agreed(home, name, _periods(seal, name, period))
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


def _periods(seal: SqliteSeal, name: str, period: str) -> list[str]:
    """All shards of this log up to the one named, which may be about to begin."""
    known = [origin.removeprefix(f"{name}/") for origin in seal.origins()]
    return [*known[: known.index(period)], period] if period in known else [*known, period]


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
        signer=log_keys.load(home, name, _periods(seal, name, period)),
        seal=SqliteSeal(home.sequencer_db, previous),
        log=LogFolder(home.log / period),
        index=RequestIndex(home.index_db, previous),
        journals=JournalFolder(home.journal),
        clock=SystemClock(),
    )
    last.tick()
    if not last.size:  # what goes on from a shard restates its charter, and its key vouches for the next
        raise Conflict(f"{previous} has no entry yet: start the service once, then begin another shard")
    if JournalFolder(home.journal).workers():
        raise ConfigError("a worker of the old shard is still alive; stop it first", location=str(home.journal))


class Service:
    """The sequencer behind its socket. All its work runs on one thread; the loop only waits."""

    def __init__(self, sequencer: Sequencer, facts: Mapping[str, Any], room: LogRoom) -> None:
        """`facts`: what `status` says of this log that does not change."""
        self._sequencer, self._facts, self._room = sequencer, facts, room
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
        """Take in the journals now.

        Raises:
            Unavailable: the disk is full.
        """
        self._room.need()
        return {"taken": await self._take()}

    async def status(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._ticked
        return {
            **self._facts,
            "size": self._sequencer.size,
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
        return await self._take()

    async def _take(self) -> int:
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
    service = Service(sequencer, _facts(home, name, period), room)
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await stop.wait()
        if not failed:
            await service.tick()
    if failed:
        _log.error("the log stops here: %s", failed[0])
        return 1
    return 0


def _facts(home: Home, name: str, period: str) -> dict[str, Any]:
    """Name and public key of the log, and, where it began with a new key, what both keys have signed."""
    origin = f"{name}/{period}"
    seal = SqliteSeal(home.sequencer_db, origin)
    rotation = log_keys.rotation(home, name, _periods(seal, name, period))
    seal.close()
    return {"origin": origin, "vkey": home.vkey.read_text().strip(), "rotation": rotation}


async def _room_comes(room: LogRoom, stop: asyncio.Event) -> bool:
    """Wait for room to recover in: whether it has come before a signal."""
    while not stop.is_set():
        try:
            room.need()
        except Unavailable as error:
            _log.error("the log cannot go on: %s", error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROOM_SECONDS):
                    await stop.wait()
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
    edge.give_way()
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

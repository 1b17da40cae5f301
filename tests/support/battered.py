"""A whole installation that is killed, robbed of its disk and started again, with a new engine at each start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from tests.support.service import free_port
from tests.support.stub_engine import StubEngine

from daulat.adapters import rpc
from daulat.adapters.journal_files import JournalFolder
from daulat.errors import DaulatError
from daulat.ledger import records
from daulat.settings import Home

START_SECONDS = 120.0
_LOOK_AGAIN = 0.03
ROOT = Path(__file__).parents[2]


def nothing_wrong(found: dict[str, Any]) -> bool:
    """Whether `log fsck` found nothing but that the stub's model was never imported."""
    return bool(found["sound"]) and all("is not in the store" in problem["what"] for problem in found["problems"])


def _unfinished(journals: JournalFolder, worker: int) -> set[int]:
    """What a worker's first segment, which no test fills, has admitted and not completed."""
    try:
        data = journals.read(worker, 0, 0)
        read = [record for group in records.groups(data, records.header_length(data), 0) for record in group.records]
    except FileNotFoundError:  # it has ended meanwhile, and was taken in
        return set()
    admitted = {record.sequence for record in read if record.kind == records.ADMISSION}
    return admitted - {record.sequence for record in read if record.kind == records.COMPLETION}


class Battered:
    """One home. `secrets` are those of the first start; `restarts` how long each coming back took, in seconds."""

    def __init__(self, *, workers: int = 2, slots: int = 1024, prefix: Iterable[str] = ()) -> None:
        """`slots`: answers that the engine computes at once. `prefix`: a command under which the service is run."""
        self.folder = Path(tempfile.mkdtemp(prefix="fault-"))  # short: socket addresses have little room
        self.home = Home(self.folder / "home")
        self.faults = self.folder / "faults"
        self.faults.mkdir()
        self.port = free_port()
        self.secrets: dict[str, Any] = {}
        self.first = 0.0  # seconds of the first start, on this machine as it is today
        self.restarts: list[float] = []
        self.view = self.home  # the same, as it is seen from here
        self._workers, self._slots, self._prefix = workers, slots, tuple(prefix)
        self._starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self.engine: StubEngine | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_reason: object) -> None:
        await self.kill_all()
        if kind is None:
            shutil.rmtree(self.folder)
        else:
            sys.stdout.write(f"what is left of it is in {self.folder}\n")

    async def start(self) -> None:
        """Until it answers. The engine is a new one: a real one's supervisor would have died with the service."""
        began = time.monotonic()
        await self._end_engine()
        self._starts += 1
        self.engine = await StubEngine(self.folder / f"engine-{self._starts}").__aenter__()
        arguments = (self.home.path, self.engine.path, self.port, self._workers)
        with (self.folder / "stderr").open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *self._prefix,
                sys.executable,
                *("-m", "tests.support.faulty_service", *map(str, arguments)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={
                    **os.environ,
                    "FAULTS": str(self.faults),
                    "SLOTS": str(self._slots),
                    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                },
                start_new_session=True,
            )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        assert line, f"the service did not start:\n{self.words()}"
        found = json.loads(line)
        self.secrets = {**found, **self.secrets, "log_vkey": found["log_vkey"], "pid": found["pid"]}
        seconds = time.monotonic() - began
        if self._starts == 1:
            self.first = seconds
        else:
            self.restarts.append(seconds)

    async def stop(self) -> int:
        """End it as an operator would; the exit code."""
        assert self._process is not None
        os.kill(self.secrets["pid"], signal.SIGTERM)
        code = await asyncio.wait_for(self._process.wait(), START_SECONDS)
        self._process = None
        await self._end_engine()
        return code

    async def kill_control(self) -> None:
        """The control plane alone: the kernel tells its children to end."""
        assert self._process is not None
        os.kill(self.secrets["pid"], signal.SIGKILL)
        await self._process.wait()

    async def kill_all(self) -> None:
        """Everything at one moment, as a loss of power does."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        await self._end_engine()

    async def _end_engine(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.__aexit__()

    async def call(self, method: str, **params: Any) -> Any:
        """Ask the control plane, as the verbs do."""
        return await asyncio.to_thread(rpc.call, self.view.control_socket, method, timeout=60.0, **params)

    async def status(self) -> dict[str, Any]:
        return dict(await asyncio.to_thread(rpc.call, self.view.control_socket, "status", timeout=20.0))

    async def processes(self) -> dict[str, list[int]]:
        """Process ids by name, once all that should run is ready."""

        async def all_ready() -> dict[str, list[int]] | None:
            found: dict[str, list[int]] = {}
            for child in (await self.status())["processes"]:
                if not child["ready"]:
                    return None
                found.setdefault(child["name"], []).append(child["pid"])
            return found

        return await self.until(all_ready)

    async def replaced(self, pid: int) -> None:
        """Until another process stands in the place of this one."""
        began = time.monotonic()

        async def gone() -> bool:
            return all(pid not in pids for pids in (await self.processes()).values())

        await self.until(gone)
        self.restarts.append(time.monotonic() - began)

    def fail(self, pid: int, kind: str) -> None:
        """At this process' next write (`tests.support.faulty`)."""
        beside = self.faults / f".{pid}"
        beside.write_text(kind)
        beside.rename(self.faults / str(pid))

    async def integrated(self) -> None:
        """Until the log has taken in everything that any worker wrote, and no dead one is left.

        A worker may still have to complete what it has admitted: it notices a client that hung up a little later.
        """
        journals = JournalFolder(self.view.journal)

        async def done() -> bool:
            if any(_unfinished(journals, worker) for worker in journals.workers() if journals.alive(worker)):
                return False
            await asyncio.to_thread(rpc.call, self.view.sequencer_socket, "flush", timeout=30.0)
            return all(journals.alive(worker) for worker in journals.workers())

        await self.until(done)

    async def until(self, condition: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
        """The condition's value, once it is true; what the service does not answer meanwhile is no answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(DaulatError):
                if found := await condition():
                    return found
            assert self._process is None or self._process.returncode is None, f"the service ended:\n{self.words()}"
            await asyncio.sleep(_LOOK_AGAIN)
        raise AssertionError(f"not within {seconds} s:\n{self.words()}")

    def words(self) -> str:
        """The last things the service said."""
        logs = (self.folder / "stderr", self.view.path / "daulat.log")
        return "\n".join(path.read_text()[-3000:] for path in logs if path.exists())

"""Child processes: started, waited for until ready, started again when they end, and ended in the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from daulat.errors import Unavailable

_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 30.0
_STEADY_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


class Child:
    """One of our processes, kept alive."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        *,
        gives_up: int | None = None,
        on_giving_up: Callable[[str], None] = lambda _: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`gives_up`: after how many starts in a row without becoming ready `on_giving_up` is called, and that was it.

        `on_end` is called whenever it has ended by itself.
        One that was ready and then ended (killed, say) is always started again, the later the oftener it happens.
        """
        self.name = module.rpartition(".")[2]
        self._command = [sys.executable, "-m", module, *arguments, "--parent", str(os.getpid())]
        self._log, self._gives_up, self._on_giving_up, self._on_end = log, gives_up, on_giving_up, on_end
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.ready = asyncio.Event()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def wait_ready(self, seconds: float) -> None:
        """Wait until it has said so.

        Raises:
            Unavailable: it has not, in that time; the message holds the end of its log.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.ready.wait()
        except TimeoutError:
            raise Unavailable(f"the {self.name} is not ready after {seconds:.0f} s; see {self._log}") from None

    async def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(seconds):
                    await self._process.wait()
            except TimeoutError:
                _log.warning("the %s did not end within %.0f s and is killed", self.name, seconds)
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        wait, failures = _FIRST_WAIT, 0
        while True:
            began = time.monotonic()
            code = await self._one_life()
            failures = 0 if self.ready.is_set() else failures + 1
            self.ready.clear()
            if self._stopping:
                return
            self._on_end()
            lasted = time.monotonic() - began
            wait = _FIRST_WAIT if lasted > _STEADY_SECONDS else wait
            _log.warning("the %s ended with %s after %.1f s", self.name, code, lasted)
            if self._gives_up is not None and failures >= self._gives_up:
                self._on_giving_up(
                    f"the {self.name} could not start {failures} times in a row (last: {code}); see {self._log}"
                )
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _one_life(self) -> int:
        self.starts += 1
        descriptor = os.open(self._log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=descriptor
            )
        finally:
            os.close(descriptor)
        output = self._process.stdout
        if output is not None:
            while line := await output.readline():
                if line == b"ready\n":
                    self.ready.set()
        return await self._process.wait()

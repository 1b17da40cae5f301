"""A supervisor's reports to the control plane: in order, each until it has been taken, never in the engine's way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from pathlib import Path
from typing import Any, Final

from daulat.adapters import rpc
from daulat.errors import DaulatError, NotFound, Unavailable

_RETRY_SECONDS: Final = 0.5
_MOST_WAITING: Final = 1000
_log = logging.getLogger(__name__)


class Reports:
    """`replica.report(replica, event, data)` for one replica. While nobody listens they wait, the oldest 1,000."""

    def __init__(self, control: Path, replica: str) -> None:
        self._client = rpc.Client(control)
        self._replica = replica
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def say(self, event: str, **data: Any) -> None:
        """Hand over a report. Progress overtakes older progress; what matters is never dropped for it."""
        if event == "loading" and self._waiting and self._waiting[-1][0] == "loading":
            self._waiting.pop()
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append((event, data))
        self._empty.clear()
        self._more.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                report = self._waiting[0]
                await self._send(*report)
                if self._waiting and self._waiting[0] is report:
                    self._waiting.popleft()
            self._empty.set()

    async def _send(self, event: str, data: dict[str, Any]) -> None:
        while True:
            try:
                await self._client.call("replica.report", replica=self._replica, event=event, data=data)
            except (Unavailable, NotFound):
                await asyncio.sleep(_RETRY_SECONDS)
            except DaulatError as error:
                _log.warning("the control plane refused the report %s: %s", event, error.message)
                return
            else:
                return

    async def close(self, *, seconds: float) -> None:
        """Wait a little for the last reports to be taken."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        await self._client.close()

"""A worker's exchanges with the control plane about quotas: what it is short of, and what others want that it has."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final, Protocol

from daulat.core.clock import Clock
from daulat.errors import DaulatError
from daulat.metering.slices import Id, Lent
from daulat.pipeline.turns import Turns

IDLE_SECONDS: Final = 1.0  # at most between two exchanges: others may be short of what this worker has
_AGAIN_SECONDS: Final = 0.1
_log = logging.getLogger(__name__)


class Lender(Protocol):
    """Port: the control plane (`adapters.rpc.Client`)."""

    async def call(self, method: str, **params: Any) -> Any: ...


class Borrower:
    """One exchange at a time; what comes up meanwhile goes into the next."""

    def __init__(self, lender: Lender, worker: int, clock: Clock) -> None:
        """`worker`: the index of its key in the log."""
        self._lender, self._worker, self._clock = lender, worker, clock
        self._wanted = asyncio.Event()
        self.exchanges = 0

    def kick(self) -> None:
        """Something is wanted."""
        self._wanted.set()

    async def run(self, turns: Turns) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(looked + IDLE_SECONDS):
                    await self._wanted.wait()
            self._wanted.clear()
            now = loop.time()
            idle = now - looked >= IDLE_SECONDS
            if idle:
                looked = now
                turns.quotas.look(self._clock.now_ms())
            await self._exchange(turns, idle=idle)

    async def _exchange(self, turns: Turns, *, idle: bool) -> None:
        quotas = turns.quotas
        asks = quotas.asks(self._clock.now_ms())
        if not (asks or (idle and quotas.holds)):
            return
        self.exchanges += 1
        try:
            answer = await self._lender.call("quota.lend", worker=self._worker, asks=asks)
        except DaulatError as error:
            _log.warning("the control plane lends nothing: %s", error.message)
            quotas.failed(asks)
            await asyncio.sleep(_AGAIN_SECONDS)
            self._wanted.set()
            return
        now = self._clock.now_ms()
        quotas.lent([Lent(Id(*id_), number, given, left) for id_, number, given, left in answer["lent"]], now)
        turns.lent(now)
        if quotas.wanted([(Id(*id_), number) for id_, number in answer["wanted"]], now):
            self._wanted.set()

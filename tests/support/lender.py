"""The control plane's lender beside one worker or several, without a socket between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from daulat.core.quota import RESOURCES, Limit, window
from daulat.metering.lending import Lender
from daulat.metering.quotas import Quotas
from daulat.metering.slices import Ask, Id, Lent
from daulat.pipeline.limits import bounds
from daulat.pipeline.turns import Turns


class Log:
    """What the log has of each worker, as `adapters.usage_db` would sum it up."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[Id, int, int]] = Counter()

    def write(self, worker: int, id_: Id, amount: int, now_ms: int) -> None:
        number, _ = window(RESOURCES[id_.resource], now_ms)
        self._counted[id_, number, worker] += amount

    def spent(self, accounts: Collection[tuple[Id, int]], without: Collection[int]) -> Counter[tuple[Id, int]]:
        found: Counter[tuple[Id, int]] = Counter()
        for (id_, number, worker), amount in self._counted.items():
            if (id_, number) in accounts and worker not in without:
                found[id_, number] += amount
        return found


class LocalLender:
    """One lender, asked at once. `down`: it does not answer."""

    def __init__(self, limits: Collection[Limit], workers: int = 1) -> None:
        self.log = Log()
        self.lender = Lender(self.log.spent, workers)
        self.lender.limits = bounds(limits)
        self.down = False
        self.exchanges = 0

    def exchange(self, worker: int, quotas: Quotas, now_ms: int, *, idle: bool = False) -> None:
        """What a worker's `Borrower` does."""
        if idle:
            quotas.look(now_ms)
        asks: list[Ask] = quotas.asks(now_ms)
        if self.down:
            quotas.failed(asks)
        elif asks or idle:
            self.exchanges += 1
            answers: list[Lent] = self.lender.lend(worker, asks, now_ms)
            quotas.lent(answers, now_ms)
            if quotas.wanted(self.lender.wanted(worker), now_ms):
                self.exchange(worker, quotas, now_ms)

    def serve(self, worker: int, turns: Turns, now_ms: int) -> None:
        """The same, and those that waited for it go on."""
        self.exchange(worker, turns.quotas, now_ms)
        if not self.down:
            turns.lent(now_ms)

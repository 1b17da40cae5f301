"""The control plane's side of quotas: it lends workers slices of what is left of every limit.

What is left of a limit is the limit, less what the log has of this minute, day or month, less what is lent to workers
that still live, or whose journal the log has not taken in yet. So the sum of what all workers may spend is never more
than the limit, whichever of them die and when: a dead worker's slices count as spent until its entries are in the log,
and from then on its entries count instead. What a worker has and does not need stays with it until little is left to
lend: then it is asked for that. Pure: `Spent` is the log's projection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from daulat.core.quota import RESOURCES, window
from daulat.metering.slices import Ask, Id, Lent, scarce

SHARE: Final = 2
"""A worker gets at most this part of its even share of what is left beyond what it needs at once."""

Spent = Callable[[Collection[tuple[Id, int]], Collection[int]], Mapping[tuple[Id, int], int]]
"""What the log has of accounts, each in a window, without the entries of these workers (by the index of their key).

Of many at once: as a minute begins all are new, and each would be a query of its own."""


@dataclass(slots=True)
class _Account:
    spent: int  # in the log, by workers that nothing is lent to
    out: dict[int, int] = field(default_factory=dict)  # lent, by worker

    @property
    def gone(self) -> int:
        return self.spent + sum(self.out.values())


_NONE: Final[Mapping[Id, _Account]] = {}


class Lender:
    """All accounts. `limits` by account's id: those that there are; what is not among them is not limited."""

    def __init__(self, spent: Spent, workers: int) -> None:
        self._spent, self._workers = spent, workers
        self.limits: Mapping[Id, int] = {}
        self._windows: dict[tuple[str, int], dict[Id, _Account]] = {}  # accounts, by resource and window
        self._tracked: set[int] = set()  # workers that live, or whose journal is not in the log yet
        self._wanted: dict[int, set[tuple[Id, int]]] = {}  # by worker that has some: what is scarce

    def began(self, worker: int) -> None:
        """A worker has registered: from now on it is lent to."""
        self._tracked.add(worker)
        self.recount()

    def ended(self, worker: int) -> None:
        """Everything that a dead worker wrote is in the log, and in the projection: it counts as the log has it."""
        self._tracked.discard(worker)
        self._wanted.pop(worker, None)
        for accounts in self._windows.values():
            for account in accounts.values():
                account.out.pop(worker, None)
        self.recount()

    def lend(self, worker: int, asks: Iterable[Ask], now_ms: int) -> list[Lent]:
        """Take back, and lend what is wanted where there is so much; a little more, where there is plenty."""
        answers, asks = [], list(asks)
        self._open([(id_, number) for id_, number, _, _ in asks], now_ms)
        for id_, number, want, back in asks:
            account = self._account(id_, number)
            limit = self.limits.get(id_)
            if account is None or worker not in self._tracked:
                answers.append(Lent(id_, number, 0, 0))
                continue
            account.out[worker] = account.out.get(worker, 0) - back
            if limit is None:  # it was taken away a moment ago
                answers.append(Lent(id_, number, want, want))
                continue
            left = limit - account.gone
            given = 0
            if want and left >= want:
                given = min(left, want + (left - want) // (SHARE * self._workers))
            account.out[worker] += given
            if want and scarce(limit, left - given):
                for other in [other for other, out in account.out.items() if other != worker and out > 0]:
                    self._wanted.setdefault(other, set()).add((id_, number))
            answers.append(Lent(id_, number, given, max(0, left - given)))
        return answers

    def wanted(self, worker: int) -> list[tuple[Id, int]]:
        """Of what little is left for others that want it, and this worker has, or had, some: accounts, in a window."""
        return list(self._wanted.pop(worker, ()))

    def gone(self, id_: Id, now_ms: int) -> int:
        """How much of a limit is spent or lent now."""
        number, _ = window(RESOURCES[id_.resource], now_ms)
        self._open([(id_, number)], now_ms)
        return self._windows[id_.resource, number][id_].gone

    def _open(self, those: Iterable[tuple[Id, int]], now_ms: int) -> None:
        """Have these accounts, but for those of windows which are neither now nor beside it: nothing has those."""
        current = {resource: window(period, now_ms)[0] for resource, period in RESOURCES.items()}
        new = [each for each in those if abs(each[1] - current[each[0].resource]) <= 1 and not self._account(*each)]
        if not new:
            return
        spent = self._spent(new, self._tracked)
        for resource, number in [each for each in self._windows if each[1] < current[each[0]] - 1]:
            del self._windows[resource, number]
        for id_, number in new:
            accounts = self._windows.setdefault((id_.resource, number), {})
            accounts[id_] = _Account(spent.get((id_, number), 0))

    def _account(self, id_: Id, number: int) -> _Account | None:
        return self._windows.get((id_.resource, number), _NONE).get(id_)

    def recount(self) -> None:
        """The log has something new of workers that nothing is lent to."""
        every = [(id_, number) for (_, number), accounts in self._windows.items() for id_ in accounts]
        spent = self._spent(every, self._tracked)
        for id_, number in every:
            self._windows[id_.resource, number][id_].spent = spent.get((id_, number), 0)

"""What the control process does for people and for other processes, a class each: one more is one more field here."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from daulat.adapters import rpc
from daulat.core.snapshot import Roll
from daulat.processes.breaches import Breaches
from daulat.processes.consenting import Consenting
from daulat.processes.establishing import Established
from daulat.processes.identifying import Identifying
from daulat.processes.metering import Metering
from daulat.processes.plan import Plan
from daulat.processes.provisioning import Provisioning
from daulat.processes.storing import Storing


@dataclass(frozen=True, slots=True)
class Services:
    """Those of one start."""

    consenting: Consenting
    identifying: Identifying
    provisioning: Provisioning
    storing: Storing
    metering: Metering
    breaches: Breaches

    @classmethod
    async def begin(cls, by: Established, plan: Plan, databases: ExitStack) -> Services:
        """Build them. `databases`: where those that they open are left to be closed."""
        rows, book, clock, desk, (_, charter) = by.rows, by.book, by.clock, by.desk, by.charter
        identifying = Identifying(rows, book.write, clock, by.charter, desk, by.terms.signin)
        provisioning = Provisioning(rows, book.write, clock, by.charter, desk, by.home, by.terms.signin)
        storing = Storing(rows, book, clock, by.charter, desk, by.home)
        for action, act in storing.acts().items():
            by.consenting.offer(action, act)
        placed = (by.home, charter.name, book.origin, charter.country, plan.workers)
        metering = Metering(rows, desk.act, clock, *placed)
        databases.callback(metering.close)
        await metering.begin()
        breaches = Breaches(rows, desk, clock, by.home)
        return cls(by.consenting, identifying, provisioning, storing, metering, breaches)

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act."""
        people = (self.consenting, self.identifying, self.provisioning)
        offering = (*people, self.storing, self.metering, self.breaches)
        return {method: handler for each in offering for method, handler in each.handlers(changes).items()}

    def watches(
        self, changes: Callable[[Callable[..., Any]], rpc.Handler], roll: Callable[[], Roll | None]
    ) -> list[Coroutine[Any, Any, None]]:
        """What they do for as long as the service runs. `roll`: of who may ask, as published."""
        storing, identifying = self.storing.watch(changes), self.identifying.watch(roll)
        return [self.metering.watch(), storing, self.consenting.watch(), identifying]

"""What all requests of one worker share."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

from daulat.core.clock import Clock
from daulat.core.ids import RequestIds
from daulat.ledger.journal import Durable, Promised
from daulat.metering.denials import DenialBudget
from daulat.metering.quotas import Quotas
from daulat.pipeline.ports import Engines, Render, Vault
from daulat.pipeline.turns import Turns
from daulat.pipeline.usage import Usage
from daulat.pipeline.world import World

AVOID_SECONDS: Final = 3.0  # by then the control plane has taken a dead replica out of the snapshot, or it is back


class Ledger(Protocol):
    """Port: `ledger.journal.Journal`."""

    @property
    def shortage(self) -> str: ...

    def next_sequence(self) -> int: ...

    def admit(self, sequence: int, request_id: str, record: bytes, on_durable: Promised) -> None: ...

    def attempt(self, sequence: int, record: bytes, on_durable: Durable) -> None: ...

    def complete(self, sequence: int, record: bytes, on_durable: Durable, *, patient: bool = False) -> None: ...

    def admit_complete(
        self, sequence: int, request_id: str, admission: bytes, completion: bytes, on_durable: Promised
    ) -> None: ...

    def refuse_principal(self, pseudonym: str) -> None: ...


class Meter(Protocol):
    """Port: `gateway.metrics`."""

    def finished(self, action: str, status: int, outcome: str, usage: Usage, started: float, first: float) -> None:
        """Count one request that ends now; `started` and `first` (byte) are monotonic seconds. 0 as `first`: its answer
        is one piece."""
        ...


class Running(Protocol):
    """A request under way (`pipeline.inference.Inference`)."""

    def check(self, world: World) -> None:
        """End, if this new world no longer covers it."""
        ...

    def sweep(self, now: float) -> None:
        """End, if it takes too long."""
        ...

    def cut(self, reason: str) -> None:
        """End now, and say why."""
        ...


class Service:
    """One worker's shared state, touched on its loop alone."""

    def __init__(
        self,
        *,
        world: World,
        ledger: Ledger,
        engines: Engines,
        meter: Meter,
        render: Render,
        clock: Clock,
        vault: Vault,
        borrow: Callable[[], None],
    ) -> None:
        """`borrow`: see to it that the control plane lends what `turns.quotas` is short of, and tell `turns` of it."""
        self.world, self.limits = world, world.snapshot.limits
        self.ledger, self.engines, self.meter = ledger, engines, meter
        self.render, self.clock, self.vault = render, clock, vault
        self.ids = RequestIds()
        self.denials = DenialBudget()
        self.load: dict[str, int] = {}  # requests in flight by replica id
        self.active: set[Running] = set()
        self.turns = Turns(Quotas(), lambda: self.world, lambda replica: self.load.get(replica, 0), borrow)
        self._avoid: dict[str, float] = {}  # replicas seen dead, and until when they are left alone

    def avoid(self, replica: str) -> None:
        """A replica broke off: others come first for a while, without waiting for the control plane to notice."""
        self._avoid[replica] = time.monotonic() + AVOID_SECONDS

    def avoided(self) -> Collection[str]:
        """Replicas that broke off a moment ago."""
        if not self._avoid:
            return ()
        now = time.monotonic()
        self._avoid = {replica: until for replica, until in self._avoid.items() if until > now}
        return self._avoid

    def renew(self, world: World) -> None:
        """Take a new snapshot, and cut every running answer that it no longer covers."""
        self.world, self.limits = world, world.snapshot.limits
        known = {replica.id for replica in world.snapshot.replicas}
        self.load = {replica: count for replica, count in self.load.items() if count or replica in known}
        for inference in list(self.active):
            inference.check(world)
        self.turns.look()

    def sweep(self, now: float) -> None:
        """End what takes too long; `now` is monotonic seconds. Called a few times a second."""
        for inference in list(self.active):
            inference.sweep(now)
        self.turns.sweep(self.limits.engine_seconds)

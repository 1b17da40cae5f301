"""Step 4 of a request's life: what it may use is reserved, and where the engines are full it waits for its turn.

Only requests of limited keys, tenants or models come here, and those that find every place taken; those that a purse
pays for (`metering.purse`) do not. One that waits has no record in the journal yet: it is admitted when it goes on, by
the world of that moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from daulat.core.quota import Prices, day_of
from daulat.errors import DaulatError, Overloaded, Unavailable
from daulat.metering.fair import FairQueue
from daulat.metering.purse import Purse
from daulat.metering.quotas import Need, Quotas, Taken
from daulat.pipeline.usage import Usage
from daulat.pipeline.world import Grant, World

LENDING_SECONDS: Final = 5.0  # a control plane that has lent nothing by then is not there


class Asker(Protocol):
    """A request that waits (`pipeline.inference.Inference`)."""

    def go(self) -> None:
        """Everything is reserved, and there is a place."""
        ...

    def turn_down(self, error: DaulatError) -> None:
        """It is not answered."""
        ...


class Turn:
    """What one request is to use, and has been given."""

    __slots__ = (
        "asker",
        "begun",
        "crowded",
        "day",
        "grant",
        "lines",
        "model",
        "need",
        "needs_place",
        "queued",
        "taken",
        "tenant",
        "waited",
    )

    def __init__(
        self,
        asker: Asker,
        grant: Grant,
        tenant: str,
        model: str,
        begun: float,
        *,
        needs_place: bool,
        crowded: bool,
    ) -> None:
        """`begun`: when the request came, by the monotonic clock; `crowded`: its replica had no room for it then."""
        self.asker, self.grant, self.tenant, self.model, self.needs_place = asker, grant, tenant, model, needs_place
        self.begun, self.crowded = begun, crowded
        self.taken: Taken | None = None
        self.need = Need(0, 0)
        self.day = ""
        self.lines = ""  # what its answer's headers say of its limits
        self.queued = False  # it has waited for a place
        self.waited = False  # for that, or for a slice


class Turns:
    """All requests of one worker that wait for something, or have something reserved."""

    def __init__(
        self, quotas: Quotas, world: Callable[[], World], load: Callable[[str], int], kick: Callable[[], None]
    ) -> None:
        """`load`: requests in flight by replica id. `kick`: have the control plane lend what is wanted, soon."""
        self.quotas = quotas
        self._world, self._load, self._kick = world, load, kick
        self._short: dict[Turn, None] = {}  # they wait for a slice, in this order
        self._queues: dict[str, FairQueue[Turn]] = {}  # by model: they wait for a place
        self.waiting = 0  # in those queues

    def begin(self, turn: Turn, prompt: int, completion: int, now_ms: int) -> None:
        """Go on at once, or wait. `prompt`, `completion`: tokens, as far as can be told beforehand."""
        turn.day = day_of(now_ms)
        turn.need = Need(prompt + completion, self._prices.cost(turn.model, turn.day, prompt, 0, completion))
        self._reserve(turn, now_ms)

    def lent(self, now_ms: int) -> None:
        """The control plane has answered: who waited for that goes on, or is refused."""
        short, self._short = self._short, {}
        for turn in short:
            self._reserve(turn, now_ms)

    def freed(self, model: str) -> None:
        """A place may have become free."""
        queue = self._queues.get(model)
        while queue and self._has_room(model):
            self.waiting -= 1
            queue.pop().asker.go()
        if queue is not None and not queue and model not in self._world().models:
            del self._queues[model]

    def settle(self, turn: Turn, usage: Usage) -> None:
        """It has been answered, with this usage."""
        del turn.asker  # it holds its turn: what it has in memory goes at once, not when the collector comes
        tokens = usage.prompt_tokens + usage.completion_tokens
        if turn.taken:
            cost = self._prices.cost(
                turn.model, turn.day, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
            )
            self.quotas.settle(turn.taken, tokens, cost)
            turn.taken = None
            if self.quotas.hungry:
                self._kick()
        if turn.queued and (queue := self._queues.get(turn.model)) is not None:
            queue.correct(turn.tenant, (tokens - turn.need.tokens) / turn.grant.weight)

    def settle_late(self, purse: Purse, taken: int, tokens: int) -> None:
        """One that was paid out of a purse has been answered, and the purse owes something or is closed."""
        self.quotas.settle_late(purse, taken, tokens)
        if self.quotas.hungry:
            self._kick()

    def leave(self, turn: Turn) -> None:
        """It will not be answered: nothing of it counts."""
        del turn.asker
        if turn in self._short:
            del self._short[turn]
        elif turn.queued and (queue := self._queues.get(turn.model)) is not None and queue.remove(turn):
            self.waiting -= 1
        if turn.taken:
            self.quotas.cancel(turn.taken)
            turn.taken = None

    def header_lines(self, turn: Turn, now_ms: int) -> str:
        """`x-ratelimit-*` of its limits."""
        return self.quotas.lines(turn.grant.limited, now_ms)

    def sweep(self, seconds: float) -> None:
        """End what has waited too long: `seconds` for a place. Called a few times a second."""
        now = time.monotonic()
        for turn in [turn for turn in self._short if now - turn.begun > LENDING_SECONDS]:
            turn.asker.turn_down(
                Unavailable("The control plane lends nothing of this key's quota now.", code="quota_unavailable")
            )
        for queue in self._queues.values():
            for turn in [turn for turn in queue if now - turn.begun > seconds]:
                turn.asker.turn_down(
                    Overloaded(f"Every place of '{turn.model}' was taken for {seconds:.0f} s.", retry_after=5.0)
                )
        self.look()

    def look(self) -> None:
        """Let go on whoever can: places may have come, and models may have gone."""
        for model in list(self._queues):
            self.freed(model)

    @property
    def _prices(self) -> Prices:
        return self._world().directory.prices

    def _reserve(self, turn: Turn, now_ms: int) -> None:
        try:
            turn.taken = self.quotas.reserve(turn.grant.limited, turn.need, now_ms)
        except Overloaded as error:
            turn.asker.turn_down(error)
            return
        if turn.taken is None:
            self._short[turn] = None
            turn.waited = True
            self._kick()
        elif turn.needs_place and (turn.crowded or turn.waited) and not self._has_room(turn.model):
            queue = self._queues.setdefault(turn.model, FairQueue())
            turn.queued = turn.waited = True
            self.waiting += 1
            grant = turn.grant
            queue.push(turn.tenant, turn, cost=turn.need.tokens, weight=grant.weight, priority=grant.priority)
        else:
            turn.lines = self.quotas.lines(turn.grant.limited, now_ms)  # here, where all of it is at hand
            turn.asker.go()

    def _has_room(self, model: str) -> bool:
        """Whether any replica could begin with one more. Where none may answer, waiting would not help."""
        try:
            routes = self._world().routes(model)
        except DaulatError:
            return True
        for route in routes:  # noqa: SIM110  for each limited request: `any` takes four times as long
            if self._load(route.replica.id) < route.room:
                return True
        return False

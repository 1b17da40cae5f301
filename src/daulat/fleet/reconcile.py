"""What to do next, so that what runs becomes what is wished for. Pure and level-triggered: same sight, same answer.

A rollout goes replica by replica: the new one is started beside the old ones (at most `SURGE` beyond the wish), has to
stay ready for `STEADY_SECONDS`, and only then an old one is drained. Where there is no room for that, a deployment may
be recreated: all old ones are drained and end, and the new ones are started as they make room. A new revision that does
not get there is given up: its replicas are stopped, and the old revision, which still serves unless it made room, is
what is aimed at again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from daulat.core.deployment import Condition, Phase

SURGE: Final = 1
TRIES: Final = 3  # ends of a new revision's engine, before the revision is given up
PROGRESS_SECONDS: Final = 900.0  # for a new revision's replica to become ready (a large model loads for minutes)
STEADY_SECONDS: Final = 2.0
_LEAVING: Final = frozenset({"draining", "stopping"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """One deployment. `good`: the last revision that was up as wished, None before that; `blocked`: why none can start.

    `failed`: the newest revision was given up; what is aimed at is then the good one. `recreate`: old replicas
    end before new ones start, as soon as the model of these is `prepared` (verified and admitted).
    """

    name: str
    replicas: int
    revision: int
    good: int | None = None
    failed: bool = False
    blocked: str = ""
    recreate: bool = False
    prepared: bool = True

    @property
    def target(self) -> int:
        return self.good if self.failed and self.good is not None else self.revision

    @property
    def trying(self) -> bool:
        """Whether a new revision is on trial beside one that was good."""
        return self.good is not None and self.target != self.good


@dataclass(frozen=True, slots=True)
class Running:
    """One replica as it is seen. Times in monotonic seconds.

    `ends`: how often its engine has ended; `last`: why it last did; `cordoned`: it is to be replaced (an operator wants
    it drained, or its share of the machine has changed); `idle`: nothing is being answered by it.
    """

    id: str
    deployment: str
    revision: int
    phase: Phase
    since: float  # of the replica's start
    ready_since: float | None = None
    ends: int = 0
    last: str = ""
    cordoned: bool = False
    idle: bool = False
    drain_until: float = 0.0

    def steady(self, now: float) -> bool:
        """Whether it has been ready for long enough to rely on."""
        return self.phase == "ready" and self.ready_since is not None and now - self.ready_since >= STEADY_SECONDS


@dataclass(frozen=True, slots=True)
class Start:
    """Start one more replica of this revision."""

    deployment: str
    revision: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Send it nothing new."""

    replica: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End it: nothing runs on it, or what runs has had its time."""

    replica: str


@dataclass(frozen=True, slots=True)
class Promote:
    """All replicas wished for are up: this revision is the one to fall back to from now on."""

    deployment: str
    revision: int


@dataclass(frozen=True, slots=True)
class RollBack:
    """Give the newest revision up."""

    deployment: str
    reason: str


Action = Start | Drain | Stop | Promote | RollBack


def reconcile(wanted: Iterable[Wanted], running: Sequence[Running], now: float) -> list[Action]:
    """The next steps. Each is safe alone, in any order, and again."""
    by_name = {want.name: want for want in wanted}
    actions: list[Action] = []
    for name in [*by_name, *sorted({replica.deployment for replica in running} - by_name.keys())]:
        mine = [replica for replica in running if replica.deployment == name]
        actions += _leaving(mine, now)
        actions += _one(by_name.get(name) or Wanted(name, 0, 0), mine, now)
    return actions


def _leaving(mine: Iterable[Running], now: float) -> Iterator[Action]:
    for replica in mine:
        if replica.phase == "draining" and (replica.idle or now >= replica.drain_until):
            yield Stop(replica.id)


def _one(want: Wanted, mine: Sequence[Running], now: float) -> Iterator[Action]:
    live = [replica for replica in mine if replica.phase not in _LEAVING]
    fresh = [replica for replica in live if replica.revision == want.target and not replica.cordoned]
    if want.trying and (reason := _given_up(want, fresh, now)):
        yield RollBack(want.name, reason)
        return
    stale = [replica for replica in live if replica not in fresh]
    steady = [replica for replica in fresh if replica.steady(now)]
    if want.replicas and len(steady) >= want.replicas and want.good != want.target:
        yield Promote(want.name, want.target)
    recreating = want.recreate and want.replicas > 0
    if not recreating:
        yield from _retire(want, fresh, stale, len(steady))
    elif want.prepared and not want.blocked:
        yield from (Drain(replica.id) if replica.phase == "ready" else Stop(replica.id) for replica in stale)
        yield from _retire(want, fresh, (), len(steady))
    missing = want.replicas - len(fresh)
    room = want.replicas + (0 if recreating and want.prepared else SURGE) - len(mine)  # leaving ones still hold theirs
    if not want.blocked:
        for _ in range(min(missing, room)):
            yield Start(want.name, want.target)


def _given_up(want: Wanted, fresh: Iterable[Running], now: float) -> str:
    """Why the revision on trial is not to be hoped for any more, or an empty string."""
    if want.blocked:
        return want.blocked
    for replica in fresh:
        if replica.ends >= TRIES:
            return f"its engine ended {replica.ends} times: {replica.last}"
        if replica.phase != "ready" and now - replica.since > PROGRESS_SECONDS:
            return f"it was not ready after {PROGRESS_SECONDS:.0f} s"
    return ""


def _retire(want: Wanted, fresh: Sequence[Running], stale: Sequence[Running], steady: int) -> Iterator[Action]:
    """End what is not wished for, and never the last ones that answer while their successors do not yet."""
    for replica in stale:
        if replica.phase != "ready":
            yield Stop(replica.id)
    answering = sorted((replica for replica in stale if replica.phase == "ready"), key=lambda replica: replica.since)
    spare = steady + len(answering) - want.replicas
    for replica in answering[: max(0, spare)]:
        yield Drain(replica.id)
    extra = len(fresh) - want.replicas
    for replica in sorted(fresh, key=lambda replica: (replica.phase == "ready", -replica.since))[: max(0, extra)]:
        yield Drain(replica.id) if replica.phase == "ready" else Stop(replica.id)


def conditions(want: Wanted, mine: Sequence[Running], why_failed: str = "") -> tuple[Condition, Condition]:
    """Available and Progressing. `why_failed`: of the revision that was given up."""
    live = [replica for replica in mine if replica.phase not in _LEAVING]
    ready = sum(replica.phase == "ready" for replica in live)
    fresh = sum(
        replica.phase == "ready" and replica.revision == want.target and not replica.cordoned for replica in live
    )
    broken = [replica.last for replica in live if replica.phase != "ready" and replica.last]
    words = f"{ready} of {want.replicas} replicas answer"
    enough = ready >= want.replicas
    available = Condition(
        "Available",
        "True" if enough else "False",
        "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        words if enough or not broken else f"{words}; one stopped: {broken[-1]}",
    )
    if want.failed:
        said = f"revision {want.revision} was given up: {why_failed}"
        return available, Condition("Progressing", "False", "RolledBack", said)
    if want.blocked:
        return available, Condition("Progressing", "False", "Blocked", want.blocked)
    if fresh >= want.replicas and len(live) == want.replicas:
        return available, Condition("Progressing", "True", "Complete", f"revision {want.revision} is what runs")
    if broken:
        said = f"an engine stopped and is being started again: {broken[-1]}"
        return available, Condition("Progressing", "True", "ReplicaFailure", said)
    said = f"{fresh} of {want.replicas} replicas of revision {want.revision} are ready"
    if want.recreate and len(mine) > len(live):
        said += "; the old ones end first (strategy recreate), and nothing else answers meanwhile"
    return available, Condition("Progressing", "True", "Rollout", said)

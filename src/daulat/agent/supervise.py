"""When to give up on an engine, and how long to wait before the next try. Pure: time comes in as numbers.

A supervisor's loop feeds what it saw; each watch answers None, or why the engine must be stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
STEADY_SECONDS = 300.0  # an engine that lasted this long starts its back-off anew


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds an engine may give no `sign` of life.

    `idle`: while it computes nothing, so uses at most `share` of one core between two looks; `busy`: at all.
    """

    sign: str
    idle: float
    busy: float
    share: float


HEALTH = Patience("health answer", 12.0, 90.0, 0.02)  # a long prefill holds a core, but never the health threads
TOKEN = Patience("token", 25.0, 600.0, 0.2)  # answering probes takes some of a core, a prefill all of one for minutes


class Backoff:
    """0.5 s doubling to 60 s; anew after five steady minutes."""

    def __init__(self) -> None:
        self._wait = FIRST_WAIT

    def after(self, lasted: float) -> float:
        """Seconds to wait, after a run that lasted `lasted` seconds."""
        if lasted >= STEADY_SECONDS:
            self._wait = FIRST_WAIT
        wait, self._wait = self._wait, min(self._wait * 2, LONGEST_WAIT)
        return wait


@dataclass(slots=True)
class HangWatch:
    """Is it hung, or only busy?

    Each look is held against the one before: what an engine computed until it stopped, under load a core or more, must
    not speak for it afterwards.

    `answered` and `computed`: when it last did, in seconds; `cpu` and `looked`: processor seconds as of the last look.
    """

    answered: float
    cpu: float
    patience: Patience = HEALTH
    looked: float = field(init=False)
    computed: float = field(init=False)

    def __post_init__(self) -> None:
        self.looked = self.computed = self.answered

    def see(self, *, now: float, healthy: bool, cpu: float) -> str | None:
        """One look. `cpu`: processor seconds that the engine has used since its start."""
        patience = self.patience
        if cpu - self.cpu > patience.share * (now - self.looked):
            self.computed = now
        self.looked, self.cpu = now, cpu
        if healthy:
            self.answered = now
            return None
        silent = now - self.answered
        if silent >= patience.busy:
            return f"hung: no {patience.sign} for {silent:.0f} s"
        if silent >= patience.idle and now - self.computed >= patience.idle:
            return f"hung: no {patience.sign} for {silent:.0f} s, and it computes nothing"
        return None


def memory_overrun(resident_mib: float, limit_mib: int) -> str | None:
    """`limit_mib` 0: no limit."""
    if limit_mib and resident_mib > limit_mib:
        return f"memory: {resident_mib:.0f} MiB resident, {limit_mib} allowed"
    return None


def loading_progress(resident_bytes: int, model_bytes: int) -> float:
    """How much of the mapped model is in memory, 0 to 0.99: 1 is said only by an engine that answers."""
    return min(0.99, resident_bytes / model_bytes) if model_bytes else 0.0

"""Time as Daulat reads it. Rooms take a clock; only process edges make the real one."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall clock, Unix milliseconds."""
        ...

    def boottime(self) -> float:
        """Seconds since boot, suspended time included: it cannot be set back."""
        ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # Asked for every request: a function of our own would be one call more.
    boottime = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME))

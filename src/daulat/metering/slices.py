"""Quotas by slices: each worker may spend its share of a key's limit without asking anybody.

With N workers a worker's share is limit / N a minute. Connections spread over workers by the kernel's hash, so a key
that uses few connections may see less than its limit. It may spend a minute's share at once and then as it is refilled;
and where the limit is below the number of workers, one request a worker.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from daulat.errors import Overloaded

_MINUTE_MS: Final = 60_000
_MAX_BUCKETS: Final = 65_536


class Slices:
    """Token buckets, one a key, refilled continuously; the capacity is one minute's share, at least one request."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._buckets: dict[Hashable, tuple[float, int]] = {}  # what is left, and when that was (ms)

    def reserve(self, key: Hashable, per_minute: int, now_ms: int) -> None:
        """Take one request out of the key's slice; 0 a minute means no limit.

        Raises:
            Overloaded: nothing is left; `retry_after` says in how many seconds there will be.
        """
        if not per_minute:
            return
        capacity = max(1.0, per_minute / self._workers)
        rate = capacity / _MINUTE_MS
        left, then = self._buckets.get(key, (capacity, now_ms))
        left = min(capacity, left + max(0, now_ms - then) * rate)
        if left < 1.0:
            self._buckets[key] = (left, now_ms)
            seconds = (1.0 - left) / rate / 1000
            raise Overloaded(
                f"This key may make {per_minute} requests a minute. Try again in {seconds:.1f} s.", retry_after=seconds
            )
        if len(self._buckets) >= _MAX_BUCKETS and key not in self._buckets:
            self._buckets.clear()  # forgets spent slices of idle keys: at most one minute's share each
        self._buckets[key] = (left - 1.0, now_ms)

"""Requests of one key taken from all of its limits at once, and handed out one by one.

What is taken of a key's, its tenant's and its model's slices for each request alone is some dozen numbers to find in
memory, twice; with ten thousand keys none of them is in a cache. A purse has the same in one place for the next few
requests. While it is open it *is* that many reservations, ended or not; once it is closed, what is left in it has gone
back, and each request under way has a reservation of its own. So nothing is in two places, and nothing on credit.
Pure; the clock is the caller's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

from daulat.core.quota import Limit
from daulat.metering.remaining import Remaining
from daulat.metering.slices import Found

MOST: Final = 64
"""Requests in a purse."""
_PART: Final = 16
"""At most this part of what a worker has of any limit goes into one purse."""
_LEAST: Final = 2  # for fewer it is not worth it


class Limited:
    """Limits that one kind of request counts against, and what this worker last held of them.

    With many keys most of what a limit costs a request is to find its slices in memory: so they are found once.
    """

    __slots__ = ("found", "limits", "purse")

    def __init__(self, limits: Iterable[Limit]) -> None:
        self.limits = tuple(limits)
        self.found: Found = ()
        self.purse: Purse | None = None  # that is open


class Purse(Remaining):
    """Some requests and tokens, until `ends`; and what was left beside it when it was filled."""

    __slots__ = ("ends", "flying", "found", "limited", "open", "requests")

    def __init__(self, limited: Limited, found: Found, requests: int, tokens: int, now_ms: int) -> None:
        """`found`: whose slices it was taken from, just now."""
        super().__init__(found)
        self.limited, self.found, self.requests = limited, found, requests
        # Beside the two of `Remaining`: new objects with every request would in time lie all over the memory of ten
        # thousand keys. They fit into 64 bits, too: usage (`pipeline.usage`) is below 2**55.
        self._numbers = array("q", (*self._numbers, tokens, now_ms))
        self.ends = min([slices.ends for slices, _ in found])  # Unix milliseconds
        self.flying = 0  # requests of it that are under way
        self.open = True

    @property
    def tokens(self) -> int:
        """Tokens that are left in it."""
        return self._numbers[2]

    @property
    def used(self) -> int:
        """When any of it was last taken, Unix milliseconds."""
        return self._numbers[3]

    def take(self, tokens: int, now_ms: int) -> str | None:
        """Take a request that is expected to use so many tokens: `x-ratelimit-*`, with what is left then. None:
        there is not so much."""
        numbers, requests = self._numbers, self.requests
        left = numbers[2] - tokens
        if not requests or left < 0 or now_ms >= self.ends:
            return None
        numbers[2], numbers[3] = left, now_ms
        self.requests = requests = requests - 1
        self.flying += 1
        return self.render(now_ms, requests, left)

    def settle(self, taken: int, tokens: int) -> bool:
        """One of its requests has ended, for which `taken` were taken and that used `tokens`; whether that is all to be
        done: it is still open, and owes nothing. Else `Quotas.settle_late` does the rest."""
        if not self.open:
            return False
        self.flying -= 1
        numbers = self._numbers
        numbers[2] = left = numbers[2] + taken - tokens
        return left >= 0

    def lines(self, now_ms: int) -> str:
        """`x-ratelimit-*`: what is left in it, and was beside it when it was filled."""
        return self.render(now_ms, self.requests, self._numbers[2])


def fitting(found: Found, tokens: int) -> int:
    """How many requests of so many tokens to take at once out of these slices; 0: none.

    Money and answers under way are not taken beforehand: what is held of them is what others lack at once.
    """
    most = MOST if found else 0
    for slices, _ in found:
        if not slices.counted:
            return 0
        most = min(most, slices.requests // _PART, slices.tokens // (_PART * max(1, tokens)))
    return most if most >= _LEAST else 0

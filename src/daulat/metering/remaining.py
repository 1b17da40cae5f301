"""What an answer's headers say of its limits: `x-ratelimit-*`, as OpenAI's API has them. Pure."""

from __future__ import annotations

import functools
from typing import Final

from daulat.metering.slices import ENDLESS, Account, Found

_REQUESTS, _TOKENS = (
    f"x-ratelimit-limit-{kind}: %d\r\nx-ratelimit-remaining-{kind}: %d\r\nx-ratelimit-reset-{kind}: %s\r\n"
    for kind in ("requests", "tokens")
)
_BOTH: Final = _REQUESTS + _TOKENS
_NOTHING: Final = 0  # as a limit: there is none


class Remaining:
    """Of requests and of tokens, the tightest limit that there is, and what was left of it."""

    __slots__ = ("_requests", "_requests_end", "_requests_left", "_tokens", "_tokens_end", "_tokens_left")

    def __init__(self, found: Found) -> None:
        """`found`: slices, as they are now."""
        requests: Account | None = None
        tokens: Account | None = None
        self._requests_left = self._tokens_left = ENDLESS
        for slices, _ in found:
            if (left := slices.requests + slices.beyond_requests) < self._requests_left:
                requests, self._requests_left = slices.tightest_requests, left
            if (left := slices.tokens + slices.beyond_tokens) < self._tokens_left:
                tokens, self._tokens_left = slices.tightest_tokens, left
        self._requests, self._requests_end = (_NOTHING, 0) if requests is None else (requests.limit, requests.ends)
        self._tokens, self._tokens_end = (_NOTHING, 0) if tokens is None else (tokens.limit, tokens.ends)

    def lines(self, now_ms: int, requests: int = 0, tokens: int = 0) -> str:
        """Lines of a head, each with its end; `requests` and `tokens`: so many more are left."""
        first = "" if not self._requests else duration(self._requests_end - now_ms)
        if not self._tokens:
            return _REQUESTS % (self._requests, max(0, self._requests_left + requests), first) if first else ""
        second = first if self._tokens_end == self._requests_end else duration(self._tokens_end - now_ms)
        left = max(0, self._tokens_left + tokens)
        if not first:
            return _TOKENS % (self._tokens, left, second)
        return _BOTH % (self._requests, max(0, self._requests_left + requests), first, self._tokens, left, second)


@functools.lru_cache(maxsize=1024)  # requests that come together have the same
def duration(milliseconds: int) -> str:
    """A time as OpenAI's headers write it: "120ms", "1.5s", "6m0s", "3h0m5s"."""
    if milliseconds < 1000:  # noqa: PLR2004
        return f"{max(0, milliseconds)}ms"
    seconds, rest = divmod(milliseconds, 1000)
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds}.{rest:03d}".rstrip("0").rstrip(".") + "s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s"

"""What an answer's headers say of its limits: `x-ratelimit-*`, as OpenAI's API has them. Pure."""

from __future__ import annotations

import functools
from array import array
from typing import Final

from daulat.metering.slices import ENDLESS, Account, Found

_KINDS: Final = ("requests", "tokens")
_LINES: Final = (
    "x-ratelimit-limit-{kind}: {limit}\r\nx-ratelimit-remaining-{kind}: %d\r\nx-ratelimit-reset-{kind}: %s\r\n"
)
_NO_LINES: Final = "%.0s%.0s"  # takes the same two, and says nothing


class Remaining:
    """Of requests and of tokens, the tightest limit that there is, and what was left of it."""

    __slots__ = ("_form", "_numbers", "_requests_end", "_tokens_end")

    def __init__(self, found: Found) -> None:
        """`found`: slices, as they are now."""
        requests: Account | None = None
        tokens: Account | None = None
        requests_left = tokens_left = ENDLESS
        for slices, _ in found:
            if (left := slices.requests + slices.beyond_requests) < requests_left:
                requests, requests_left = slices.tightest_requests, left
            if (left := slices.tokens + slices.beyond_tokens) < tokens_left:
                tokens, tokens_left = slices.tightest_tokens, left
        # Requests and tokens, in one place: of ten thousand keys each number of its own would be memory to be found.
        # `slices.ENDLESS`, the most there is, fits into 64 bits.
        self._numbers = array("q", (max(0, requests_left), max(0, tokens_left)))
        self._requests_end = 0 if requests is None else requests.ends
        self._tokens_end = 0 if tokens is None else tokens.ends
        self._form = _form(requests and requests.limit, tokens and tokens.limit)

    def render(self, now_ms: int, requests: int = 0, tokens: int = 0) -> str:
        """Lines of a head, each with its end; `requests` and `tokens`: so many more are left."""
        first = second = duration(self._requests_end - now_ms)
        if self._tokens_end != self._requests_end:
            second = duration(self._tokens_end - now_ms)
        numbers = self._numbers
        return self._form % (numbers[0] + requests, first, numbers[1] + tokens, second)


@functools.lru_cache(maxsize=1024)  # one text for all keys of the same limits
def _form(*limits: int | None) -> str:
    """The lines of these limits (of requests, of tokens) but for what is left, and until when."""
    pairs = zip(_KINDS, limits, strict=True)
    return "".join([_LINES.format(kind=kind, limit=limit) if limit else _NO_LINES for kind, limit in pairs])


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

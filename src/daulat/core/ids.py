"""Identifiers that Daulat makes itself. None is ever taken from a client."""

from __future__ import annotations

import os
import re
from typing import Final

_DIGITS: Final = 20
_AT_ONCE: Final = 64
REQUEST_ID: Final = re.compile(r"req_[0-9a-f]{32}\Z")
REQUEST_ID_LENGTH: Final = len("req_") + 32


class RequestIds:
    """Makes request ids; owned by one worker. Random bits are fetched from the kernel for many ids at a time."""

    def __init__(self) -> None:
        self._random: list[str] = []
        self._time, self._beginning = 0, ""

    def next(self, now_ms: int) -> str:
        """`req_` and 32 hex digits: 48 bits of Unix milliseconds, then 80 random bits (as RFC 9562's UUIDv7)."""
        if not self._random:
            digits = os.urandom(_DIGITS // 2 * _AT_ONCE).hex()
            self._random = [digits[start : start + _DIGITS] for start in range(0, len(digits), _DIGITS)]
        if now_ms != self._time:
            self._time, self._beginning = now_ms, f"req_{now_ms:012x}"
        return self._beginning + self._random.pop()


def new_id(prefix: str) -> str:
    """A random identifier with 96 bits of entropy, such as `key_1f0c...`."""
    return f"{prefix}_{os.urandom(12).hex()}"

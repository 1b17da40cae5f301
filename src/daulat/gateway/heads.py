"""The head that a client says again with every request of a connection, where only the body's length is another. Pure.

Clients keep connections open and repeat themselves: `httptools` and `framing` then come to the same as before. So what
they made of a head is kept, and taken again where the next one is that one byte for byte, up to the digits of its
Content-Length. Nothing else is ever taken as the same: those digits stand alone on a line which a good head has once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Self

from daulat.gateway.framing import MAX_DIGITS

_MOST_BYTES: Final = 4096  # kept a connection
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Repeated:
    """A head that was good, and is likely to come again. It holds an API key, and is gone with its connection."""

    __slots__ = ("_before", "_behind", "_headers", "target")

    def __init__(self, before: bytes, behind: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> None:
        self._before, self._behind = before, behind  # the digits
        self.target, self._headers = target, headers

    @classmethod
    def of(cls, head: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Self | None:
        """What is kept of a head with a body of known length, from its first byte to its empty line; None: nothing."""
        found = _LENGTH.search(head) if len(head) <= _MOST_BYTES else None
        return None if found is None else cls(head[: found.start(1)], head[found.end(1) :], target, dict(headers))

    def match(self, data: bytes) -> tuple[int, bytes]:
        """Where the head ends that `data` begins with, and its body's length in digits; (0, b""): it is another, or
        not here yet."""
        if not data.startswith(self._before):
            return 0, b""
        start = len(self._before)
        end = data.find(b"\r", start, start + MAX_DIGITS + 1)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._behind, end):
            return 0, b""
        return end + len(self._behind), digits

    def headers(self, digits: bytes) -> dict[bytes, bytes]:
        """Its headers, for a body of that length."""
        return {**self._headers, b"content-length": digits}


VARIED: Final = Repeated(b"\n", b"", b"", {})
"""In place of one where another head has come: no request begins with it."""

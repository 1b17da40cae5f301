"""The head that a client says again with every request of a connection, but for its key and its body's length. Pure.

Clients keep connections open and repeat themselves: `httptools` and `framing` then come to the same as before. So what
they made of a head is kept, and taken again where the next one is that one byte for byte, up to two values: the digits
of Content-Length, and the API key, as proxies speak for many. Nothing else is ever taken as the same: each of the two
stands alone on a line which a good head has once, and is made of characters that mean nothing else there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

from daulat.gateway.framing import MAX_DIGITS

_MOST_BYTES: Final = 4096  # kept a connection
_DIGITS: Final = b"0123456789"
_TOKEN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" + _DIGITS + b"-._~+/="  # RFC 6750 section 2.1
_MOST_TOKEN: Final = 256
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ()(\d+)\r\n", re.IGNORECASE)
_KEY: Final = re.compile(
    rb"\r\n(?:authorization: (bearer )|x-api-key: ())([A-Za-z0-9._~+/=-]{1,%d})\r\n" % _MOST_TOKEN, re.IGNORECASE
)


class _Value(NamedTuple):
    """One that may be another."""

    name: bytes  # of its header
    prefix: bytes  # that stays
    characters: bytes  # of the rest
    most: int  # of them


class Repeated:
    """A head that was good, and is likely to come again. It holds an API key, and is gone with its connection."""

    __slots__ = ("_before", "_headers", "_parts", "target")

    def __init__(
        self, before: bytes, parts: Sequence[tuple[_Value, bytes]], target: bytes, headers: Mapping[bytes, bytes]
    ) -> None:
        """`before`: up to the first value; `parts`: each value, and what comes behind it up to the next, or the end."""
        self._before, self._parts = before, tuple(parts)
        self.target, self._headers = target, headers

    @classmethod
    def of(cls, head: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Self | None:
        """What is kept of a head with a body of known length, from its first byte to its empty line; None: nothing."""
        length = _LENGTH.search(head) if len(head) <= _MOST_BYTES else None
        if length is None:
            return None
        found = [(length.span(2), _Value(b"content-length", b"", _DIGITS, MAX_DIGITS))]
        if key := _KEY.search(head):
            name = b"x-api-key" if key[1] is None else b"authorization"
            found.append((key.span(3), _Value(name, key[1] or b"", _TOKEN, _MOST_TOKEN)))
        found.sort()
        ends = [start for (start, _), _ in found[1:]] + [len(head)]
        parts = [(value, head[begin:end]) for ((_, begin), value), end in zip(found, ends, strict=True)]
        return cls(head[: found[0][0][0]], parts, target, dict(headers))

    def match(self, data: bytes, most: int) -> tuple[int, dict[bytes, bytes]]:
        """Where the head ends that `data` begins with, and its headers; 0 and none: it is another, not here yet, or
        longer than `most` bytes."""
        if not data.startswith(self._before):
            return 0, {}
        end, headers = len(self._before), {**self._headers}
        for (name, prefix, characters, longest), behind in self._parts:
            start = end
            end = data.find(b"\r", start, start + longest + 1)
            value = data[start:end]
            if end < 0 or not value or value.translate(None, characters) or not data.startswith(behind, end):
                return 0, {}
            end += len(behind)
            headers[name] = prefix + value
        return (end, headers) if end <= most else (0, {})


VARIED: Final = Repeated(b"\n", (), b"", {})
"""In place of one where another head has come: no request begins with it."""

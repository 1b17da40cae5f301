"""Heads that are said again and again: a client's, but for its key and its body's length, and an engine's. Pure.

Clients keep connections open and repeat themselves: `httptools` and `framing` then come to the same as before. So what
they made of a head is kept, and taken again where the next one is that one byte for byte, up to two values: the digits
of Content-Length, and the API key, as proxies speak for many. Nothing else is ever taken as the same: each of the two
stands alone on a line which a good head has once, and is made of characters that mean nothing else there. Engines
repeat themselves as well (`Answered`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Self

from daulat.gateway.framing import MAX_DIGITS

_MOST_BYTES: Final = 4096  # kept a connection
_DIGITS: Final = b"0123456789"
_TOKEN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" + _DIGITS + b"-._~+/="  # RFC 6750 section 2.1
_MOST_TOKEN: Final = 256
_OK: Final = b"HTTP/1.1 200 "
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_KEY: Final = re.compile(
    rb"\r\n(?:authorization: (bearer )|x-api-key: ())([A-Za-z0-9._~+/=-]{1,%d})\r\n" % _MOST_TOKEN, re.IGNORECASE
)


Headers = Mapping[bytes, bytes]
Span = tuple[int, int]
_NONE: Final[tuple[int, int, Headers]] = (0, 0, {})


class Repeated:
    """A head that was good, and is likely to come again. It holds an API key, and is gone with its connection."""

    __slots__ = (
        "_before", "_behind", "_between", "_first", "_headers", "_key", "_key_first", "_last", "_longest", "target",
    )  # fmt: skip

    def __init__(
        self, head: bytes, length: Span, key: tuple[Span, bytes, bytes] | None, target: bytes, headers: Headers
    ) -> None:
        """`length`: where the digits of Content-Length stand; `key`: where the API key does, in which header, and what
        stands before it there."""
        start, end = length
        self._before, self._behind = head[:start], head[end:]  # of the same key: that differs in its length alone
        self.target, self._key = target, None if key is None else key[1:]
        self._headers = {name: value for name, value in headers.items() if name != b"content-length"}
        first, last = sorted((length, length if key is None else key[0]))
        self._key_first = last == length
        self._first, self._between, self._last = head[: first[0]], head[first[1] : last[0]], head[last[1] :]
        self._longest = _MOST_TOKEN + len(self._between) + MAX_DIGITS + len(self._last)

    @classmethod
    def of(cls, head: bytes, target: bytes, headers: Headers) -> Self | None:
        """What is kept of a head with a body of known length, from its first byte to its empty line; None: nothing."""
        length = _LENGTH.search(head) if len(head) <= _MOST_BYTES else None
        if length is None:
            return None
        key = _KEY.search(head)
        if key is None:
            return cls(head, length.span(1), None, target, headers)
        name = b"x-api-key" if key[1] is None else b"authorization"
        return cls(head, length.span(1), (key.span(3), name, key[1] or b""), target, headers)

    def match(self, data: bytes, most: int) -> tuple[int, int, Headers]:
        """Where the head ends that `data` begins with, its body's length, and its other headers: the very same mapping
        for the same key. 0, 0 and none: it is another, not here yet, or longer than `most` bytes."""
        if data.startswith(self._before):  # the same key; looking at each value alone would cost it 1 us more
            start = len(self._before)
            end = data.find(b"\r", start, start + MAX_DIGITS + 1)
            digits = data[start:end]
            if end >= 0 and digits.isdigit() and data.startswith(self._behind, end):
                end += len(self._behind)
                return (end, int(digits), self._headers) if end <= most else _NONE
        return _NONE if self._key is None else self._match_other(data, most, *self._key)

    def _match_other(self, data: bytes, most: int, name: bytes, prefix: bytes) -> tuple[int, int, Headers]:
        """The same, of another key."""
        if not data.startswith(self._first):
            return _NONE
        start = len(self._first)
        value, between, rest = data[start : start + self._longest].partition(self._between)
        other, last, _ = rest.partition(self._last)
        key, digits = (value, other) if self._key_first else (other, value)
        if not last or not key or len(key) > _MOST_TOKEN or key.translate(None, _TOKEN):
            return _NONE
        end = start + len(value) + len(between) + len(other) + len(last)
        if not digits.isdigit() or len(digits) > MAX_DIGITS or end > most:
            return _NONE
        return end, int(digits), {**self._headers, name: prefix + key}


VARIED: Final = Repeated(b"\n\n", (1, 1), None, b"", {})
"""In place of one where another head has come: nothing is the same, as what would follow digits is no CR."""


class Answered:
    """The head of a whole answer of an engine that was good, and is likely to come again, but for its body's length."""

    __slots__ = ("_before", "_behind", "since", "type")

    def __init__(self, answer: bytes, type_: bytes, now: float) -> None:
        """`answer`: an HTTP/1.1 message of status 200, alone and whole, that leaves its connection open. `type_`: its
        Content-Type; `now`: monotonic seconds. One that does not state its length is like no other."""
        head = answer[: answer.find(b"\r\n\r\n") + 4]
        length = _LENGTH.search(head) if len(head) <= _MOST_BYTES and head.startswith(_OK) else None
        start, end = length.span(1) if length is not None else (0, 0)
        self._before, self._behind = (head[:start], head[end:]) if length is not None else (b"\n", b"\n")
        self.type, self.since = type_, now

    def body(self, data: bytes) -> int:
        """Where the body begins, if `data` is this head and a whole body; else 0."""
        if not data.startswith(self._before):
            return 0
        start = len(self._before)
        end = data.find(b"\r", start, start + MAX_DIGITS + 1)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._behind, end):
            return 0
        end += len(self._behind)
        return end if int(digits) == len(data) - end else 0

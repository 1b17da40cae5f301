"""Heads that are said again and again: a client's, but for its key and its body's length, and an engine's. Pure.

Clients keep connections open and repeat themselves: `httptools` and `framing` then come to the same as before. So what
they made of a head is kept, and taken again where the next one is that one byte for byte, up to two values: the digits
of Content-Length, and the API key, as proxies speak for many. Nothing else is ever taken as the same: each of the two
stands alone on a line which a good head has once, and is made of characters that mean nothing else there. Engines
repeat themselves as well (`Answered`).
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
_OK: Final = b"HTTP/1.1 200 "
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_KEY: Final = re.compile(
    rb"\r\n(?:authorization: (bearer )|x-api-key: ())([A-Za-z0-9._~+/=-]{1,%d})\r\n" % _MOST_TOKEN, re.IGNORECASE
)


_NONE: Final[tuple[int, int, Mapping[bytes, bytes]]] = (0, 0, {})


class _Value(NamedTuple):
    """One that may be another."""

    name: bytes  # of its header
    prefix: bytes  # that stays
    characters: bytes  # of the rest
    most: int  # of them


class Repeated:
    """A head that was good, and is likely to come again. It holds an API key, and is gone with its connection."""

    __slots__ = ("_before", "_behind", "_first", "_headers", "_parts", "target")

    def __init__(
        self,
        head: bytes,
        values: Sequence[tuple[tuple[int, int], _Value]],
        target: bytes,
        headers: Mapping[bytes, bytes],
    ) -> None:
        """`values`: what may be another, each with where it stands; that of Content-Length is the first."""
        (start, end), _ = values[0]
        self._before, self._behind = head[:start], head[end:]
        values = sorted(values)
        ends = [start for (start, _), _ in values[1:]] + [len(head)]
        self._first = head[: values[0][0][0]]  # what it begins with, up to the first value
        self._parts = [(value, head[begin:end]) for ((_, begin), value), end in zip(values, ends, strict=True)]
        self.target = target
        self._headers = {name: value for name, value in headers.items() if name != b"content-length"}

    @classmethod
    def of(cls, head: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Self | None:
        """What is kept of a head with a body of known length, from its first byte to its empty line; None: nothing."""
        length = _LENGTH.search(head) if len(head) <= _MOST_BYTES else None
        if length is None:
            return None
        values = [(length.span(1), _Value(b"content-length", b"", _DIGITS, MAX_DIGITS))]
        if key := _KEY.search(head):
            name = b"x-api-key" if key[1] is None else b"authorization"
            values.append((key.span(3), _Value(name, key[1] or b"", _TOKEN, _MOST_TOKEN)))
        return cls(head, values, target, headers)

    def match(self, data: bytes, most: int) -> tuple[int, int, Mapping[bytes, bytes]]:
        """Where the head ends that `data` begins with, its body's length, and its other headers: the very same mapping
        for the same key. 0, 0 and none: it is another, not here yet, or longer than `most` bytes."""
        if data.startswith(self._before):  # the same key; looking at each value alone would cost it 1 us more
            start = len(self._before)
            end = data.find(b"\r", start, start + MAX_DIGITS + 1)
            digits = data[start:end]
            if end >= 0 and digits.isdigit() and data.startswith(self._behind, end):
                end += len(self._behind)
                return (end, int(digits), self._headers) if end <= most else _NONE
        return self._match_other(data, most)

    def _match_other(self, data: bytes, most: int) -> tuple[int, int, Mapping[bytes, bytes]]:
        """The same, of another key."""
        if not data.startswith(self._first):
            return _NONE
        end, length, headers = len(self._first), 0, {**self._headers}
        for (name, prefix, characters, longest), behind in self._parts:
            start = end
            end = data.find(b"\r", start, start + longest + 1)
            value = data[start:end]
            if end < 0 or not value or value.translate(None, characters) or not data.startswith(behind, end):
                return _NONE
            end += len(behind)
            if characters is _DIGITS:
                length = int(value)
            else:
                headers[name] = prefix + value
        return (end, length, headers) if end <= most else _NONE


VARIED: Final = Repeated(b"\n", [((1, 1), _Value(b"", b"", b"", 0))], b"", {})
"""In place of one where another head has come: no request begins with it."""


class Answered:
    """The head of a whole answer of an engine that was good, and is likely to come again, but for its body's length."""

    __slots__ = ("_before", "_behind", "since", "type")

    def __init__(self, answer: bytes, type_: bytes, now: float) -> None:
        """`answer`: an HTTP/1.1 message of status 200, alone and whole, that leaves its connection open. `type_`: its
        Content-Type; `now`: monotonic seconds. One that does not state its length is like no other."""
        head = answer[: answer.find(b"\r\n\r\n") + 4]
        length = _LENGTH.search(head) if len(head) <= _MOST_BYTES and head.startswith(_OK) else None
        start, end = length.span(1) if length is not None else (0, 0)
        self._before, self._behind = (head[:start], head[end:]) if length is not None else (b"\n", b"")
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

"""A head that comes again is read as it was the first time: a connection that remembers one differs from none that does
not, whatever comes next."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from tests.support.mutants import slips

from daulat.core.snapshot import Limits
from daulat.errors import DaulatError
from daulat.gateway.exchange import Exchange
from daulat.gateway.heads import VARIED, Repeated
from daulat.gateway.http import Connection
from daulat.gateway.server import Server

BEFORE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer sk-1\r\nContent-Length: "
BEHIND = b"\r\nContent-Type: application/json\r\nAccept: */*\r\n\r\n"
HEADERS = {
    b"host": b"here",
    b"authorization": b"Bearer sk-1",
    b"content-length": b"2",
    b"content-type": b"application/json",
    b"accept": b"*/*",
}
PATH = b"/v1/chat/completions"
ODD_KEYS = [b"", b" sk-1", b"sk-1 ", b"sk\t1", b"sk\0", b"sk\n1", b"sk:1", b"sk,1", b"s\xc3\xa9", b"s" * 257]


def request(body: bytes, digits: bytes | None = None) -> bytes:
    return BEFORE + (b"%d" % len(body) if digits is None else digits) + BEHIND + body


def but_length(headers: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What is said beside the body's length, which nobody needs who has the body."""
    return {name: value for name, value in headers.items() if name != b"content-length"}


class Transport:
    """A socket that takes everything."""

    def __init__(self) -> None:
        self.closed = False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int) -> None:
        pass


class Seen:
    """One connection, and what came of what it read."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.taken: list[tuple[Any, ...]] = []
        limits = limits or Limits()
        self.server = Server(self._handle, lambda: limits, self._refuse, lambda _target, _headers: False)
        self.connection = Connection(self.server)
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    def _handle(self, exchange: Exchange) -> None:
        said = but_length(exchange.headers)
        self.taken.append((exchange.method, exchange.target, said, exchange.body, self.connection.keeps))

    def _refuse(self, exchange: Exchange, error: DaulatError) -> None:
        self.taken.append((error.code, error.message, exchange.method, but_length(exchange.headers)))
        exchange.fail(error)

    def remember(self) -> None:
        """One good request is asked and answered."""
        self.connection.data_received(request(b"{}"))
        self.connection._exchange.send(200, (), b"")  # type: ignore[union-attr]
        self.taken.clear()
        self.transport.written = b""


def both(*parts: bytes) -> None:
    """The same comes to one connection that remembers a head and to one that is new."""
    first, again = Seen(), Seen()
    again.remember()
    assert again.connection._repeated is not None
    for part in parts:
        first.connection.data_received(part)
        again.connection.data_received(part)
    assert again.taken == first.taken
    assert again.transport.written == first.transport.written
    assert again.transport.closed == first.transport.closed
    one, other = (seen.connection for seen in (first, again))
    assert (one._state, one._buffer) == (other._state, other._buffer)
    if one._state == "body":
        assert one._left == other._left


def test_what_is_kept_is_the_head_and_neither_its_length_nor_its_key() -> None:
    kept = Repeated.of(BEFORE + b"2" + BEHIND, PATH, HEADERS)
    assert kept is not None
    whole = len(BEFORE) + 3 + len(BEHIND)
    said = but_length(HEADERS)
    assert kept.match(request(b"x" * 345), 500) == (whole, 345, said)
    other = {**said, b"authorization": b"Bearer sk-22"}
    assert kept.match(request(b"x" * 345).replace(b"sk-1", b"sk-22"), 500) == (whole + 1, 345, other)
    assert kept.match(request(b"x" * 6), 500) == (whole - 2, 6, said)


def test_the_headers_of_the_same_key_are_one_mapping() -> None:
    kept = Repeated.of(BEFORE + b"2" + BEHIND, PATH, HEADERS)
    assert kept is not None
    first, again = kept.match(request(b"{}"), 500)[2], kept.match(request(b"[1]"), 500)[2]
    other = kept.match(request(b"{}").replace(b"sk-1", b"sk-2"), 500)[2]
    assert first is again
    assert other is not first
    assert first == but_length(HEADERS)


def test_the_key_may_come_behind_the_length_and_in_anthropics_header() -> None:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nX-Api-Key: sk-1\r\n\r\n" % PATH
    kept = Repeated.of(head, PATH, {b"host": b"x", b"content-length": b"2", b"x-api-key": b"sk-1"})
    assert kept is not None
    said = {b"host": b"x", b"x-api-key": b"sk-2"}
    again = head.replace(b"sk-1", b"sk-2").replace(b": 2", b": 31")
    assert kept.match(again + b"{", len(again)) == (len(again), 31, said)
    assert kept.match(again + b"{", len(again) - 1) == (0, 0, {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        BEFORE,
        BEFORE + b"12",
        BEFORE + b"12\r\nContent-Ty",
        BEFORE + b"" + BEHIND,
        BEFORE + b"-1" + BEHIND,
        BEFORE + b"1 " + BEHIND,
        BEFORE + b"1_0" + BEHIND,
        BEFORE + "\u0661".encode() + BEHIND,
        BEFORE + b"1" * 16 + BEHIND,
        BEFORE + b"1\n" + BEHIND,
        BEFORE.lower() + b"1" + BEHIND,
        BEFORE + b"1" + BEHIND.replace(b"json", b"JSON"),
        *(BEFORE.replace(b"sk-1", key) + b"1" + BEHIND for key in ODD_KEYS),
        BEFORE.replace(b"Bearer", b"bearer") + b"1" + BEHIND,
    ],
)
def test_nothing_else_is_the_same_head(data: bytes) -> None:
    kept = Repeated.of(BEFORE + b"2" + BEHIND, PATH, HEADERS)
    assert kept is not None
    assert kept.match(data, 500) == (0, 0, {})


@pytest.mark.parametrize(
    "head",
    [
        BEFORE + b"2" + BEHIND.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 4096 + b"\r\n\r\n"),  # large
        BEFORE.replace(b"Content-Length: ", b"Content-Length:") + b"2" + BEHIND,
        BEFORE + b"2 " + BEHIND,
        BEFORE.replace(b"Content-Length: ", b"X: content-length: ") + b"2" + BEHIND,
    ],
)
def test_heads_of_another_form_are_not_kept(head: bytes) -> None:
    assert Repeated.of(head, PATH, HEADERS) is None


@pytest.mark.parametrize(
    "parts",
    [
        (request(b"{}"),),
        (request(b"x" * 1000),),
        (request(b""),),
        (request(b"abc", b"003"),),
        (b"\r\n" + request(b"{}"),),
        (request(b"{}") + request(b"{}"),),
        (request(b"{}")[:-1], b"}"),
        (request(b"{}")[:50], request(b"{}")[50:]),
        (request(b"{}", b"9999999999"),),
        (request(b"{}", b"0x2"),),
        (request(b"{}", b"2\r\nContent-Length: 2"),),
        (request(b"{}", b"2\r\nTransfer-Encoding: chunked"),),
        (request(b"{}").replace(b"sk-1", b"sk-2"),),
        (request(b"{}").replace(b"sk-1", b"Sk_2.~+/="),),
        *((request(b"{}").replace(b"sk-1", key),) for key in ODD_KEYS),
        (request(b"{}").replace(b"sk-1", b"sk-1\r\nAuthorization: Bearer sk-1"),),
        (request(b"{}").replace(b"sk-1", b"sk-1\r\nX-Api-Key: sk-1"),),
        (request(b"{}").replace(b"POST", b"GET"),),
        (request(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),),
    ],
)
def test_whoever_says_it_again_is_understood_as_before(parts: tuple[bytes, ...]) -> None:
    both(*parts)


def test_no_mutant_is_read_otherwise() -> None:
    chance = random.Random(7)  # noqa: S311  the same each time
    good, odd = request(b'{"a":1}'), [b"\r\n", b"\n", b"\0", b" ", b":", b"9", b"-", b"Content-Length: 1\r\n"]
    for _ in range(3000):
        both(*slips(chance, good, odd))


def test_no_head_is_kept_where_they_vary() -> None:
    seen = Seen()
    for type_, kept in ((b"", True), (b"", True), (b";a=1", False), (b";a=1", False), (b"", False)):
        seen.connection.data_received(request(b"{}").replace(b"/json", b"/json" + type_))
        assert seen.taken[-1][2][b"content-type"] == b"application/json" + type_
        seen.connection._exchange.send(200, (), b"")  # type: ignore[union-attr]
        assert (seen.connection._repeated is not VARIED) == kept


@pytest.mark.parametrize("data", [b"\n2\r", b"\n2\r\n{}", b"\n\n", b"\n\n2\r\n", b"\n2\n", b"2\r\n"])
def test_where_heads_vary_nothing_is_the_same(data: bytes) -> None:
    assert VARIED.match(data, 500) == (0, 0, {})


def test_one_head_is_kept_for_all_who_ask_through_one_connection() -> None:
    seen = Seen()
    seen.remember()
    kept = seen.connection._repeated
    for key in (b"sk-1", b"sk-2", b"somebody", b"sk-1"):
        seen.connection.data_received(request(b"{}").replace(b"sk-1", key))
        assert seen.taken[-1][2][b"authorization"] == b"Bearer " + key
        seen.connection._exchange.send(200, (), b"")  # type: ignore[union-attr]
        assert seen.connection._repeated is kept


def test_a_key_may_not_make_a_head_larger_than_heads_may_be() -> None:
    head = BEFORE + b"2" + BEHIND
    limits = Limits(header_bytes=len(head) + 6)
    seen = Seen(limits)
    seen.remember()
    for key, taken in ((b"sk-1" + b"2" * 10, True), (b"sk-1" + b"2" * 11, False)):
        seen.connection.data_received(request(b"{}").replace(b"sk-1", key))
        assert (seen.taken[-1][0] == b"POST") == taken
        if taken:
            seen.connection._exchange.send(200, (), b"")  # type: ignore[union-attr]
    assert seen.taken[-1][0] == "headers_too_large"


def test_what_was_kept_does_not_keep_a_draining_connection_open() -> None:
    seen = Seen()
    seen.remember()
    seen.server.draining = True
    seen.connection.data_received(request(b"{}"))
    assert seen.taken[0][-1] is False


@pytest.mark.parametrize("cut", [0, 2, 4])
def test_the_body_may_come_behind_it(cut: int) -> None:
    """As with clients that write the head and then the body."""
    seen, data = Seen(), request(b'{"a":1}')
    seen.remember()
    parser, at = seen.connection._parser, len(request(b"")) + cut
    for part in (data[:at], data[at:]):
        assert not seen.taken
        seen.connection.data_received(part)
    assert seen.taken[0][:2] == (b"POST", PATH)
    assert seen.taken[0][3] == b'{"a":1}'
    assert seen.connection._parser is parser, "it was not asked again"

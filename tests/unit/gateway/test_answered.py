"""An engine's answer that begins as others did is read as the parser would read it, whatever comes."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

import pytest
from tests.support.mutants import slips

from daulat.errors import DaulatError
from daulat.gateway.engines import Pool, _Connection
from daulat.gateway.heads import Answered
from daulat.pipeline.ports import EngineSink

ADDRESS = "unix:/engine"
BEFORE = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON\r\nContent-Length: "
BEHIND = b"\r\nServer: here\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(body: bytes, digits: bytes | None = None) -> bytes:
    return BEFORE + (b"%d" % len(body) if digits is None else digits) + BEHIND + body


class Transport:
    """A socket that takes everything."""

    def get_extra_info(self, _name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass


class Heard(EngineSink):
    """A sink, and what it heard."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, bytes]] = []
        self.body = b""
        self.ends: list[str] = []

    def engine_head(self, status: int, content_type: bytes) -> None:
        self.heads.append((status, content_type))

    def engine_data(self, data: bytes) -> None:
        self.body += data

    def engine_done(self) -> None:
        self.ends.append("done")

    def engine_failed(self, error: DaulatError) -> None:
        self.ends.append(f"{error.code}: {error.message}")

    @property
    def all(self) -> tuple[Any, ...]:
        return self.heads, self.body, self.ends


class Engine:
    """One connection to an engine."""

    def __init__(self) -> None:
        self.pool = Pool({})
        self.connection = _Connection(self.pool, ADDRESS)
        self.connection.connection_made(Transport())
        self.pool._idle[ADDRESS] = deque([self.connection])

    def says(self, *parts: bytes) -> Heard:
        """What is heard where it answers with these."""
        heard = Heard()
        self.pool.post(ADDRESS, "/", b"{}", heard)
        for part in parts:
            self.connection.data_received(part)
        return heard


def both(*parts: bytes) -> Heard:
    """The same is said by an engine that has answered before and by one that has not."""
    first, again = Engine(), Engine()
    assert again.says(answer(b"{}")).ends == ["done"]
    assert again.pool.answered[ADDRESS].body(answer(b"[]"))
    one, other = first.says(*parts), again.says(*parts)
    assert one.all == other.all
    assert first.connection.usable == again.connection.usable
    assert first.pool._idle.keys() == again.pool._idle.keys()
    return other


def on_a_loop(test: Any) -> None:
    async def main() -> None:
        test()

    asyncio.run(main())


@pytest.mark.parametrize(
    "parts",
    [
        (answer(b"{}"),),
        (answer(b"x" * 1000),),
        (answer(b""),),
        (answer(b"{}", b"002"),),
        (answer(b"{}")[:30], answer(b"{}")[30:]),
        (answer(b"{}")[:-1], b"}"),
        (answer(b"{}") + b"x",),
        (answer(b"{}") + answer(b"[]"),),
        (answer(b"{}"), answer(b"[]")),
        (answer(b"{}", b"1"),),
        (answer(b"{}", b"-2"),),
        (answer(b"{}", b"+2"),),
        (answer(b"{}", b"2 "),),
        (answer(b"{}", b"2\r\nContent-Length: 2"),),
        (answer(b"{}", b"2\r\nTransfer-Encoding: chunked"),),
        (answer(b"{}", b"2\r\nConnection: close"),),
        (answer(b"{}", b"9" * 16),),
        (answer(b"{}").replace(b"200", b"500"),),
        (answer(b"{}").replace(b"1.1", b"1.0"),),
        (answer(b"{}").replace(b"/JSON", b"/x"),),
        (b"HTTP/1.1 100 Continue\r\n\r\n", answer(b"{}")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"{}"),),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",),
    ],
)
def test_who_has_answered_before_is_understood_as_who_has_not(parts: tuple[bytes, ...]) -> None:
    on_a_loop(lambda: both(*parts))


def test_no_mutant_is_read_otherwise() -> None:
    chance = random.Random(11)  # noqa: S311  the same each time
    odd = [b"\r\n", b"\n", b"\0", b" ", b":", b"9", b"-", b"Content-Length: 1\r\n", b"HTTP/1.1 100 X\r\n\r\n"]

    def mutants() -> None:
        for _ in range(3000):
            both(*slips(chance, answer(b'{"a":1}'), odd))

    on_a_loop(mutants)


@pytest.mark.parametrize(
    "said",
    [
        CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
        answer(b"{}").replace(b"Content-Length: ", b"Content-Length:"),
        answer(b"{}").replace(b"Server: here", b"Server: " + b"x" * 4096),
        b"HTTP/1.1 103 Hints\r\nContent-Length: %d\r\n\r\n" % len(answer(b"{}")) + answer(b"{}"),
    ],
)
def test_heads_of_another_form_are_like_none(said: bytes) -> None:
    known = Answered(said, b"", 0.0)
    assert not known.body(said)
    for data in (b"", b"\n1\r", b"\n2\r\n", b"\n\n", b"\n0\n"):
        assert not known.body(data)


@pytest.mark.parametrize(
    "said",
    [
        answer(b"{}").replace(b"200 OK", b"404 No"),
        answer(b"{}", b"2\r\nConnection: close"),
        answer(b"{}").replace(b"1.1", b"1.0"),
    ],
)
def test_only_good_answers_behind_which_another_may_come_are_remembered(said: bytes) -> None:
    def main() -> None:
        engine = Engine()
        assert engine.says(said).ends == ["done"]
        assert not engine.pool.answered

    on_a_loop(main)


def test_heads_that_name_the_second_are_looked_at_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("daulat.gateway.engines.time.monotonic", lambda: now)

    def dated(second: int) -> bytes:
        return answer(b"{}").replace(b"Server", b"Date: %d\r\nServer" % second)

    def main() -> None:
        nonlocal now
        engine = Engine()
        for second in (1, 2, 3):
            assert engine.says(dated(second)).all == ([(200, b"application/json")], b"{}", ["done"])
        assert engine.pool.answered[ADDRESS].body(dated(1))
        now += 1.5
        engine.says(dated(3))
        assert engine.pool.answered[ADDRESS].body(dated(3))
        engine.pool.retain(set(), set())
        assert not engine.pool.answered

    on_a_loop(main)

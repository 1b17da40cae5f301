"""Calls through a dialect: what they hold is given back however they end, and one failing part fails the whole once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from daulat.engines.dialect import EngineRequest, Explain, Parts, Prepared, Rewriter
from daulat.errors import DaulatError, EngineDead, InvalidRequest, Overloaded
from daulat.gateway import translated
from daulat.pipeline.ports import EngineCall, EngineSink

EVENTS, JSON = b"text/event-stream", b"application/json"
REQUEST = EngineRequest("chat.completions", "/v1/chat/completions", b"{}", stream=False, fields={})


class Upper:
    """A rewriter that anybody can see the work of."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> bytes:
        return data.upper()

    def hold(self, data: bytes) -> bytes:
        self._kept += data
        return b""

    def finish(self) -> bytes:
        return self._kept.upper() or b"!"


class Joined:
    """A merger that anybody can see the work of."""

    overhead = 3

    def __init__(self, count: int) -> None:
        self._left = count
        self._kept: list[bytes] = []

    def feed(self, part: int, data: bytes) -> bytes:
        return b"%d%b " % (part, data)

    def hold(self, part: int, data: bytes) -> bytes:
        self._kept.append(b"%d%b " % (part, data))
        return b""

    def finish(self, part: int) -> bytes:
        if part == 9:
            raise EngineDead("too early")
        self._left -= 1
        return b"" if self._left else b"".join(sorted(self._kept)) + b"end"


class Wire:
    """A dialect, a poster and a sink in one, written down."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.posted: list[Posted] = []
        self.released = 0
        self.rewriter: Rewriter | None = None
        self.failure: Exception | None = None
        self.explain: Explain | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.split: Parts | None = None

    def parts(self, _request: EngineRequest) -> Parts | None:
        if isinstance(self.failure, InvalidRequest):
            raise self.failure
        return self.split

    async def prepare(self, request: EngineRequest) -> Prepared:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure

        def release() -> None:
            self.released += 1

        return Prepared(request.body, release, self.rewriter, overhead=7, explain=self.explain)

    def post(self, _address: str, _path: str, body: bytes, sink: EngineSink) -> EngineCall:
        call = Posted(body, sink)
        self.posted.append(call)
        return call

    def engine_head(self, status: int, content_type: bytes) -> None:
        self.said.append((status, content_type))

    def engine_data(self, data: bytes) -> None:
        self.said.append(data)

    def engine_done(self) -> None:
        self.said.append("done")

    def engine_failed(self, error: DaulatError) -> None:
        self.said.append(error)


class Posted:
    overhead = 0

    def __init__(self, body: bytes, sink: EngineSink) -> None:
        self.body, self.sink = body, sink
        self.told: list[str] = []

    def abort(self) -> None:
        self.told.append("abort")

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")


def run(test: Callable[[Wire, Callable[[], EngineCall]], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        wire = Wire()
        await test(wire, lambda: translated.ask(wire, "unix:/e", wire, REQUEST, wire))

    asyncio.run(go())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_whole_answer_is_rewritten_at_its_end_and_the_slot_given_back_once() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        wire.rewriter = Upper()
        call = ask()
        await settle()
        (posted,) = wire.posted
        assert call.overhead == 7
        posted.sink.engine_head(200, JSON)
        posted.sink.engine_data(b"a")
        posted.sink.engine_data(b"b")
        assert wire.said == [(200, JSON)]
        posted.sink.engine_done()
        assert wire.said == [(200, JSON), b"AB", "done"]
        call.abort()
        assert wire.released == 1

    run(test)


def test_a_stream_is_rewritten_as_it_comes() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        wire.rewriter = Upper()
        call = ask()
        await settle()
        (posted,) = wire.posted
        posted.sink.engine_head(200, EVENTS)
        posted.sink.engine_data(b"a")
        call.pause()
        call.resume()
        assert posted.told == ["pause", "resume"]
        assert wire.said == [(200, EVENTS), b"A"]
        posted.sink.engine_done()
        assert wire.said[2:] == [b"!", "done"]

    run(test)


@pytest.mark.parametrize("moment", ["before", "waiting", "asked", "answering"])
def test_whoever_leaves_at_any_moment_hears_nothing_more_and_holds_nothing(moment: str) -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        if moment == "waiting":
            wire.gate.clear()
        call = ask()
        if moment != "before":
            await settle()
        if moment == "answering":
            wire.posted[0].sink.engine_head(200, EVENTS)
        said = list(wire.said)
        call.abort()
        wire.gate.set()
        await settle()
        if wire.posted:
            assert wire.posted[0].told == ["abort"]
            assert wire.released == 1
        else:
            assert wire.released == 0
        assert wire.said == said

    run(test)


@pytest.mark.parametrize("failure", [Overloaded("busy", retry_after=1), InvalidRequest("no"), EngineDead("gone")])
def test_what_prevents_a_request_reaches_whoever_asked(failure: DaulatError) -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        wire.failure = failure
        call = ask()
        assert wire.said == [], "never before the caller has the call"
        await settle()
        assert wire.said == [failure]
        call.pause()
        call.resume()
        call.abort()
        assert wire.released == 0

    run(test)


def test_a_refused_request_whose_client_has_left_says_nothing() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        wire.failure = InvalidRequest("no")
        ask().abort()
        await settle()
        assert wire.said == []

    run(test)


def test_a_defect_while_preparing_is_an_error_and_not_silence() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        wire.failure = ZeroDivisionError()
        ask()
        await settle()
        (error,) = wire.said
        assert isinstance(error, DaulatError)

    run(test)


def test_an_engine_that_never_ends_is_cut_off_before_memory_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translated, "_MOST_KEPT", 1000)

    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        wire.rewriter = Upper()
        ask()
        await settle()
        (posted,) = wire.posted
        posted.sink.engine_head(200, JSON)
        posted.sink.engine_data(b"x" * 900)
        assert posted.told == []
        posted.sink.engine_data(b"x" * 900)
        assert posted.told == ["abort"]
        assert "too large" in str(wire.said[-1])
        assert wire.released == 1

    run(test)


# Several parts.


@pytest.mark.parametrize("explained", [True, False])
def test_an_engines_error_is_explained_or_passes_as_it_came(explained: bool) -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        error = InvalidRequest("too long", code="context_length_exceeded")
        heard: list[tuple[int, bytes]] = []

        def explain(status: int, body: bytes) -> DaulatError | None:
            heard.append((status, body))
            return error if explained else None

        wire.explain, wire.rewriter = explain, Upper()
        ask()
        await settle()
        sink = wire.posted[0].sink
        sink.engine_head(500, JSON)
        sink.engine_data(b"no, ")
        sink.engine_data(b"no")
        assert wire.said == []
        sink.engine_done()
        assert heard == [(500, b"no, no")]
        assert wire.said == ([error] if explained else [(500, JSON), b"no, no", "done"])
        assert wire.released == 1

    run(test)


def test_an_error_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        wire.explain = lambda _status, _body: None
        ask()
        await settle()
        posted = wire.posted[0]
        posted.sink.engine_head(500, JSON)
        posted.sink.engine_data(b"x" * 11)
        assert posted.told == ["abort"]
        assert [str(said) for said in wire.said] == ["The engine's answer is too large."]

    monkeypatch.setattr(translated, "_MOST_KEPT", 10)
    run(test)


def parts(count: int) -> Parts:
    return Parts((REQUEST,) * count, Joined(count))


async def asked(wire: Wire, ask: Callable[[], EngineCall], count: int = 2) -> EngineCall:
    wire.split = parts(count)
    call = ask()
    await settle()
    assert len(wire.posted) == count
    return call


def test_parts_of_a_stream_pass_as_they_come_under_one_head() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        call = await asked(wire, ask)
        one, two = (posted.sink for posted in wire.posted)
        one.engine_head(200, EVENTS)
        one.engine_data(b"a")
        two.engine_head(200, EVENTS)
        two.engine_data(b"b")
        one.engine_done()
        assert wire.said == [(200, EVENTS), b"0a ", b"1b "]
        two.engine_done()
        assert wire.said[3:] == [b"end", "done"]
        assert call.overhead == 3 + 7 * 2
        assert wire.released == 2

    run(test)


def test_parts_of_a_whole_answer_come_together_at_the_last_ones_end() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        await asked(wire, ask)
        for posted in reversed(wire.posted):
            posted.sink.engine_head(200, JSON)
            posted.sink.engine_data(b"x")
            assert wire.said == []
            posted.sink.engine_done()
        assert wire.said == [(200, JSON), b"0x 1x end", "done"]

    run(test)


def test_a_part_that_is_refused_is_the_whole_answer() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        await asked(wire, ask, 3)
        first, second, third = wire.posted
        first.sink.engine_head(200, JSON)
        first.sink.engine_data(b"fine")
        second.sink.engine_head(400, JSON)
        second.sink.engine_data(b"too long")
        second.sink.engine_done()
        assert wire.said == [(400, JSON), b"too long", "done"]
        assert (first.told, second.told, third.told) == (["abort"], [], ["abort"])
        assert wire.released == 3

    run(test)


def test_a_part_that_is_refused_after_others_have_begun_to_stream_is_a_failure() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        await asked(wire, ask)
        one, two = (posted.sink for posted in wire.posted)
        one.engine_head(200, EVENTS)
        two.engine_head(500, JSON)
        assert wire.said[0] == (200, EVENTS)
        assert isinstance(wire.said[1], DaulatError)
        two.engine_data(b"reason")
        two.engine_done()
        one.engine_data(b"late")
        assert len(wire.said) == 2
        assert wire.released == 2

    run(test)


def test_an_engine_that_dies_under_all_parts_is_told_once() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        await asked(wire, ask, 3)
        for posted in wire.posted:
            posted.sink.engine_failed(EngineDead("gone"))
        assert [type(said) for said in wire.said] == [EngineDead]
        assert wire.released == 3

    run(test)


def test_a_stream_that_ends_too_early_ends_the_others() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        await asked(wire, ask, 10)
        last = wire.posted[9]
        last.sink.engine_head(200, EVENTS)
        last.sink.engine_done()
        assert [type(said) for said in wire.said] == [tuple, EngineDead]
        assert all(posted.told == ["abort"] for posted in wire.posted[:9])
        assert wire.released == 10

    run(test)


def test_pause_resume_and_abort_reach_every_part() -> None:
    async def test(wire: Wire, ask: Callable[[], EngineCall]) -> None:
        call = await asked(wire, ask)
        call.pause()
        call.resume()
        call.abort()
        assert [posted.told for posted in wire.posted] == [["pause", "resume", "abort"]] * 2
        assert wire.said == []
        assert wire.released == 2

    run(test)

"""`pipeline.ports.Engines`: one suite over asking an engine directly, through a dialect, and over the played engines
that other tests rely on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.request_path import HandCall, HandEngines
from tests.support.wire import Asked, PlayedEngine, run, whole
from tests.support.worlds import replica

from daulat.core.snapshot import ReplicaRow
from daulat.engines.dialect import EngineRequest, Parts, Prepared
from daulat.errors import DaulatError, EngineDead
from daulat.gateway.engines import Pool
from daulat.pipeline.ports import Engines

REQUEST = EngineRequest("chat.completions", "/v1/chat/completions", b'{"model":"small"}', stream=False, fields=None)
ANSWER = b'{"answer":1}'


class Sink:
    """`pipeline.ports.EngineSink`: everything that was heard, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.body = b""
        self.error: DaulatError | None = None
        self.over = asyncio.Event()

    def engine_head(self, status: int, content_type: bytes) -> None:
        self.heard.append(f"head {status} {content_type.decode()}")

    def engine_data(self, data: bytes) -> None:
        assert data
        self.heard.append("data")
        self.body += data

    def engine_done(self) -> None:
        self.heard.append("done")
        self.over.set()

    def engine_failed(self, error: DaulatError) -> None:
        self.heard.append("failed")
        self.error = error
        self.over.set()


class Plain:
    """A dialect that changes nothing, and counts what it has lent."""

    lent = 0

    def parts(self, request: EngineRequest) -> Parts | None:
        return None

    async def prepare(self, request: EngineRequest) -> Prepared:
        await asyncio.sleep(0)
        self.lent += 1
        return Prepared(request.body, self._release, overhead=7)

    def _release(self) -> None:
        self.lent -= 1


class Bench:
    """One implementation, and an engine behind it that a test plays."""

    def __init__(self, engines: Engines, row: ReplicaRow) -> None:
        self.engines, self.row = engines, row
        self.lent: Callable[[], int] = lambda: 0
        self.until_asked: Callable[[], Coroutine[Any, Any, None]]
        self.say: Callable[[bytes], Coroutine[Any, Any, None]]  # the first call says the head as well
        self.end: Callable[[], Coroutine[Any, Any, None]]
        self.die: Callable[[], Coroutine[Any, Any, None]]
        self.stopped: Callable[[], Coroutine[Any, Any, None]]  # until the engine knows that nobody listens


@asynccontextmanager
async def socket_bench(dialect: Plain | None) -> AsyncIterator[Bench]:
    engine = PlayedEngine()
    writers: list[asyncio.StreamWriter] = []
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        begun.set()
        await ended.wait()

    async def say(data: bytes) -> None:
        if not said:
            writers[0].write(whole(ANSWER).partition(b"{")[0])
        said.append(data)
        writers[0].write(data)
        await writers[0].drain()

    async def until_asked() -> None:
        await begun.wait()

    async def end() -> None:
        ended.set()

    async def die() -> None:
        writers[0].transport.abort()

    async def stopped() -> None:
        while not engine.lost:  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.002)

    said: list[bytes] = []
    engine.answer = answer
    with tempfile.TemporaryDirectory() as folder:
        await engine.start(Path(folder) / "engine")
        kind = "plain" if dialect else "openai"
        row = replica(1, address=f"unix:{folder}/engine")
        pool = Pool({"plain": lambda _row, _fetch: dialect})
        bench = Bench(pool, ReplicaRow(row.index, row.id, row.model, row.node, row.address, kind, row.slots))
        bench.until_asked, bench.say, bench.end, bench.die, bench.stopped = until_asked, say, end, die, stopped
        if dialect is not None:
            bench.lent = lambda: dialect.lent
        try:
            yield bench
        finally:
            pool.close()
            await engine.stop()


@asynccontextmanager
async def hand_bench() -> AsyncIterator[Bench]:
    engines = HandEngines()
    begun: list[HandCall] = []

    async def say(data: bytes) -> None:
        call = engines.calls[0]
        if not begun and not call.aborted:
            begun.append(call)
            call.begin(200, b"application/json")
        call.say(data)

    async def end() -> None:
        engines.calls[0].end()

    async def die() -> None:
        engines.calls[0].fail(EngineDead("gone"))

    async def now() -> None:
        """Nothing has to be waited for."""

    bench = Bench(engines, replica(1))
    bench.until_asked, bench.say, bench.end, bench.die, bench.stopped = now, say, end, die, now
    yield bench


BENCHES = {
    "direct": lambda: socket_bench(None),
    "through a dialect": lambda: socket_bench(Plain()),
    "played": hand_bench,
}


@pytest.fixture(params=BENCHES)
def make(request: pytest.FixtureRequest) -> Any:
    return BENCHES[request.param]


def test_an_answer_is_heard_in_order_and_its_end_once(make: Any) -> None:
    async def main() -> None:
        async with make() as bench:
            sink = Sink()
            bench.engines.call(bench.row, REQUEST, sink)
            assert sink.heard == [], "nothing is called back at once"
            await bench.until_asked()
            await bench.say(ANSWER[:4])
            await bench.say(ANSWER[4:])
            await bench.end()
            await sink.over.wait()
            assert sink.body == ANSWER
            assert [word for word in sink.heard if word != "data"] == ["head 200 application/json", "done"]
            assert bench.lent() == 0

    run(main)


def test_an_engine_that_dies_is_heard_of_once_and_nothing_after_it(make: Any) -> None:
    async def main() -> None:
        async with make() as bench:
            sink = Sink()
            bench.engines.call(bench.row, REQUEST, sink)
            await bench.until_asked()
            await bench.say(ANSWER[:4])
            await bench.die()
            await sink.over.wait()
            assert sink.heard[-1] == "failed"
            assert sink.heard.count("failed") == 1
            assert isinstance(sink.error, EngineDead)
            assert bench.lent() == 0

    run(main)


@pytest.mark.parametrize("begun", [True, False])
def test_a_call_that_is_aborted_is_never_heard_of_again_and_the_engine_knows(make: Any, begun: bool) -> None:
    async def main() -> None:
        async with make() as bench:
            sink = Sink()
            call = bench.engines.call(bench.row, REQUEST, sink)
            await bench.until_asked()
            if begun:
                await bench.say(ANSWER[:4])
                await asyncio.sleep(0.01)
            heard = list(sink.heard)
            call.abort()
            await bench.stopped()
            await bench.end()
            await asyncio.sleep(0.01)
            assert sink.heard == heard
            assert bench.lent() == 0
            call.abort()
            call.pause()
            call.resume()

    run(main)


def test_a_call_may_be_aborted_paused_and_resumed_before_anything_has_happened(make: Any) -> None:
    async def main() -> None:
        async with make() as bench:
            sink = Sink()
            call = bench.engines.call(bench.row, REQUEST, sink)
            call.pause()
            call.resume()
            call.abort()
            await asyncio.sleep(0.02)
            assert sink.heard == []
            assert bench.lent() == 0
            assert call.overhead >= 0

    run(main)


@pytest.mark.parametrize("name", ["direct", "through a dialect"])
def test_while_it_is_paused_nothing_is_heard(name: str) -> None:
    async def main() -> None:
        async with BENCHES[name]() as bench:
            sink = Sink()
            call = bench.engines.call(bench.row, REQUEST, sink)
            await bench.until_asked()
            call.pause()
            await bench.say(ANSWER)
            await bench.end()
            await asyncio.sleep(0.05)
            assert sink.body == b""
            call.resume()
            await sink.over.wait()
            assert sink.body == ANSWER

    run(main)


@pytest.mark.parametrize("dialect", [None, Plain()])
def test_an_engine_that_is_not_there_is_dead_and_said_so_from_the_loop(dialect: Plain | None) -> None:
    async def main() -> None:
        for address in ("unix:/nowhere/at/all", "tcp:127.0.0.1:1"):
            sink = Sink()
            pool = Pool({"plain": lambda _row, _fetch: dialect})
            row = ReplicaRow(1, "replica_1", "small", "node_1", address, "plain" if dialect else "openai", 1)
            pool.call(row, REQUEST, sink)
            assert sink.heard == []
            await sink.over.wait()
            assert sink.heard == ["failed"]
            assert isinstance(sink.error, EngineDead)
            assert dialect is None or dialect.lent == 0

    run(main)

"""A worker's own wire on loopback sockets: the real server, app, journal and engine pool; disk and engine are played.

Everything lives on one loop, so that what is left over after a test can be counted. `Gateway` leaves nothing behind, or
says what.
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import uvloop
from tests.support.lender import LocalLender
from tests.support.request_path import DONE, HandVault, answered, chunk, usage_chunk
from tests.support.worlds import MODEL, SECRET, WORKER, StillClock, replica, snapshot, world

from daulat.core import entries
from daulat.core.snapshot import Limits, Snapshot
from daulat.gateway.app import App, render
from daulat.gateway.engines import Pool
from daulat.gateway.exchange import Exchange
from daulat.gateway.forward import Forwarder
from daulat.gateway.http import Connection
from daulat.gateway.metrics import Metrics
from daulat.gateway.server import Server
from daulat.ledger import records
from daulat.ledger.journal import Journal
from daulat.pipeline.service import Service
from daulat.tlog.note import Signer

PATIENCE = 20.0
CHAT = b'{"model":"%s","messages":[{"role":"user","content":"hi"}]}' % MODEL.encode()
STREAMED = CHAT[:-1] + b',"stream":true}'


def run(main: Callable[[], Coroutine[Any, Any, None]], seconds: float = 60.0) -> None:
    """On the loop that workers use."""
    uvloop.run(asyncio.wait_for(main(), seconds))


class Memory:
    """`ledger.journal.Segments`, in memory; `gate` closed holds every commit back."""

    def __init__(self) -> None:
        self.groups: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.short = ""

    def commit(self, group: bytes) -> None:
        self.gate.wait(PATIENCE)
        self.groups.append(group)

    def shortage(self) -> str:
        return self.short

    def close(self) -> None:
        self.gate.set()

    def all(self) -> list[records.Record]:
        return [record for group in records.groups(b"".join(self.groups), 0, 0) for record in group.records]

    def admissions(self) -> list[dict[str, Any]]:
        return [json.loads(record.payload) for record in self.all() if record.kind == records.ADMISSION]

    def completions(self) -> list[dict[str, Any]]:
        return [json.loads(record.payload) for record in self.all() if record.kind == records.COMPLETION]

    def refusals(self) -> Counter[str]:
        """Counts over all refusals records."""
        total: Counter[str] = Counter()
        for record in self.all():
            if record.kind == records.REFUSALS:
                total.update(json.loads(record.payload)["counts"])
        return total

    def whole(self) -> bool:
        """Whether numbers ascend without gaps, and every admission has one completion that makes it a good entry."""
        every = self.all()
        admitted = {record.sequence: record.payload for record in every if record.kind == records.ADMISSION}
        completed = {record.sequence: record.payload for record in every if record.kind == records.COMPLETION}
        for sequence in admitted.keys() & completed.keys():
            entries.decode(entries.join_inference(admitted[sequence], completed[sequence]))
        return list(admitted) == sorted(completed) == list(range(1, len(admitted) + 1))


@dataclass
class Asked:
    """One request as the engine got it."""

    line: bytes
    headers: dict[bytes, bytes]
    body: bytes


Answer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


async def play(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """What an engine in good health says."""
    if json.loads(asked.body).get("stream"):
        events = chunk("hello") + usage_chunk() + DONE
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events)
        )
    else:
        writer.write(whole(answered()))


def whole(body: bytes, status: int = 200, more: bytes = b"") -> bytes:
    """A whole HTTP answer of JSON."""
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
    return head % (status, len(body), more) + body


class PlayedEngine:
    """An HTTP engine on a Unix socket that answers as `answer` likes."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Answer = play
        self.lost = 0  # connections that were closed on it while it was answering
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *lines = head[:-4].split(b"\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (one.partition(b":") for one in lines)}
                assert b"transfer-encoding" not in headers
                asked = Asked(line, headers, await reader.readexactly(int(headers[b"content-length"])))
                self.asked.append(asked)
                if not await self._one(asked, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer until it is answered or nobody listens; whether the connection goes on."""
        answering = asyncio.ensure_future(self.answer(asked, writer))
        left = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, left), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() or isinstance(answering.exception(), ConnectionError):
                self.lost += 1
                return False
            answering.result()
            return not left.done() and not writer.is_closing()
        finally:
            answering.cancel()
            left.cancel()
            await asyncio.gather(answering, left, return_exceptions=True)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass
class Seen:
    """One answer as a client read it."""

    status: int
    headers: dict[str, str]
    body: bytes
    version: str = "1.1"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A client that writes bytes and reads answers, strictly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(data)

    async def answer(self, *, head_only: bool = False) -> Seen:
        """The next answer; interim ones are skipped."""
        seen = await asyncio.wait_for(self._answer(head_only), PATIENCE)
        while seen.status < 200:
            seen = await asyncio.wait_for(self._answer(head_only), PATIENCE)
        return seen

    async def _answer(self, head_only: bool) -> Seen:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head[:-4].split("\r\n")
        version, status, _ = line.split(" ", 2)
        pairs = [one.split(": ", 1) for one in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), "no header comes twice"
        assert not {"content-length", "transfer-encoding"} <= set(headers)
        seen = Seen(int(status), headers, b"", version.removeprefix("HTTP/"))
        if head_only or seen.status < 200 or seen.status in {204, 304}:
            return seen
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                seen.body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
        elif "content-length" in headers:
            seen.body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            seen.body = await self.reader.read()
        return seen

    async def closed(self) -> bytes:
        """What else comes until the other side closes."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE)

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


class Counting(Connection):
    """A connection that knows how much it has got."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.received = 0
        self.peer: Any = None

    def connection_made(self, transport: Any) -> None:
        self.peer = transport.get_extra_info("peername")
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)


@dataclass
class Gateway:
    """`async with Gateway() as gateway:`; at its end nothing may be left."""

    limits: Limits = field(default_factory=Limits)
    taken: Snapshot | None = None
    replicas: int = 1
    clock: StillClock = field(default_factory=StillClock)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.trouble: list[str] = []
        loop.set_exception_handler(lambda _, context: self.trouble.append(f"{context.get('message')}: {context}"))
        self.folder = Path(tempfile.mkdtemp(prefix="daulat-wire-"))
        self.engines = [PlayedEngine() for _ in range(self.replicas)]
        addresses = []
        for number, engine in enumerate(self.engines, 1):
            await engine.start(self.folder / f"engine-{number}")
            addresses.append(f"unix:{self.folder / f'engine-{number}'}")
        rows = tuple(replica(number, address=address) for number, address in enumerate(addresses, 1))
        self.snapshot = self.taken or snapshot(limits=self.limits, replicas=rows)
        self.disk, self.metrics, self.fatal = Memory(), Metrics(), list[BaseException]()
        self.signer = Signer.generate("worker-test")
        self.journal = Journal(
            self.disk,
            worker=WORKER,
            origin=self.snapshot.origin,
            sign=self.signer.sign_bytes,
            promise_ms=630_000,
            clock=self.clock,
            loop=loop,
            on_fatal=self.fatal.append,
        )
        self.pool, self.vault = Pool({}), HandVault()
        self.lender = LocalLender(self.snapshot.roll.quotas)
        self.lender.lender.began(WORKER)
        self.service = Service(
            world=world(self.clock, self.snapshot),
            ledger=self.journal,
            engines=self.pool,
            meter=self.metrics,
            render=render,
            clock=self.clock,
            borrow=self.borrow,
            vault=self.vault,
        )
        kept = Forwarder(str(self.folder / "vault"), "Files and stored completions")
        self.app = App(self.service, self.journal, Forwarder(str(self.folder / "pages")), self.metrics, kept)
        self.handled: list[Exchange] = []
        self.accepted: list[Counting] = []
        self._made: weakref.WeakSet[Counting] = weakref.WeakSet()
        self.server = Server(self._handle, lambda: self.service.limits, self.app.refuse, self.app.allow)
        self._listener = await loop.create_server(self._connection, "127.0.0.1", 0)
        self.port = int(self._listener.sockets[0].getsockname()[1])
        self._clients: list[Client] = []
        return self

    def borrow(self) -> None:
        """What is wanted is lent at once."""
        self.lender.serve(WORKER, self.service.turns, self.clock.now_ms())

    def _connection(self) -> Counting:
        made = Counting(self.server)
        self.accepted.append(made)
        self._made.add(made)
        return made

    def _handle(self, exchange: Exchange) -> None:
        self.handled.append(exchange)
        self.app.handle(exchange)

    @property
    def engine(self) -> PlayedEngine:
        return self.engines[0]

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=64 * 1024 * 1024)
        self._clients.append(Client(reader, writer))
        return self._clients[-1]

    async def exchange(self, data: bytes) -> Seen:
        """One request on a connection of its own."""
        client = await self.client()
        client.send(data)
        seen = await client.answer()
        client.close()
        return seen

    async def healthy(self) -> None:
        """A good request is answered as ever."""
        engines = [(engine, engine.answer) for engine in self.engines]
        for engine in self.engines:
            engine.answer = play
        for body in (CHAT, STREAMED):
            seen = await self.exchange(post(body))
            assert seen.status == 200, seen
        for engine, answer in engines:
            engine.answer = answer

    def got(self, client: Client) -> int:
        """How many bytes of a client's have arrived; -1 before it is known at all."""
        name = client.writer.get_extra_info("sockname")
        return next((item.received for item in self.accepted if item.peer == name), -1)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that will be."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.002)

    def sweep(self, later: float) -> None:
        """As if so many seconds had passed without a sweep."""
        now = asyncio.get_running_loop().time() + later
        self.service.sweep(now)
        self.server.sweep(now)

    async def __aexit__(self, kind: object, *_rest: object) -> None:
        for client in self._clients:
            client.close()
        self._listener.close()
        try:
            if kind is None:
                await self._settled()
        finally:
            self.disk.gate.set()
            for engine in self.engines:
                await engine.stop()
            self.pool.close()
            self.journal.close()
            await asyncio.sleep(0)
            shutil.rmtree(self.folder)
        if kind is not None:
            return
        assert self.disk.whole(), "an admission without its completion"
        assert not self.trouble, self.trouble
        assert not self.fatal, self.fatal
        self.handled.clear()
        self.accepted.clear()
        if self._made:
            gc.collect()
        assert not self._made, f"connections kept in memory: {list(self._made)}"
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert not {task for task in tasks if "_serve" not in repr(task) and "run" not in repr(task)}, tasks

    async def _settled(self) -> None:
        def settled() -> bool:
            return not self.server.connections and not self.service.active and not any(self.service.load.values())

        try:
            await self.until(settled)
        except TimeoutError:
            raise AssertionError(
                f"left over: {self.server.connections} {self.service.active} {self.service.load}"
            ) from None


def request(
    target: bytes = b"/v1/chat/completions",
    *lines: bytes,
    method: bytes = b"POST",
    body: bytes = b"",
    version: bytes = b"1.1",
    secret: str = SECRET,
) -> bytes:
    """A request of exactly these header lines, behind Host, Authorization and Content-Type."""
    head = [
        b"%b %b HTTP/%b" % (method, target, version),
        b"Host: test",
        b"Authorization: Bearer " + secret.encode(),
        b"Content-Type: application/json",
        *lines,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def post(body: bytes = CHAT, *lines: bytes, target: bytes = b"/v1/chat/completions", secret: str = SECRET) -> bytes:
    """A good POST with its length."""
    return request(target, b"Content-Length: %d" % len(body), *lines, body=body, secret=secret)


def get(target: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    return request(target, *lines, method=method)


def chunked(*parts: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A chunked body."""
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    return body + b"0%b\r\n%b\r\n" % (extension, trailers)


__all__ = ["CHAT", "STREAMED", "Asked", "Client", "Gateway", "PlayedEngine", "Seen"]

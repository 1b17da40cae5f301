"""How many byte codes a JSON request costs a worker: with the same Python the same on every machine, however noisy.

    python -m benchmarks.steps [--keys 2000] [--requests 2048] [--functions 0]

The worker's own connections, pipeline and journal in one process, without sockets: 64 connections ask once each in a
turn of the event loop, and the engine answers within it. What is counted is byte codes and calls of Python functions on
the loop's thread; what those call in C (hashes, JSON, the socket) is not. So it says whether a change made the request
path shorter, and not by how much quicker it is: `run.py` does. A key's decision is made once; a "yes" stands in for it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import math
import queue
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from types import FrameType
from typing import Any, Final, cast
from unittest import mock

from tests.support.ledger import MemorySegments
from tests.support.lender import LocalLender
from tests.support.worlds import MODEL, NOW, WORKER, StillClock, snapshot

from benchmarks.load import chat
from daulat.core.decision import Decision, Question
from daulat.core.principal import Attributes
from daulat.core.quota import Limit
from daulat.core.snapshot import KeyRow, PersonRow, Snapshot, TenantRow
from daulat.gateway.app import App, render
from daulat.gateway.http import Connection
from daulat.gateway.metrics import Metrics
from daulat.gateway.server import Server
from daulat.identity.directory import Directory
from daulat.ledger import journal
from daulat.pipeline.ports import EngineSink
from daulat.pipeline.service import Service
from daulat.pipeline.world import World
from daulat.policy.cache import CachedDecider

CONNECTIONS: Final = 64
LATER_MS: Final = NOW + 10**10
PLENTY: Final = 10**9
KINDS: Final[Mapping[str, Callable[[int], Iterator[int]]]] = {
    "one key, no limits": lambda _keys: cycle([0]),
    "a key a connection, with limits": lambda _keys: cycle(range(CONNECTIONS)),
    "another key each request, with limits": lambda keys: cycle(range(keys)),
}
_BODY: Final = chat(stream=False).replace(b'"stub"', f'"{MODEL}"'.encode())
_ANSWER: Final = (
    b'{"id":"1","object":"chat.completion","created":1700000000,"model":"small","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":400,"completion_tokens":100,"total_tokens":500}}' % (b"Kuala Lumpur. " * 60)
)


class Allowed:
    """`core.decision.Decider`: yes."""

    def decide(self, _question: Question) -> Decision:
        return Decision("allow", ("permit",))


class Turns:
    """An event loop's turns, one after the other, as the journal and the server know it. What the committing thread
    says waits until there is nothing else, so that nothing depends on when that was."""

    def __init__(self) -> None:
        self._soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._landed: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self._soon.append((callback, arguments))

    def call_soon_threadsafe(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self._landed.put((callback, arguments))

    def call_later(self, _delay: float, _callback: Callable[..., Any], *_arguments: Any) -> None:
        """Nobody here is patient."""

    def turn(self, *, wait: bool) -> None:
        """Run what was to be soon; where that is nothing, and `wait`, what the committing thread has said next."""
        todo, self._soon = self._soon, []
        if not todo and wait:
            todo = [self._landed.get()]
        for callback, arguments in todo:
            callback(*arguments)


class AtOnce:
    """`pipeline.ports.Engines`: every call is answered in the next turn. Also each call."""

    overhead = 0

    def __init__(self) -> None:
        self.asked: list[EngineSink] = []

    def call(self, _replica: object, _request: object, sink: EngineSink) -> AtOnce:
        self.asked.append(sink)
        return self

    def abort(self) -> None: ...

    pause = resume = abort


class Client:
    """A connection's other end."""

    def __init__(self) -> None:
        self.answers = self.good = 0

    def write(self, data: bytes) -> None:
        self.answers += data.startswith(b"HTTP/1.1 ")
        self.good += data.startswith(b"HTTP/1.1 200 OK\r\n")

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return lambda *_arguments: ("127.0.0.1", 1)


def _text(kind: str, number: int, length: int = 22) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(f"{kind} {number}".encode()).digest())[:length].decode()


def _secret(number: int) -> str:
    return f"sk-{_text('secret', number, 43)}"


def _people(keys: int, *, limited: bool) -> Snapshot:
    """So many tenants with a person and a key each; `limited`: as `serve.py` limits them."""
    numbers = range(keys)
    known = [Attributes("MY", "substantial", ("user",), "https://login.example", LATER_MS) for _ in numbers]
    epoch = [base64.b64encode(hashlib.sha256(f"epoch {n}".encode()).digest()).decode() for n in numbers]
    tenants = tuple(TenantRow(f"tenant_{n}", epoch[n], _text("tenant", n)) for n in numbers)
    people = tuple(PersonRow(f"person_{n}", f"tenant_{n}", _text("person", n), known[n], LATER_MS, 1) for n in numbers)
    digests = [hashlib.sha256(_secret(n).encode()).hexdigest() for n in numbers]
    rows = tuple(KeyRow(f"key_{n}", digests[n], f"person_{n}", _text("key", n), LATER_MS, ()) for n in numbers)
    subjects = [
        ("model", MODEL),
        *(("key", row.pseudonym) for row in rows),
        *(("tenant", row.pseudonym) for row in tenants),
    ]
    quotas = tuple(Limit(scope, subject, *[PLENTY] * 4) for scope, subject in subjects if limited)
    made = snapshot(tenants=tenants, people=people, keys=rows, quotas=quotas)
    return replace(made, replicas=tuple(replace(row, slots=CONNECTIONS) for row in made.replicas))


class Path:
    """The request path of a worker with so many keys."""

    def __init__(self, keys: int, *, limited: bool) -> None:
        taken, clock, self._loop = _people(keys, limited=limited), StillClock(), Turns()
        world = World(taken, Directory(taken.roll), CachedDecider(Allowed()), clock, WORKER)
        self._journal = journal.Journal(
            MemorySegments(),
            worker=WORKER,
            origin=taken.origin,
            sign=lambda text: hashlib.sha512(text).digest(),
            promise_ms=600_000,
            clock=clock,
            loop=self._loop,
            on_fatal=lambda error: sys.exit(f"the journal failed: {error}"),
        )
        self._engines, self._lender, self._clock = AtOnce(), LocalLender(taken.roll.quotas), clock
        self._lender.lender.began(WORKER)
        self._service = Service(
            world=world,
            ledger=self._journal,
            engines=cast("Any", self._engines),
            meter=Metrics(),
            render=render,
            clock=clock,
            borrow=lambda: None,
            vault=cast("Any", None),
        )
        app = App(self._service, self._journal, cast("Any", None), Metrics(), cast("Any", None))
        self._server = Server(app.handle, lambda: self._service.limits, app.refuse, app.allow)

    def connect(self) -> None:
        """Everybody connects, anew."""
        self._clients = [Client() for _ in range(CONNECTIONS)]
        self._connections = [Connection(self._server) for _ in self._clients]
        for connection, client in zip(self._connections, self._clients, strict=True):
            connection.connection_made(client)

    def run(self, requests: int, keys: Iterator[int], count: Callable[[Callable[[], None]], None]) -> None:
        """Ask so often; `count` calls what is to be counted.

        Raises:
            RuntimeError: not every answer was a good one.
        """
        before = sum(client.good for client in self._clients)
        for _ in range(requests // CONNECTIONS):
            asked = [_request(_secret(next(keys))) for _ in self._connections]
            count(partial(self._turn, asked))
        good = sum(client.good for client in self._clients) - before
        if good != requests:
            raise RuntimeError(f"{good} good answers of {requests}")

    def _turn(self, asked: list[bytes]) -> None:
        answers = sum(client.answers for client in self._clients) + CONNECTIONS
        for connection, request in zip(self._connections, asked, strict=True):
            connection.data_received(request)
        while sum(client.answers for client in self._clients) < answers:
            engines, self._engines.asked = self._engines.asked, []
            for sink in engines:
                sink.engine_whole(b"application/json", _ANSWER)
            if self._service.turns.quotas.hungry:
                self._lender.serve(WORKER, self._service.turns, self._clock.now_ms())
            self._loop.turn(wait=not (engines or self._engines.asked))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Its turns are this thread's event loop meanwhile; then its journal is closed."""
        asyncio._set_running_loop(cast("Any", self._loop))  # noqa: SLF001  as every event loop does
        try:
            with mock.patch.object(journal, "_GATHER_SECONDS", math.inf):  # counting takes longer than what it is of
                yield
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001
            self._journal.close()


def _request(secret: str) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY


class Counted:
    """Byte codes and calls of Daulat's own functions, by function."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __call__(self, run: Callable[[], None]) -> None:
        sys.settrace(self._trace)
        try:
            run()
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("daulat."):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event in {"call", "opcode"}:
            (self.calls if event == "call" else self.codes)[frame.f_code.co_qualname] += 1
        return self._trace


def measured(kind: str, keys: int, requests: int) -> Counted:
    """Of the requests behind those with which every key has been used."""
    path, counted, numbers = Path(keys, limited="no limits" not in kind), Counted(), KINDS[kind](keys)
    with path.running():
        path.connect()
        path.run(-(-2 * keys // CONNECTIONS) * CONNECTIONS, cycle(range(keys)), lambda run: run())
        path.connect()
        path.run(4 * CONNECTIONS, numbers, lambda run: run())
        path.run(requests, numbers, counted)
    return counted


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="benchmarks.steps", description="Count what a request costs a worker.")
    parser.add_argument("--keys", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=32 * CONNECTIONS)
    parser.add_argument("--functions", type=int, default=0, help="so many functions of each, the longest first")
    arguments = parser.parse_args()
    if min(arguments.keys, arguments.requests) < CONNECTIONS:
        parser.error(f"--keys and --requests are at least {CONNECTIONS}: one a connection")
    requests = arguments.requests // CONNECTIONS * CONNECTIONS
    for kind in KINDS:
        found = measured(kind, arguments.keys, requests)
        codes, calls = found.codes.total() / requests, found.calls.total() / requests
        print(f"{codes:8.1f} byte codes, {calls:5.1f} calls a request: {kind}")
        for name, number in found.codes.most_common(arguments.functions):
            print(f"{number / requests:16.1f} {name}")


if __name__ == "__main__":
    main()

"""The request path's ports, played by tests: a journal, engines and clients that do what they are told, when told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.lender import LocalLender
from tests.support.worlds import SECRET, WORKER, StillClock, world

from daulat.core import entries
from daulat.core.principal import Principal
from daulat.core.snapshot import ReplicaRow
from daulat.engines.dialect import EngineRequest
from daulat.errors import DaulatError
from daulat.gateway.app import render
from daulat.ledger.journal import Durable, Promised
from daulat.pipeline.inference import Inference
from daulat.pipeline.ports import EngineSink, Headers
from daulat.pipeline.service import Service
from daulat.pipeline.usage import Usage

STREAM = b"text/event-stream"
JSON = b"application/json"
DONE = b"data: [DONE]\n\n"


@dataclass
class Record:
    """One record put into the journal; `callback` runs when it becomes durable."""

    kind: str
    sequence: int
    payload: bytes
    callback: Any
    durable: bool = False

    @property
    def value(self) -> dict[str, Any]:
        return dict(json.loads(self.payload))


class HandJournal:
    """`pipeline.service.Ledger`: nothing is durable before a test says so."""

    def __init__(self) -> None:
        self.shortage = ""
        self.records: list[Record] = []
        self.over_budget: Counter[str] = Counter()
        self.automatic = False
        self._sequence = 0

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def admit(self, sequence: int, request_id: str, record: bytes, on_durable: Promised) -> None:
        self._put("admission", sequence, record, lambda: on_durable(f"promise-{request_id}"))

    def attempt(self, sequence: int, record: bytes, on_durable: Durable) -> None:
        self._put("attempt", sequence, record, on_durable)

    def complete(self, sequence: int, record: bytes, on_durable: Durable, *, patient: bool = False) -> None:
        self._put("completion", sequence, record, on_durable)

    def admit_complete(
        self, sequence: int, request_id: str, admission: bytes, completion: bytes, on_durable: Promised
    ) -> None:
        self._put("admission", sequence, admission, lambda: on_durable(f"promise-{request_id}"))
        self._put("completion", sequence, completion, None)

    def refuse_principal(self, pseudonym: str) -> None:
        self.over_budget[pseudonym] += 1

    def _put(self, kind: str, sequence: int, record: bytes, callback: Any) -> None:
        self.records.append(Record(kind, sequence, record, callback))
        if self.automatic:
            self.commit()

    def commit(self, most: int | None = None) -> None:
        """Make the oldest records durable, in order: all that are there now, or at most so many."""
        for record in [record for record in self.records if not record.durable][:most]:
            record.durable = True
            if record.callback is not None:
                record.callback()

    def values(self, kind: str) -> list[dict[str, Any]]:
        return [record.value for record in self.records if record.kind == kind]

    def one(self, kind: str) -> dict[str, Any]:
        (found,) = self.values(kind)
        return found

    def whole(self) -> bool:
        """Whether every admission has exactly one completion, and both make an entry that anybody can read."""
        admitted = {record.sequence: record.payload for record in self.records if record.kind == "admission"}
        completed = {record.sequence: record.payload for record in self.records if record.kind == "completion"}
        for sequence in admitted.keys() & completed.keys():
            entries.decode(entries.join_inference(admitted[sequence], completed[sequence]))
        return admitted.keys() == completed.keys() and len(self.records) == 2 * len(admitted) + len(
            self.values("attempt")
        )


@dataclass(eq=False)
class HandCall:
    """`pipeline.ports.EngineCall`, and the engine at its other end."""

    replica: ReplicaRow
    request: EngineRequest
    sink: EngineSink
    overhead: int = 0
    aborted: bool = False
    paused: bool = False

    def abort(self) -> None:
        self.aborted = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def begin(self, status: int = 200, content_type: bytes = STREAM) -> None:
        self.sink.engine_head(status, content_type)

    def say(self, data: bytes) -> None:
        if not self.aborted:
            self.sink.engine_data(data)

    def end(self) -> None:
        if not self.aborted:
            self.sink.engine_done()

    def fail(self, error: DaulatError) -> None:
        if not self.aborted:
            self.sink.engine_failed(error)

    def answer(self, body: bytes, status: int = 200, content_type: bytes = JSON) -> None:
        """A whole answer."""
        self.begin(status, content_type)
        self.say(body)
        self.end()


class HandEngines:
    """`pipeline.ports.Engines`."""

    def __init__(self) -> None:
        self.calls: list[HandCall] = []

    def call(self, replica: ReplicaRow, request: EngineRequest, sink: EngineSink) -> HandCall:
        self.calls.append(HandCall(replica, request, sink))
        return self.calls[-1]


@dataclass
class Client:
    """`pipeline.ports.Reply`: what a client has seen so far."""

    request_id: str = ""
    promise: str = ""
    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    whole: bool = False
    writes: list[bytes] = field(default_factory=list)
    limits: dict[bytes, bytes] = field(default_factory=dict)  # x-ratelimit-*

    def mark(self, request_id: str, promise: str, more: str = "") -> None:
        self.request_id, self.promise = request_id, promise
        self.limits = dict(line.split(": ") for line in more.splitlines())

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        self._begin(status, headers)
        self.finish(body)

    def start(self, status: int, headers: Headers) -> None:
        self._begin(status, headers)

    def _begin(self, status: int, headers: Headers) -> None:
        assert self.status == 0, "an answer begins once"
        assert self.request_id, "an answer's headers name its request"
        self.status, self.headers = status, headers

    def write(self, data: bytes) -> None:
        assert self.status, "an answer has begun before its bytes come"
        assert not self.whole, "nothing follows an answer's end"
        self.body += data
        self.writes.append(data)

    def finish(self, data: bytes) -> None:
        self.write(data)
        self.whole = True

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


class Meter:
    """`pipeline.service.Meter`."""

    def __init__(self) -> None:
        self.finished_: list[tuple[str, int, str, Usage]] = []

    def finished(self, action: str, status: int, outcome: str, usage: Usage, started: float, first: float) -> None:
        assert not first or first >= started
        self.finished_.append((action, status, outcome, usage))


class HandVault:
    """`pipeline.ports.Vault`: keeps what it is given, or refuses; with `holds`, `answer` says when."""

    def __init__(self) -> None:
        self.shortage = ""
        self.refusal: DaulatError | None = None
        self.holds = False
        self.kept: list[tuple[Principal, bytes, bytes, bool]] = []
        self._waiting: list[Callable[[DaulatError | None], None]] = []

    def keep(
        self,
        principal: Principal,
        request: bytes,
        answer: bytes,
        kept: Callable[[DaulatError | None], None],
        *,
        stream: bool,
    ) -> None:
        self.kept.append((principal, request, answer, stream))
        self._waiting.append(kept)
        if not self.holds:
            self.answer()

    def answer(self) -> None:
        """Everything that waits."""
        waiting, self._waiting = self._waiting, []
        for kept in waiting:
            kept(self.refusal)


class Path:
    """A service whose world, journal and engines are in a test's hands."""

    def __init__(self, **changes: Any) -> None:
        self.clock = StillClock()
        self.journal, self.engines, self.meter = HandJournal(), HandEngines(), Meter()
        self.vault = HandVault()
        self.service = Service(
            world=world(self.clock, **changes),
            ledger=self.journal,
            engines=self.engines,
            meter=self.meter,
            render=render,
            clock=self.clock,
            vault=self.vault,
            borrow=self.borrow,
        )
        self.lender = LocalLender(changes.get("quotas", ()))
        self.lender.lender.began(WORKER)

    def principal(self, secret: str = SECRET) -> Principal:
        return self.service.world.directory.authenticate(secret.encode())

    def borrow(self) -> None:
        """What is wanted is lent at once, unless the lender is down."""
        self.lender.serve(WORKER, self.service.turns, self.clock.now_ms())

    def ask(
        self, body: bytes, action: str = "chat.completions", *, secret: str = SECRET, who: Principal | None = None
    ) -> tuple[Inference, Client]:
        """Start one request."""
        client = Client()
        inference = Inference(self.service, client, who or self.principal(secret), action, self.service.clock.now_ms())
        inference.run(body)
        return inference, client

    @property
    def call(self) -> HandCall:
        """The newest engine call."""
        return self.engines.calls[-1]

    def at_rest(self) -> bool:
        """Nothing is under way, and the journal is whole."""
        return not self.service.active and not any(self.service.load.values()) and self.journal.whole()


def chat(**fields: Any) -> bytes:
    """A chat request's body."""
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def answered(content: str = "hello", *, tokens: tuple[int, int] = (5, 3)) -> bytes:
    """A whole chat answer."""
    value = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }
    return json.dumps(value).encode()


def chunk(content: str = "he", **delta: Any) -> bytes:
    """One event of a streamed answer."""
    value = {"choices": [{"index": 0, "delta": {"content": content, **delta}, "finish_reason": None}]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def usage_chunk(prompt: int = 5, completion: int = 3, cached: int | None = None) -> bytes:
    """The event with the usage of a streamed answer."""
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"

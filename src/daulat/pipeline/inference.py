"""The life of a request, from an authenticated body to its receipt's entry.

    2 authenticate   was done: a `Principal` asks
    3 authorize      `_authorize`: model, liveness, Cedar
    4 reserve        `turns`: for who is limited, or finds every place taken; all others go on at once
    5 route          `_authorize`: a replica under a live lease; once more after a wait
    6 admit          `_admit`: the record joins the group commit, beside the prefill of an engine on this machine
    7 generate       `engine_*`: bytes pass once the admission is durable; until then another replica may take over
    8 complete       `_complete`: usage and commitments; the final frame waits for this
    9 receipt        the sequencer's, within about a second

What must hold, whatever fails: no byte of an answer leaves before `on_durable` of its admission, the final frame not
before that of its completion, and every admitted request is completed exactly once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from daulat.core import commitments
from daulat.core.principal import Principal
from daulat.core.snapshot import ModelRow
from daulat.engines.dialect import EngineRequest
from daulat.errors import (
    DaulatError,
    EngineDead,
    EngineRequestFailed,
    EngineTimeout,
    InvalidRequest,
    Overloaded,
    Unauthenticated,
    Unavailable,
)
from daulat.metering.purse import Purse
from daulat.pipeline import asking, stored, typed, whole
from daulat.pipeline import body as bodies
from daulat.pipeline.actions import COUNTING, MESSAGES, PATHS, RESPONSES, UNSTREAMED
from daulat.pipeline.events import EventStream
from daulat.pipeline.ports import EngineCall, Reply
from daulat.pipeline.service import Service
from daulat.pipeline.streamed import EVENT_STREAM, Streamed
from daulat.pipeline.turns import Turn
from daulat.pipeline.usage import Usage
from daulat.pipeline.world import Grant, Route, World

_TYPED: Final = RESPONSES | MESSAGES
_MAX_ANSWER: Final = 64 * 1024 * 1024
_MOST_ATTEMPTS: Final = 8
_MAX_HELD: Final = 1024 * 1024  # of a stream, while its admission is not durable
_ENDINGS: Final = {"engine_timeout": "timeout", "empty_answer": "empty"}  # of an attempt, by its error's code


class Inference(Streamed):
    """One authenticated request. Also the `EngineSink` of its engine calls."""

    __slots__ = (
        "_answer", "_call", "_head", "_held", "_route", "_show_usage", "_size", "_undurable",
    )  # fmt: skip

    def __init__(self, service: Service, reply: Reply, principal: Principal, action: str, now_ms: int) -> None:
        self._service, self._reply, self._principal, self._action = service, reply, principal, action
        self.request_id, self._time = service.ids.next(now_ms), now_ms
        self._begun, self._first = time.monotonic(), 0.0
        self._sequence = self._status = self._overhead = 0
        self._turn: Turn | None = None
        self._purse: Purse | None = None
        self._lines = ""
        self._attempts: list[tuple[Route, str]] = []
        self._model: ModelRow | None = None
        self._grant: Grant | None = None
        self._peek: bodies.Peek | None = None
        self._error: str | None = None
        self._done = self._stream = False
        self._route: Route | None = None
        self._call: EngineCall | None = None
        self._events = self._kept = None
        self._started = self._show_usage = self._handing = False
        self._undurable = 0  # records (the admission, further attempts) that are not durable yet
        self._head = 0  # the engine's status, once known

    def run(self, body: bytes) -> None:
        """Steps 3 to 6, and the engine's call. Everything that follows is called back."""
        self._body = body
        try:
            grant, route = self._authorize(body)
        except DaulatError as error:
            self._refuse(error)
            return
        self._service.active.add(self)
        crowded = self._service.load.get(route.replica.id, 0) >= route.room
        if grant.bounded or crowded:
            self._begin_turn(grant, route, crowded=crowded)
        else:
            self._admit()

    def refuse(self, body: bytes, error: DaulatError) -> None:
        """Instead of `run`: who asks is known, and may not from there."""
        self._body = body
        self._refuse(error)

    # Steps 3 to 5.

    def _authorize(self, body: bytes) -> tuple[Grant, Route]:
        service, principal, action = self._service, self._principal, self._action
        peek = self._peek = bodies.peek(body, action, service.limits.json_depth)
        self._stream = peek.stream and action not in UNSTREAMED
        model = self._model = service.world.models.get(peek.model)
        if model is None:
            raise asking.unknown(peek.model)
        asking.check(service, principal, model, action)
        self._show_usage = self._stream and (action in _TYPED or bodies.asks_for_usage(peek))
        route = self._route = asking.route(service, model, peek, (), self._time)
        model = self._model = route.model
        grant = self._grant = service.world.grant(principal, action, model, route)
        if not grant.allowed:
            raise asking.refused(grant)
        if "store" in peek.members and action == "chat.completions":
            self._kept = stored.begin(peek.members, service.vault.shortage, principal)
        return grant, route

    def _begin_turn(self, grant: Grant, route: Route, *, crowded: bool) -> None:
        service, peek = self._service, self._peek
        generates, now = self._action not in UNSTREAMED, self._time
        prompt, completion = bodies.expected(peek, len(self._body), generates=generates) if peek is not None else (0, 0)
        purse = grant.limited.purse
        if purse is not None and not crowded and (lines := purse.take(prompt + completion, now)) is not None:
            self._purse, self._taken, self._lines = purse, prompt + completion, lines
            self._admit()
            return
        tenant, model, needs_place = self._principal.tenant, route.model.name, self._action not in COUNTING
        self._turn = Turn(self, grant, tenant, model, self._begun, needs_place=needs_place, crowded=crowded)
        service.turns.begin(self._turn, prompt, completion, now)

    def go(self) -> None:
        """Its turn has come. Where it has waited for that, the world may be another."""
        if self._done:
            return
        try:
            if self._turn is not None and self._turn.waited:
                self._route_again()
        except DaulatError as error:
            self._refuse(error)
            return
        self._admit()

    def _route_again(self) -> None:
        service, model = self._service, self._model
        if model is not None:
            route = self._route = asking.route(service, model, self._peek, ())
            model = self._model = route.model
            grant = self._grant = service.world.grant(self._principal, self._action, model, route)
            if not grant.allowed:
                raise asking.refused(grant)

    def turn_down(self, error: DaulatError) -> None:
        """It was not its turn: a limit is reached, or it has waited too long."""
        if not self._done:
            self._refuse(error)

    # Step 6.

    def _admit(self) -> None:
        self._sequence = self._service.ledger.next_sequence()
        admission = self._admission(self._grant.who, self._grant.under) if self._grant else b""
        self._undurable += 1
        self._service.ledger.admit(self._sequence, self.request_id, admission, self._admitted)
        if self._route is not None and self._route.local:
            self._dispatch()

    def _admitted(self, promise: str) -> None:
        self._reply.mark(self.request_id, promise, self._lines if self._turn is None else self._limits())
        if self._events is None and self._route is not None and self._route.local:
            self._undurable -= 1  # a whole answer is held by its completion anyway
        else:
            self._release()

    # Step 7.

    def _dispatch(self) -> None:
        route, peek = self._route, self._peek
        if route is None or peek is None:
            raise AssertionError("dispatched before it was routed")
        body = self._body
        if self._stream:
            if self._action in _TYPED:
                self._events = typed.TypedStream()
            else:
                self._events = EventStream(show_usage=self._show_usage)
                if not self._show_usage:
                    body = bodies.with_usage(body, peek)
            self._said, self._unsaid = False, bytearray()
            self._held: list[bytes] = []  # what came before the records were durable
        self._head = self._size = 0
        self._answer: list[bytes] = []
        load = self._service.load
        load[route.replica.id] = load.get(route.replica.id, 0) + 1
        request = EngineRequest(self._action, PATHS[self._action], body, self._stream, peek.members)
        self._call = self._service.engines.call(route.replica, request, self)

    def engine_head(self, status: int, content_type: bytes) -> None:
        self._head = status
        if status != 200 or not content_type.startswith(EVENT_STREAM):  # noqa: PLR2004
            self._events = None  # a whole answer, whatever was asked: errors, above all

    def engine_data(self, data: bytes) -> None:
        if self._events is None:
            self._answer.append(data)
            self._size += len(data)
            if self._size > _MAX_ANSWER:
                self._engine_gave_up(EngineRequestFailed("The engine's answer is too large.", status=502))
        elif not self._undurable:
            self._pass(data)
        else:
            self._held.append(data)
            self._size += len(data)
            if self._size > _MAX_HELD and self._call is not None:
                self._call.pause()

    def engine_whole(self, content_type: bytes, data: bytes) -> None:
        call = self._call
        self.engine_head(200, content_type)
        if self._events is None and len(data) <= _MAX_ANSWER:
            self._leave_engine("ok")
            if not self._done:
                self._whole(data)
            return
        self.engine_data(data)
        if self._call is call:  # else it was no good, and another is asked by now
            self.engine_done()

    def engine_done(self) -> None:
        self._leave_engine("ok" if self._head < 400 else "failed")  # noqa: PLR2004
        if self._done or self._handing:
            return
        if self._events is None:
            self._whole(b"".join(self._answer))
        elif not self._undurable:
            self._ended_short()
        # Otherwise `_release` will find what is held, and the call gone.

    def engine_failed(self, error: DaulatError) -> None:
        if isinstance(error, EngineDead) and self._route is not None:
            self._service.avoid(self._route.replica.id)
        self._leave_engine("refused" if isinstance(error, InvalidRequest) else _ENDINGS.get(error.code, "dead"))
        if self._done:
            return
        if isinstance(error, InvalidRequest) and not self._started:
            self._fail(error)  # no other replica would see it differently
        else:
            self._stream_broke(error)

    def _release(self) -> None:
        """The admission, or a further attempt, is durable: once all are, let pass what came, or ask another machine."""
        self._undurable -= 1
        if self._undurable or self._done:
            return
        if self._route is not None and not self._route.local:
            self._dispatch()
            return
        if (events := self._events) is None:
            return  # a whole answer is held by its completion anyway
        held, self._held = self._held, []
        if self._call is not None and self._size > _MAX_HELD:
            self._call.resume()
        for data in held:
            if self._events is events and not (self._done or self._undurable):  # else another is asked by now
                self._pass(data)
        if self._call is None and not (self._done or self._undurable or self._handing):
            self._ended_short()

    def _ended_short(self) -> None:
        self._attempts[-1] = (self._attempts[-1][0], "dead")
        self._stream_broke(EngineDead("The engine ended its stream without finishing it."))

    def _engine_gave_up(self, error: DaulatError) -> None:
        if self._call is not None:
            self._call.abort()
        else:  # it had ended before what it said could be looked at
            self._attempts[-1] = (self._attempts[-1][0], _ENDINGS.get(error.code, "dead"))
        self.engine_failed(error)

    def _retry(self, error: DaulatError) -> None:
        """Nothing has gone out yet: another replica may answer, once this attempt is durable."""
        try:
            if self._model is None or len(self._attempts) >= _MOST_ATTEMPTS:
                raise error
            self._route = asking.route(self._service, self._model, self._peek, self._attempts)
            grant = self._service.world.grant(self._principal, self._action, self._model, self._route)
            if not grant.allowed:
                raise error
        except DaulatError:
            self._fail(error)
            return
        self._undurable += 1
        self._held = []
        record = f'{{"replica":{self._route.replica.index},"lease":{self._route.lease.index}}}'.encode()
        self._service.ledger.attempt(self._sequence, record, self._release)
        if self._route.local:
            self._dispatch()

    # Step 8.

    def _whole(self, answer: bytes) -> None:
        """The engine's whole answer, or its error."""
        ok = self._head == 200  # noqa: PLR2004
        try:
            usage = whole.usage(self._action, self._head, answer, self._asked)
        except EngineRequestFailed as error:
            self._attempts[-1] = (self._attempts[-1][0], _ENDINGS.get(error.code, "failed"))
            self._retry(error)
            return
        if not ok:
            answer = whole.refusal(self._action, self._head, answer, self._service.render)
        self._status, self._error = self._head, None if ok else "engine_refused"
        if ok and self._kept is not None:
            self._hand_over(answer, usage or Usage(), lambda: self._answered("ok", usage, answer))
        else:
            self._answered("ok" if ok else "failed", usage, answer)

    def _answered(self, outcome: str, usage: Usage | None, answer: bytes) -> None:
        self._complete(outcome, usage or Usage(), commitments.commit(self._salt, "response", answer))
        self._service.ledger.complete(self._sequence, self._record, partial(self._reply.send, self._status, (), answer))

    def _hand_over(self, answer: bytes, usage: Usage, then: Callable[[], None]) -> None:
        """What is to be stored is durable in the vault before the answer's end goes out; the end says if it is not."""
        self._kept, self._handing = None, True

        def kept(error: DaulatError | None) -> None:
            self._handing = False
            if self._done:
                return  # the client has left meanwhile, say
            if error is None:
                then()
            elif self._started:
                self._stream_broke(error)
            else:
                self._fail(error, usage)

        self._service.vault.keep(self._principal, self._body, answer, kept, stream=self._events is not None)

    def _fail(self, error: DaulatError, usage: Usage | None = None) -> None:
        rendered = self._service.render(error, self._action)
        self._status, self._error = rendered.status, error.code
        self._complete("failed", usage or Usage(), commitments.commit(self._salt, "response", rendered.body))
        answer = partial(self._reply.send, rendered.status, rendered.headers, rendered.body)
        self._service.ledger.complete(self._sequence, self._record, answer)

    def _end_stream(self, outcome: str, final: bytes) -> None:
        """The final frame is part of the commitment, and held until the completion is durable."""
        if self._call is not None:
            self._call.resume()  # a slow client must not keep the engine from ending its message
        self._leave_engine("ok" if outcome == "ok" else "failed")
        if outcome == "ok" and self._kept is not None:
            answer = b"".join((*self._kept, final))
            self._hand_over(answer, Usage(), lambda: self._end_stream("ok", final))
            return
        self._sent.update(final)
        usage = self._events.usage if self._events is not None else None
        self._complete(outcome, usage or self._counted(), self._digest())
        self._service.ledger.complete(self._sequence, self._record, partial(self._reply.finish, final), patient=True)

    def _stream_broke(self, error: DaulatError) -> None:
        """After the first byte there is no status left to send: an error event, never a silent end."""
        if not self._started:
            self._retry(error)
            return
        self._error = error.code
        body = self._service.render(error, self._action).body
        self._end_stream("failed", (b"event: error\ndata: " if self._action in _TYPED else b"data: ") + body + b"\n\n")

    def client_gone(self) -> None:
        """The client has left: the engine stops, and the entry says so."""
        if self._done:
            return
        if not self._sequence:
            self._refuse(Overloaded("The client left before its turn.", retry_after=1.0, code="client_left"))
            return
        self._stop_engine("aborted")
        self._error = "client_left"
        self._complete("aborted", self._counted(), self._digest() if self._started else None)
        self._service.ledger.complete(self._sequence, self._record, _nothing, patient=True)

    def check(self, world: World) -> None:
        """A new snapshot has come: end, with words, if it no longer covers this answer."""
        if self._done or self._route is None:
            return
        reason = world.alive(self._principal.key_id, self._route.replica.id)
        if not reason:
            return
        if "key" in reason:
            self._end_early(Unauthenticated(f"This answer was cut: {reason}.", code="revoked"))
        elif self._sequence:  # else it waits for its turn, with whichever replica
            self._stop_engine("dead")
            self._stream_broke(Unavailable(f"This answer was cut: {reason}.", code="revoked"))

    def sweep(self, now: float) -> None:
        limits = self._service.limits
        if self._done:
            return
        if now - self._begun > limits.request_seconds:
            self._end_early(EngineTimeout(f"An answer may take {limits.request_seconds:.0f} s."))
        elif self._stream and not self._head and self._sequence and now - self._begun > limits.engine_seconds:
            self._end_early(EngineTimeout(f"The engine did not begin to answer within {limits.engine_seconds:.0f} s."))

    def pause(self) -> None:
        """The client takes no more for now."""
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    def cut(self, reason: str) -> None:
        """End now, with words."""
        if not self._done:
            self._end_early(Unavailable(f"This answer was cut: {reason}.", code="interrupted"))

    def _end_early(self, error: DaulatError) -> None:
        self._stop_engine("timeout" if isinstance(error, EngineTimeout) else "cut")
        if not self._sequence:
            self._refuse(error)
        elif self._started:
            self._stream_broke(error)
        else:
            self._fail(error)

    def _stop_engine(self, outcome: str) -> None:
        call = self._call
        self._leave_engine(outcome)
        if call is not None:
            call.abort()

    def _leave_engine(self, outcome: str) -> None:
        if self._call is None or self._route is None:
            return
        self._overhead += self._call.overhead
        self._call = None
        self._service.load[self._route.replica.id] -= 1
        self._attempts.append((self._route, outcome))
        if self._service.turns.waiting:
            self._service.turns.freed(self._route.model.name)


def _nothing() -> None:
    pass

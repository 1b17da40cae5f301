"""What one request leaves in the journal: its admission, its completion, or both at once where it is refused.

The records are written by hand, for every request; their fields and order are those of `core.entries`.
"""

from __future__ import annotations

from daulat.core import commitments
from daulat.core.decision import Decision
from daulat.core.principal import Principal
from daulat.core.snapshot import ModelRow
from daulat.errors import DaulatError, InvalidRequest, Overloaded, PermissionDenied
from daulat.metering.purse import Purse
from daulat.pipeline.body import Peek
from daulat.pipeline.ports import Reply
from daulat.pipeline.service import Service
from daulat.pipeline.turns import Turn
from daulat.pipeline.usage import Usage
from daulat.pipeline.wording import capped, rule
from daulat.pipeline.world import Grant, Route


class Recorded:
    """One authenticated request, as far as the journal is concerned; `pipeline.inference` is the rest of it."""

    __slots__ = (
        "_action", "_attempts", "_begun", "_body", "_done", "_error", "_first", "_grant", "_lines", "_model",
        "_overhead", "_peek", "_principal", "_purse", "_record", "_reply", "_salt", "_sequence", "_service", "_status",
        "_stream", "_taken", "_time", "_turn", "request_id",
    )  # fmt: skip

    # What `pipeline.inference` sets at the beginning: an __init__ of its own would be one more call a request.
    _service: Service
    _reply: Reply
    _principal: Principal
    _action: str
    _begun: float
    _first: float  # when the first byte went out; 0 until then
    _body: bytes
    _sequence: int  # in the journal; 0 until it is admitted
    _time: int
    _turn: Turn | None  # of one that is limited, or has waited
    _purse: Purse | None  # or out of what it was paid,
    _taken: int  # with how many tokens,
    _lines: str  # and what its answer's headers say of that
    _salt: bytes  # of the response
    _attempts: list[tuple[Route, str]]
    _model: ModelRow | None
    _grant: Grant | None
    _peek: Peek | None
    _done: bool
    _stream: bool
    _status: int  # ours
    _error: str | None
    _overhead: int
    _record: bytes
    request_id: str

    def _admission(self, who: str, under: str) -> bytes:
        salt, self._salt = self._principal.salter.salts(self.request_id)
        commitment = commitments.commit(salt, "request", self._body)
        if self._model is not None:
            model = self._service.world.quoted.get(self._model.name) or capped(self._model.name)
        else:
            model = capped(self._peek.model) if self._peek is not None else '""'
        if self._turn is not None:
            self._time = self._service.clock.now_ms()  # it may have waited for that
        return (
            f'{{"request_id":"{self.request_id}","time":{self._time},{who},{under},'
            f'"sequence":{self._sequence},"requested_model":{model},"stream":{"true" if self._stream else "false"},'
            f'"request":"{commitment}"}}'
        ).encode()

    def _completion(self, outcome: str, usage: Usage, response: str | None) -> bytes:
        if len(self._attempts) == 1:
            ((route, result),) = self._attempts
            attempts = f'{route.attempt}"{result}"}}'
        else:
            attempts = ",".join([f'{route.attempt}"{result}"}}' for route, result in self._attempts])
        now = max(self._time, self._service.clock.now_ms())  # a clock that was set back meanwhile makes no lie of it
        error = "null" if self._error is None else f'"{self._error}"'
        committed = "null" if response is None else f'"{response}"'
        return (
            f'{{"time":{now},"outcome":"{outcome}","status":{self._status},"error":{error},"attempts":[{attempts}],'
            f'"usage":{{"prompt_tokens":{usage.prompt_tokens},"cached_tokens":{usage.cached_tokens},'
            f'"completion_tokens":{usage.completion_tokens}}},"overhead":{self._overhead},"response":{committed}}}'
        ).encode()

    def _complete(self, outcome: str, usage: Usage, response: str | None) -> None:
        """It has ended, with this usage: its completion is ready for the journal, its reservation settled."""
        service = self._service
        self._done, self._body, self._peek = (
            True,
            b"",
            None,
        )  # what is not needed any more makes room for who comes next
        service.active.discard(self)
        self._record = self._completion(outcome, usage, response)
        if self._purse is not None:
            tokens = usage.prompt_tokens + usage.completion_tokens
            if not self._purse.settle(self._taken, tokens):
                service.turns.settle_late(self._purse, self._taken, tokens)
        elif self._turn is not None:
            service.turns.settle(self._turn, usage)
        service.meter.finished(self._action, self._status, outcome, usage, self._begun, self._first)

    def _refuse(self, error: DaulatError) -> None:
        """A denial is one entry of its own, admission and completion in one commit, and then the answer."""
        service, rendered = self._service, self._service.render(error, self._action)
        self._done, limits = True, self._limits()
        service.active.discard(self)
        if self._turn is not None:
            service.turns.leave(self._turn)
        outcome = "failed" if isinstance(error, InvalidRequest) else "denied"
        service.meter.finished(self._action, rendered.status, outcome, Usage(), self._begun, 0.0)
        # What is left of a full disk belongs to answers under way: denials become counts then, too.
        if service.ledger.shortage or not service.denials.spend(self._principal.key_id, service.clock.now_ms()):
            service.ledger.refuse_principal(self._principal.person)
            self._reply.mark(self.request_id, "", limits)
            self._reply.send(rendered.status, rendered.headers, rendered.body)
            return
        self._sequence = service.ledger.next_sequence()
        if isinstance(error, PermissionDenied) and self._grant is not None:
            who, under = self._grant.who, self._grant.under
        else:
            name = "gateway.rate" if self._turn is not None and isinstance(error, Overloaded) else rule(error)
            of = (self._model.index if self._model else None, None, None)
            who, under = service.world.describe(self._principal, self._action, Decision("deny", (name,)), of)
        self._status, self._error = rendered.status, error.code
        admission = self._admission(who, under)  # before the completion, so that the times in them do not cross
        commitment = commitments.commit(self._salt, "response", rendered.body)
        completion = self._completion(outcome, Usage(), commitment)

        def answer(promise: str) -> None:
            self._reply.mark(self.request_id, promise, limits)
            self._reply.send(rendered.status, rendered.headers, rendered.body)

        service.ledger.admit_complete(self._sequence, self.request_id, admission, completion, answer)

    def _limits(self) -> str:
        """What the answer's headers say of its limits."""
        if self._turn is None:
            return self._lines
        return self._turn.lines or self._service.turns.header_lines(self._turn, self._service.clock.now_ms())

"""What the life of a request needs of the world: a client to answer, engines to ask, and words for the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from daulat.core.principal import Principal
from daulat.core.snapshot import ReplicaRow
from daulat.engines.dialect import EngineRequest
from daulat.errors import DaulatError

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Rendered:
    """An error as the wire says it."""

    status: int
    headers: Headers
    body: bytes


Render = Callable[[DaulatError, str], Rendered]
"""`render(error, action)`: in the envelope of that action's wire."""


class Reply(Protocol):
    """The client's side of one request. Nothing here blocks; after the client has left, everything is ignored."""

    def mark(self, request_id: str, promise: str, more: str = "") -> None:
        """What the answer's headers will say of the request: id, receipt, the promise unless empty, and these lines."""
        ...

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole JSON answer."""
        ...

    def start(self, status: int, headers: Headers) -> None:
        """Begin a streamed answer."""
        ...

    def write(self, data: bytes) -> None: ...

    def finish(self, data: bytes) -> None:
        """The last bytes, and the end."""
        ...


class Listener(Protocol):
    """Who produces an answer, and wants to hear how its client does."""

    def client_gone(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class EngineCall(Protocol):
    """One request to an engine, under way."""

    @property
    def overhead(self) -> int:
        """Prompt tokens spent beside it on its behalf (warming a shared prefix)."""
        ...

    def abort(self) -> None:
        """Close the connection: the engine stops generating. Nothing is heard of the call any more."""
        ...

    def pause(self) -> None:
        """Take no more bytes for now: the client is slow."""
        ...

    def resume(self) -> None: ...


class EngineSink(Protocol):
    """Who listens to a call. `engine_done` or `engine_failed` comes last, once; `engine_whole` alone, if at all."""

    __slots__ = ()

    def engine_head(self, status: int, content_type: bytes) -> None: ...

    def engine_data(self, data: bytes) -> None: ...

    def engine_done(self) -> None: ...

    def engine_failed(self, error: DaulatError) -> None: ...

    def engine_whole(self, content_type: bytes, data: bytes) -> None:
        """An answer of status 200 that came at once, for those who would rather have it so."""
        self.engine_head(200, content_type)
        if data:
            self.engine_data(data)
        self.engine_done()


class Engines(Protocol):
    """Port: asking engines. `gateway.engines` is the real one."""

    def call(self, replica: ReplicaRow, request: EngineRequest, sink: EngineSink) -> EngineCall: ...


class Vault(Protocol):
    """Port: where completions are kept. `gateway.handover` is the real one."""

    @property
    def shortage(self) -> str:
        """Why nothing can be kept now, or an empty string."""
        ...

    def keep(
        self,
        principal: Principal,
        request: bytes,
        answer: bytes,
        kept: Callable[[DaulatError | None], None],
        *,
        stream: bool,
    ) -> None:
        """Keep a completion; `kept` is called once, later: with None when it is durable, else with why it is not."""
        ...

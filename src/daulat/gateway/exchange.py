"""One request of a client, and the way to answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from daulat.core.principal import Principal
from daulat.errors import DaulatError
from daulat.gateway import errors as wire_errors
from daulat.pipeline.ports import Headers, Listener

_ANTHROPIC: Final = b"/v1/messages"
_BODILESS: Final = frozenset({204, 304})  # RFC 9112 section 6.3: the head is all of it


Asker = tuple[Mapping[bytes, bytes], object, Principal]
"""Who asked: with which headers, that were in order, of which roll (`Directory.mark`)."""


class Wire(Protocol):
    """What an answer needs of its connection (`gateway.http.Connection`)."""

    keeps: bool
    """Whether the connection may stay open behind this answer."""
    version: str
    write: Callable[[bytes], object]
    soon: Callable[[Exchange], None]
    """Have `flush` called at the end of this turn of the loop."""

    asker: Asker | None
    """Who asked on it last."""

    def status_line(self, status: int) -> bytes: ...

    def answered(self, *, keep: bool) -> None:
        """The answer is over."""
        ...

    @property
    def address(self) -> str:
        """The address at the other end; empty where it has none."""
        ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Who takes a body as it comes."""

    def feed(self, data: bytes) -> None: ...

    def fed(self) -> None:
        """That was all of it."""
        ...


class Source(Wire, Protocol):
    """A connection whose request has a body that is still coming."""

    def pour(self, sink: Sink) -> None:
        """From now on, give it to `sink`."""
        ...

    def hold(self) -> None:
        """Read nothing more of it, until somebody asks again."""
        ...


class Exchange:
    """One request, and the way to answer it (`pipeline.ports.Reply`)."""

    __slots__ = (
        "_chunked",
        "_keep",
        "_marks",
        "_unwritten",
        "body",
        "headers",
        "listener",
        "method",
        "target",
        "wire",
    )

    def __init__(self, wire: Wire, method: bytes, target: bytes, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.wire: Wire | None = wire  # None: it is answered, or its client has left
        self.method, self.target, self.headers, self.body = method, target, headers, body
        self.listener: Listener | None = None  # who wants to hear of the client's leaving and slowness
        self._marks = self._unwritten = b""
        self._keep = True
        self._chunked = True

    @property
    def address(self) -> str:
        """That at the connection's other end; empty when it is gone."""
        return "" if self.wire is None else self.wire.address

    def mark(self, request_id: str, promise: str, more: str = "") -> None:
        """See `Reply.mark`."""
        if promise:
            self._marks = (
                f"x-request-id: {request_id}\r\ndaulat-receipt: /v1/receipts/{request_id}\r\n"
                f"daulat-promise: {promise}\r\n{more}"
            ).encode()
        else:
            self._marks = f"x-request-id: {request_id}\r\n{more}".encode()

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer; JSON unless `headers` name another type."""
        connection = self.wire
        if connection is None:
            return
        keep = connection.keeps and self._keep
        others = b"content-type: application/json\r\n"
        if headers:
            named = b"".join([b"%b: %b\r\n" % pair for pair in headers])
            others = named if any(name == b"content-type" for name, _ in headers) else named + others
        framing = b"content-length: %d\r\n\r\n" if keep else b"content-length: %d\r\nconnection: close\r\n\r\n"
        start = connection.status_line(status), self._marks, others, framing % len(body)
        connection.write(b"".join(start if self.method == b"HEAD" else (*start, body)))
        self.wire = self.listener = None
        connection.answered(keep=keep)

    def start(self, status: int, headers: Headers, *, length: int | None = None) -> None:
        """Begin a streamed answer: chunked, or of a known length, or for HTTP/1.0 until the connection closes."""
        connection = self.wire
        if connection is None:
            return
        bodiless = status in _BODILESS
        self._chunked = length is None and connection.version == "1.1" and not bodiless
        self._keep = connection.keeps and (self._chunked or length is not None or bodiless)
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        if length is not None and not bodiless:
            framing = b"content-length: %d\r\n" % length
        self._put(
            b"".join(
                (
                    connection.status_line(status),
                    self._marks,
                    *(b"%b: %b\r\n" % pair for pair in headers),
                    framing,
                    b"\r\n" if self._keep else b"connection: close\r\n\r\n",
                )
            )
        )

    def write(self, data: bytes) -> None:
        """More of a streamed answer."""
        if data and self.method != b"HEAD":
            self._put(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _put(self, data: bytes) -> None:
        """Write it at the end of this turn of the loop, with whatever else comes until then."""
        connection = self.wire
        if connection is not None:
            if not self._unwritten:
                connection.soon(self)
            self._unwritten += data

    def flush(self) -> None:
        """Write what there is to write."""
        if self._unwritten and self.wire is not None:
            data, self._unwritten = self._unwritten, b""
            self.wire.write(data)

    def finish(self, data: bytes) -> None:
        """The last bytes and the end, in one write."""
        self.write(data)
        if self._chunked and self.method != b"HEAD":
            self._put(b"0\r\n\r\n")
        self.flush()
        connection, self.wire, self.listener = self.wire, None, None
        if connection is not None:
            connection.answered(keep=self._keep)

    def fail(self, error: DaulatError, more: Headers = ()) -> None:
        """A whole answer from an error, for those that never became a logged request."""
        headers = [*wire_errors.headers_for(error), *more]
        anthropic = self.target.startswith(_ANTHROPIC)
        body = wire_errors.anthropic_envelope(error) if anthropic else wire_errors.envelope(error)
        self.send(wire_errors.status_of(error), headers, body)

    def abandon(self) -> None:
        """Nothing sensible can be said any more: close the connection."""
        self.flush()
        connection, self.wire = self.wire, None
        if connection is not None:
            connection.close()

    def gone(self) -> None:
        """The client has left."""
        self.wire = None
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.client_gone()


class Incoming(Exchange):
    """One whose body is still coming: nothing of it is read before somebody asks for it with `pour`."""

    __slots__ = ("_source", "begun", "length")

    def __init__(
        self, source: Source, method: bytes, target: bytes, headers: Mapping[bytes, bytes], length: int
    ) -> None:
        """`length`: in bytes, or `framing.CHUNKED`."""
        super().__init__(source, method, target, headers, b"")
        self._source, self.length = source, length
        self.begun = False  # to be answered

    def pour(self, sink: Sink) -> bool:
        """Whether the client is still there to send it."""
        if self.wire is None:
            return False
        self._source.pour(sink)
        return True

    def hold(self) -> None:
        """Until the next `pour`."""
        if self.wire is not None:
            self._source.hold()

    def start(self, status: int, headers: Headers, *, length: int | None = None) -> None:
        """See `Exchange.start`."""
        self.begun = True
        super().start(status, headers, length=length)

"""HTTP/1.1 towards clients: one `asyncio.Protocol` a connection, `httptools` (llhttp) for parsing.

llhttp in its strict mode refuses bare LF and CR, NUL, folded lines and spaces around names; what it lets pass and
RFC 9112 does not is refused by `framing`.

A connection answers one request at a time, in order; what a pipelining client sends meanwhile waits, bounded. Bodies
are bounded, every wait has an end (`sweep`), and a client that does not take its answer stops the engine's bytes
instead of filling our memory. A large body for a route that takes it as it comes (`Incoming`) is never collected: it is
read no faster than it is taken. RFC 9112 is named where a rule comes from it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httptools

from daulat.core.snapshot import Limits
from daulat.errors import DaulatError, InvalidRequest, Unavailable
from daulat.gateway import framing
from daulat.gateway.errors import REASONS
from daulat.gateway.exchange import Asker, Exchange, Incoming, Sink
from daulat.gateway.framing import HOSTS, wire_error
from daulat.gateway.heads import VARIED, Repeated
from daulat.gateway.server import Server
from daulat.pipeline.actions import PATHS

_USUAL: Final = frozenset(b"POST %b HTTP/1.1" % path.encode() for path in PATHS.values())
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_HIGH_WATER: Final = 256 * 1024
_LINGER_SECONDS: Final = 2.0
_STEP: Final = 1 << 20  # of a body that is taken as it comes: its time counts anew with each


class Connection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_beside",
        "_body",
        "_buffer",
        "_chunked",
        "_deadline",
        "_exchange",
        "_expects",
        "_headers",
        "_incoming",
        "_left",
        "_lingers",
        "_method",
        "_parsed",
        "_parser",
        "_reading",
        "_repeated",
        "_server",
        "_sink",
        "_size",
        "_stalled",
        "_state",
        "_target",
        "_transport",
        "_whole",
        "asker",
        "keeps",
        "soon",
        "version",
        "write",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self.soon: Callable[[Exchange], None] = server.soon
        self._transport: Any = None
        self.write: Callable[[bytes], object] = _discard  # the transport's own, while the connection is open
        self._exchange: Exchange | None = None
        self._incoming: Incoming | None = None  # that exchange, while its body is still coming
        self._sink: Sink | None = None  # who takes it now
        self._buffer = b""
        self._state = "head"  # -> "body" -> "busy" -> "head"; "closed"
        self._reading, self._lingers = True, False
        self._parser: Any = None
        self._stalled = self._deadline = 0.0  # since when the client has taken nothing; when it is out of time
        self._repeated: Repeated | None = None
        self.keeps, self.version = True, "1.1"
        self.asker: Asker | None = None
        self._begin()

    def _begin(self) -> None:
        self._parsed: dict[bytes, bytes] = {}
        self._headers: Mapping[bytes, bytes] = self._parsed
        self._method = self._target = b""
        self._body: list[bytes] = []
        self._size = self._left = self._beside = 0
        self._chunked = self._whole = self._expects = False

    def connection_made(self, transport: Any) -> None:
        self._transport, self.write = transport, transport.write
        transport.set_write_buffer_limits(_HIGH_WATER)
        self._server.connections.add(self)
        self._deadline = time.monotonic() + self._server.limits.header_seconds
        if len(self._server.connections) > self._server.limits.connections:
            self._refuse(Unavailable("Too many connections are open; try again later.", code="too_many_connections"))

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._state, self.write, self.asker = "closed", _discard, None
        self._parser = None  # it holds us: a cycle would wait for the collector, with what is in it, a key above all
        exchange, self._exchange, self._incoming, self._sink = self._exchange, None, None, None
        if exchange is not None:
            exchange.gone()

    def eof_received(self) -> bool:
        return False  # a client that stops sending has left: closing tells the engine

    def data_received(self, data: bytes) -> None:
        if self._state == "closed":
            return  # the rest of what was refused
        self._buffer = self._buffer + data if self._buffer else data
        if self._state == "busy" or self._stalled:
            if len(self._buffer) > self._server.limits.header_bytes:
                self._pause_reading()
            return
        repeated = self._repeated
        if repeated is None or self._state != "head" or not self._take_again(repeated):
            self._advance()

    def _advance(self) -> None:
        try:
            while self._buffer and self._state in {"head", "body"} and not self._stalled:
                if self._state == "head" and not self._take_head():
                    return
                if self._state == "body" and not self._take_body():
                    return
        except httptools.HttpParserError as error:
            self._refuse(framing.malformed(error))
        except DaulatError as error:
            self._refuse(error)

    def _take_head(self) -> bool:
        """Parse one head when it is whole; whether the request went on to its body or further."""
        limits = self._server.limits
        if self._buffer.startswith(b"\r\n"):  # RFC 9112 section 2.2: ignore an empty line before a request
            self._buffer = self._buffer[2:]
        end = self._buffer.find(b"\r\n\r\n", 0, limits.header_bytes + 4)
        if end < 0:
            if len(self._buffer) > limits.header_bytes:
                raise wire_error("headers_too_large", f"The header is larger than {limits.header_bytes} bytes.")
            if b"\n\n" in self._buffer or b"\0" in self._buffer:
                raise InvalidRequest("Malformed HTTP: a line of the header ends in LF alone, or holds NUL.")
            return False
        end += 4
        head = self._buffer[:end]
        self._read_head(head, limits)
        if self._left == len(self._buffer) - end:  # all of it is here, and nothing else: as nearly always
            body, self._buffer = self._buffer[end:], b""
            self._complete(body)
            return True
        self._buffer = self._buffer[end:]
        if not self._left:
            self._complete(b"")
            return True
        self._deadline = time.monotonic() + limits.body_seconds
        self._state = "body"
        if self._expects:
            self._transport.write(_CONTINUE)
        if self._incoming is not None:
            self._exchange, self.keeps = self._incoming, False  # who answers early need not read what is left
            self.hold()
            self._server.handle(self._incoming)
        return True

    def _take_again(self, repeated: Repeated) -> bool:
        """Take a request that has the same head again; whether it was one."""
        buffer, server = self._buffer, self._server
        end, length, headers = repeated.match(buffer, server.limits.header_bytes + 4)
        if not end:
            return False
        missing = length - (len(buffer) - end)
        if length > server.small or missing < 0:  # there is another behind it
            return False
        if missing:
            self._begin()
        self.version, self._method, self._target = "1.1", b"POST", repeated.target
        self._headers, self.keeps = headers, not server.draining
        if not missing:
            self._buffer = b""
            self._complete(buffer[end:])
            return True
        self._buffer, self._left, self._state = buffer[end:], length, "body"
        self._deadline = time.monotonic() + server.limits.body_seconds
        self._advance()
        return True

    def _take_body(self) -> bool:
        if self._incoming is not None:
            return self._pass_on(self._incoming)
        if self._chunked:
            if not self._parse_chunks():
                return False
        else:
            part = self._buffer[: self._left]
            self._buffer = self._buffer[len(part) :]
            self._left -= len(part)
            self._body.append(part)
            if self._left:
                return False
        self._complete(b"".join(self._body))
        return True

    def _parse_chunks(self) -> bool:
        """Into `_body`; whether it is whole."""
        data, self._buffer = self._buffer, b""
        size = self._size
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._whole:
                raise
            self.keeps = False  # the body is whole, what follows it is no request
        if self._whole:
            if not data.endswith(b"\n"):
                self.keeps = False  # behind its end came the beginning of another's method: see `on_url`
            return True
        self._beside = self._beside + len(data) if self._size == size else 0
        if self._beside > self._server.limits.header_bytes:
            raise wire_error("headers_too_large", "The body's chunk extensions or trailers are too large.")
        return False

    # A body that is taken as it comes (`exchange.Source`).

    def _pass_on(self, incoming: Incoming) -> bool:
        """What there is of the body, to whoever takes it; whether that was its end."""
        if self._sink is None:
            return False
        if self._chunked:
            whole = self._parse_chunks()
            part = b"".join(self._body)
            self._body.clear()
        else:
            part = self._buffer[: self._left]
            self._buffer = self._buffer[len(part) :]
            self._left -= len(part)
            self._size += len(part)
            whole = not self._left
        sink, before = self._sink, self._size - len(part)
        if self._size // _STEP > before // _STEP:
            self._deadline = time.monotonic() + self._server.limits.body_seconds
        if part:
            sink.feed(part)  # which may hold, or end it all
        if whole and self._incoming is incoming:
            self._state, self._incoming, self._sink = "busy", None, None
            self._read_on()  # the client may still leave
            sink.fed()
        return whole

    def pour(self, sink: Sink) -> None:
        """See `Source`."""
        self._sink = sink
        self._deadline = time.monotonic() + self._server.limits.body_seconds
        self._read_on()
        asyncio.get_running_loop().call_soon(self._advance)  # what came with the head, or while it was held

    def hold(self) -> None:
        """See `Source`."""
        self._sink = None
        self._deadline = math.inf  # it is not the client who is slow
        self._pause_reading()

    # httptools' callbacks.

    def on_url(self, url: bytes) -> None:
        if self._state == "head":
            self._target = self._target + url if self._target else url
        elif self._whole:
            # A chunked request and the next one came in one segment. The parser does not say where the first ends, so
            # the second is not answered: the client learns it from `Connection: close` and may ask again.
            self.keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in framing.KEPT and self._state == "head":
            headers = self._parsed
            if name in headers and name in framing.SINGLE:
                raise InvalidRequest(f"The header '{name.decode()}' is given more than once.")
            headers[name] = value.rstrip(b" \t")

    def on_body(self, data: bytes) -> None:
        if self._state == "body" and not self._whole:
            self._size += len(data)
            limit = self._server.limits.body_bytes
            if self._size > limit and self._incoming is None:
                raise framing.too_large(limit)
            self._body.append(data)

    def on_message_complete(self) -> None:
        self._whole = self._whole or self._chunked

    def _read_head(self, head: bytes, limits: Limits) -> None:
        """Parse it, and see to what `framing` asks."""
        self._begin()
        parser, headers = httptools.HttpRequestParser(self), self._parsed
        self._parser = parser
        try:  # noqa: SIM105  `suppress` is an object and three calls more
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # RFC 9110 section 7.8: an upgrade may be ignored
        usual = head[: head.find(b"\r")] in _USUAL
        if usual:
            self.version, self._method = "1.1", b"POST"
        else:
            self.version, self._method = parser.get_http_version(), parser.get_method()
            framing.check_line(head, self._method, self._target, self.version)
            self._target = framing.origin_form(self._method, self._target)
        version = self.version
        self.keeps = version == "1.1" and parser.should_keep_alive() and not self._server.draining
        if headers.get(b"host") not in HOSTS:
            framing.check_host(headers, version)
        if b"expect" in headers:
            self._expects = framing.expects_continue(headers, version) and len(self._buffer) == len(head)
        if parser.should_upgrade() and b"transfer-encoding" in headers:
            raise InvalidRequest("An upgrade with a chunked body is refused.")
        self._left = framing.body_length(headers, version)
        self._chunked = self._left == framing.CHUNKED
        if self._chunked or self._left > self._server.small:
            self._check_large(limits)
        elif usual and self.keeps and not self._expects and not parser.should_upgrade():
            if self._repeated is None:
                self._repeated = Repeated.of(head, self._target, headers)
            elif not self._repeated.match(head, len(head))[0]:
                self._repeated = VARIED  # as behind a proxy that numbers what it hands on

    def _check_large(self, limits: Limits) -> None:
        """A body that not everybody may send, or of unknown size."""
        if self._server.allow(self._target, self._headers):
            self._incoming = Incoming(self, self._method, self._target, self._headers, self._left)
        elif self._left > limits.body_bytes:
            self._state = "body"  # it is not the head that is wrong
            raise framing.too_large(limits.body_bytes)

    # Answering.

    def _complete(self, body: bytes) -> None:
        self._state = "busy"
        exchange = self._exchange = Exchange(self, self._method, self._target, self._headers, body)
        self._server.handle(exchange)

    def answered(self, *, keep: bool) -> None:
        """The exchange is over: read on, or close."""
        self._exchange = self._incoming = self._sink = None
        if self._state == "closed":
            return
        if not keep or self._server.draining:
            self._lingers = not self._server.draining
            self.close()
            return
        self._state, self._target = "head", b""
        limits = self._server.limits
        self._deadline = time.monotonic() + (limits.header_seconds if self._buffer else limits.idle_seconds)
        if not self._reading:
            self._read_on()
        if self._buffer:
            # Not recursively: a client may pipeline a thousand requests that are answered at once.
            asyncio.get_running_loop().call_soon(self._advance)

    def status_line(self, status: int) -> bytes:
        if status == 200:  # noqa: PLR2004
            return self._server.ok
        return b"HTTP/1.1 %d %b\r\n%b" % (status, REASONS.get(status, b"Error"), self._server.date)

    @property
    def address(self) -> str:
        """The address at the other end; empty where it has none."""
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    def close(self) -> None:
        """Close once everything is written. After a last answer the client may still be sending: to close on it at
        once would reset the connection, and it might never read that answer (RFC 9112 section 9.6)."""
        if self._state == "closed":
            return
        self._state, self._buffer, self.write = "closed", b"", _discard
        if self._lingers:
            self._read_on()
            self._deadline = time.monotonic() + _LINGER_SECONDS
            self._transport.write_eof()
        else:
            self._deadline = time.monotonic() + self._server.limits.write_seconds
            self._transport.close()

    def close_if_idle(self) -> None:
        self.keeps = False
        if self._exchange is None and self._state == "head" and not self._buffer:
            self.close()

    def pause_writing(self) -> None:
        self._stalled = time.monotonic()
        if self._exchange is not None and self._exchange.listener is not None:
            self._exchange.listener.pause()

    def resume_writing(self) -> None:
        self._stalled = 0.0
        if self._exchange is not None:
            if self._exchange.listener is not None:
                self._exchange.listener.resume()
        elif self._buffer:
            self._deadline = time.monotonic() + self._server.limits.header_seconds
            self._read_on()
            self._advance()

    def sweep(self, now: float) -> None:
        if self._stalled and now - self._stalled > self._server.limits.write_seconds:
            self._transport.abort()
        elif self._stalled or now <= self._deadline:
            return
        elif self._state == "closed":
            self._transport.abort()
        elif self._state in {"head", "body"}:
            if self._state == "head" and not self._buffer:
                self.close()
            else:
                self._refuse(wire_error("request_timeout", "The request did not arrive in time."))

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _refuse(self, error: DaulatError) -> None:
        """Say what is wrong and close: what follows on this connection cannot be trusted to be a request."""
        exchange = Exchange(self, b"", self._target, {}, b"")
        if self._state == "body":
            exchange.method, exchange.headers = self._method, self._headers
        incoming, self._incoming, self._sink = self._incoming, None, None
        if incoming is not None and self._exchange is incoming:
            self._exchange = None
            if incoming.begun:
                self._state = "busy"
            incoming.gone()
        if self._state == "busy":  # an answer has begun
            self._transport.abort()
            exchange.gone()
        else:
            self.keeps = False
            self._state = "busy"
            self._exchange = exchange
        self._server.refuse(exchange, error)


def _discard(_data: bytes) -> None:
    """Where the bytes go that nobody can be sent any more."""

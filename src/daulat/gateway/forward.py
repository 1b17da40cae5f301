"""Requests that are not for the hot path, handed on to the process that answers them over its Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import httptools

from daulat.errors import Unavailable
from daulat.gateway.exchange import Exchange, Incoming
from daulat.gateway.framing import CHUNKED

_PASSED: Final = (
    b"authorization",
    b"accept-encoding",
    b"idempotency-key",
    b"if-match",
    b"if-none-match",
    b"range",
)
_OF_BROWSERS: Final = (b"accept", b"cookie", b"origin", b"sec-fetch-site", b"user-agent")
CLIENT: Final = b"daulat-client"
"""The header in which a worker says whose address asks: what clients send under that name is not passed."""
_NOT_PASSED: Final = frozenset(
    {b"connection", b"transfer-encoding", b"content-length", b"date", b"server", b"keep-alive"}
)
_HIGH_WATER: Final = 256 * 1024
_FINAL: Final = 200  # statuses below are interim answers
_BEGIN_SECONDS: Final = 30.0  # until it begins to answer, or takes more of a body
_KEPT_SECONDS: Final = 120.0  # until it begins to answer when it took a large body: that is made durable first


class Forwarder:
    """One connection a request: these are few."""

    def __init__(self, socket_path: str, what: str = "Receipts, log and metrics", *, browsers: bool = False) -> None:
        """`what` is answered there, in words for when it is not; `browsers`: hand on what they say of themselves too,
        cookies above all."""
        self._path, self._what = socket_path, what
        self._passed = (*_PASSED, *_OF_BROWSERS) if browsers else _PASSED
        self._tasks: set[asyncio.Task[None]] = set()

    def forward(self, exchange: Exchange, client: str = "") -> None:
        """Ask the same of that process and stream its answer back; `client`: the address that asks."""
        task = asyncio.get_running_loop().create_task(self._connect(exchange, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, exchange: Exchange, client: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: _Pages(exchange, self._what, client, self._passed), self._path)
        except OSError:
            exchange.fail(Unavailable(f"{self._what} are starting; try again in a moment."))


class _Pages(asyncio.Protocol):
    """That process' side of one forwarded request; the sink of a body that is still coming."""

    def __init__(self, exchange: Exchange, what: str, client: str, passed: Sequence[bytes]) -> None:
        self._exchange, self._what, self._client, self._passed = exchange, what, client, passed
        self._parser: Any = None  # while connected: it holds us, and a cycle would wait for the collector, body and all
        self._headers: list[tuple[bytes, bytes]] = []
        self._length: int | None = None
        self._transport: Any = None
        self._over = self._begun = False
        self._incoming = exchange if isinstance(exchange, Incoming) else None  # while its body is coming
        self._chunked = self._incoming is not None and self._incoming.length == CHUNKED
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport, self._parser = transport, httptools.HttpResponseParser(self)
        self._wait(_BEGIN_SECONDS)
        exchange = self._exchange
        exchange.listener = self
        passed = b"".join(
            b"%b: %b\r\n" % (name, exchange.headers[name]) for name in self._passed if name in exchange.headers
        )
        passed += b"%b: %b\r\n" % (CLIENT, self._client.encode())
        incoming = self._incoming
        if incoming is not None or exchange.method == b"POST" or exchange.body:
            length = len(exchange.body) if incoming is None else incoming.length
            kind = exchange.headers.get(b"content-type", b"")
            passed += b"content-type: %b\r\n" % kind
            passed += b"transfer-encoding: chunked\r\n" if self._chunked else b"content-length: %d\r\n" % length
        if incoming is None:
            passed += b"connection: close\r\n"
        # Else we close: whoever answers before the body's end would otherwise close on what we are just writing, and
        # we might never read that answer.
        head = b"%b %b HTTP/1.1\r\nhost: pages\r\n%b\r\n"
        transport.write(head % (exchange.method, exchange.target, passed) + exchange.body)
        if incoming is not None:
            transport.set_write_buffer_limits(_HIGH_WATER)
            self.resume_writing()

    # A body that is still coming (`exchange.Sink`).

    def feed(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def fed(self) -> None:
        self._incoming = None
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        if not self._begun and not self._over:
            self._wait(_KEPT_SECONDS)

    def pause_writing(self) -> None:
        if self._incoming is not None and not self._over:
            self._incoming.hold()
            self._wait(_BEGIN_SECONDS)

    def resume_writing(self) -> None:
        if self._incoming is not None and not self._over:
            self._wait_no_more()
            if not self._incoming.pour(self):
                self.client_gone()

    def _wait(self, seconds: float) -> None:
        self._wait_no_more()
        self._patience = asyncio.get_running_loop().call_later(seconds, self._broke)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._broke()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name not in _NOT_PASSED:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < _FINAL:
            return
        self._begun = True
        self._wait_no_more()
        if self._incoming is not None:  # it is not asked for any more
            self._incoming.hold()
            self._incoming = None
        self._exchange.start(self._parser.get_status_code(), self._headers, length=self._length)
        if self._exchange.method == b"HEAD":
            self._finish()

    def on_body(self, data: bytes) -> None:
        if not self._over:
            self._exchange.write(data)

    def on_message_complete(self) -> None:
        if self._begun:
            self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._exchange.finish(b"")
            self._transport.close()

    def _broke(self) -> None:
        if self._over:
            return
        self._over = True
        if self._begun:
            self._exchange.abandon()  # a short answer must not look like a whole one
        else:
            self._exchange.fail(Unavailable(f"{self._what} are not available."))
        self._transport.abort()  # not `close`: it would wait for what is written to be taken

    def connection_lost(self, _error: Exception | None) -> None:
        self._parser = None
        self._wait_no_more()
        self._broke()

    def client_gone(self) -> None:
        self._over = True
        self._transport.abort()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

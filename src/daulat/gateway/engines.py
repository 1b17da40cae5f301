"""HTTP/1.1 towards engines: pooled keep-alive connections over Unix sockets and TCP, requests always re-framed.

`Pool.call` is the fast path for engines that take OpenAI's wire as it is. An engine with a dialect (`engines.dialect`)
is asked through `translated`, which may wait for a slot, change the body, and rewrite the answer.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import httptools

from daulat.core.snapshot import ReplicaRow
from daulat.engines import address as addresses
from daulat.engines.dialect import Dialect, EngineRequest
from daulat.errors import DaulatError, EngineDead, EngineError, EngineRequestFailed
from daulat.gateway import translated
from daulat.gateway.heads import Answered
from daulat.pipeline.ports import EngineCall, EngineSink

_TYPE_LENGTH: Final = len(b"content-type")
_MAX_IDLE: Final = 256  # connections kept a replica
_MAX_BESIDE: Final = 131_072  # bytes of an answer that are no body, at a stretch
_HEAD: Final = (
    b"%b %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\naccept: */*\r\ncontent-length: %d\r\n\r\n"
)
_HOST: Final = b"host: engine\r\n"
_ANEW_SECONDS: Final = 1.0  # between two looks at how an engine's answers begin: some name the second


class Pool:
    """Connections to all engines of one worker (`pipeline.ports.Engines`)."""

    def __init__(
        self,
        dialects: Mapping[str, Callable[[ReplicaRow, Any], Dialect | None]],
        connect_seconds: float = 5.0,
        key: Callable[[str], str] = lambda _path: "",
    ) -> None:
        """`dialects`: makers of dialects by the replica's `dialect`; replicas of others, and those for which a maker
        makes none, are spoken to directly. `key(path)`: the API key of a server outside Daulat."""
        self._key = key
        self.heads: dict[str, bytes] = {}  # by address, where requests do not begin with `_HEAD`
        self._idle: dict[str, deque[_Connection]] = {}
        self._makers = dialects
        self._dialects: dict[str, Dialect | None] = {}
        self._connect_seconds = connect_seconds
        self.outgoing: list[tuple[Any, bytes]] = []  # transports, and what is to be written to each
        self.answered: dict[str, Answered] = {}  # by address: how whole answers begin

    def call(self, replica: ReplicaRow, request: EngineRequest, sink: EngineSink) -> EngineCall:
        """Ask an engine. Nothing is raised here: failures reach the sink, from the loop."""
        dialects = self._dialects
        if replica.id in dialects:
            dialect = dialects[replica.id]
        else:
            try:
                dialect = self._met(replica)
            except DaulatError as error:
                return self._refused(replica.address, EngineDead(error.message), sink)
        if dialect is None:
            return self.post(replica.address, request.path, request.body, sink)
        return translated.ask(self, replica.address, dialect, request, sink)

    def _met(self, replica: ReplicaRow) -> Dialect | None:
        """A replica is asked for the first time. Raises DaulatError: there is no key for it."""
        if not replica.address.startswith("unix:") or replica.key_file:
            lines = b"host: %b\r\n" % addresses.parse(replica.address).authority.encode()
            if replica.key_file:
                lines += b"authorization: Bearer %b\r\n" % self._key(replica.key_file).encode()
            self.heads[replica.address] = _HEAD.replace(_HOST, lines.replace(b"%", b"%%"))
        maker = self._makers.get(replica.dialect)
        dialect = None if maker is None else maker(replica, self.fetcher(replica.address))
        self._dialects[replica.id] = dialect
        return dialect

    def _refused(self, address: str, error: DaulatError, sink: EngineSink) -> EngineCall:
        """A call that is not made: its sink hears of it from the loop."""
        call = _Call(self, address, "", "", b"", sink)
        asyncio.get_running_loop().call_soon(call.failed, error)
        return call

    def retain(self, replicas: set[str], addresses: set[str]) -> None:
        """Forget replicas that are no longer in the snapshot."""
        self._dialects = {id_: dialect for id_, dialect in self._dialects.items() if id_ in replicas}
        self.heads = {address: head for address, head in self.heads.items() if address in addresses}
        self.answered = {address: head for address, head in self.answered.items() if address in addresses}
        for address in [address for address in self._idle if address not in addresses]:
            for connection in self._idle.pop(address):
                connection.close()

    def post(self, address: str, path: str, body: bytes, sink: EngineSink, *, method: str = "POST") -> EngineCall:
        """One request to one address."""
        call = _Call(self, address, method, path, body, sink)
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.usable:
                connection.send(call, reused=True)
                return call
        call.task = asyncio.get_running_loop().create_task(self._connect(call))
        return call

    def fetcher(self, address: str) -> Callable[[str, str, bytes], Any]:
        """`fetch(method, path, body) -> (status, body)` to one address, for what dialects ask on the side."""

        async def fetch(method: str, path: str, body: bytes) -> tuple[int, bytes]:
            sink = _Collect()
            call = self.post(address, path, body, sink, method=method)
            try:
                return await sink.result
            except asyncio.CancelledError:
                call.abort()
                raise

        return fetch

    def flush(self) -> None:
        """Write what is `outgoing`, at the end of a turn of the loop."""
        outgoing, self.outgoing = self.outgoing, []
        for transport, data in outgoing:
            if not transport.is_closing():
                transport.write(data)

    def release(self, address: str, connection: _Connection) -> None:
        idle = self._idle.get(address)
        if idle is None:
            idle = self._idle[address] = deque()
        if len(idle) < _MAX_IDLE:
            idle.append(connection)
        else:
            connection.close()

    def reconnect(self, call: _Call) -> None:
        """A kept connection had been closed by the engine before it read the request: once more, on a new one."""
        call.task = asyncio.get_running_loop().create_task(self._connect(call))

    async def _connect(self, call: _Call) -> None:
        loop, address = asyncio.get_running_loop(), addresses.parse(call.address)
        try:
            async with asyncio.timeout(self._connect_seconds):
                if address.path:
                    _, connection = await loop.create_unix_connection(
                        lambda: _Connection(self, call.address), address.path
                    )
                else:
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self, call.address), address.host, address.port, ssl=address.context()
                    )
        except (OSError, TimeoutError) as error:
            call.failed(EngineDead(f"The engine cannot be reached ({type(error).__name__})."))
            return
        call.task = None
        if not address.check(connection.certificate()):
            connection.close()
            call.failed(EngineDead("The engine shows another certificate than the pinned one."))
            return
        if call.sink is None:
            self.release(call.address, connection)
        else:
            connection.send(call, reused=False)

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


class _Call:
    """One request under way (`pipeline.ports.EngineCall`)."""

    __slots__ = ("address", "body", "connection", "method", "overhead", "path", "pool", "sink", "task")

    def __init__(self, pool: Pool, address: str, method: str, path: str, body: bytes, sink: EngineSink) -> None:
        self.pool, self.address, self.method, self.path, self.body = pool, address, method, path, body
        self.sink: EngineSink | None = sink
        self.connection: _Connection | None = None
        self.task: asyncio.Task[None] | None = None
        self.overhead = 0

    def abort(self) -> None:
        self.sink = None
        if self.task is not None:
            self.task.cancel()
        if self.connection is not None:
            self.connection.close()

    def pause(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()

    def failed(self, error: DaulatError) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.engine_failed(error)


class _Connection(asyncio.Protocol):
    """One connection to an engine; at most one call at a time."""

    __slots__ = (
        "_address",
        "_beside",
        "_call",
        "_parser",
        "_parts",
        "_paused",
        "_pool",
        "_reused",
        "_seen",
        "_status",
        "_transport",
        "_type",
        "on_body",
        "since",
        "usable",
    )

    def __init__(self, pool: Pool, address: str) -> None:
        self._pool, self._address = pool, address
        self._call: _Call | None = None
        self._transport: Any = None
        self._parts: list[bytes] = []  # of the body, that came in one read
        self.on_body = self._parts.append
        self._parser: Any = None  # while it is connected: it holds us, and a cycle would wait for the collector
        self._type, self._status = b"", 0
        self._seen = self._reused = self._paused = False
        self.usable = True
        self.since = time.monotonic()

    def connection_made(self, transport: Any) -> None:
        self._transport, self._parser = transport, httptools.HttpResponseParser(self)
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def certificate(self) -> bytes | None:
        """The peer's, in DER; None without TLS."""
        peer = self._transport.get_extra_info("ssl_object")
        return None if peer is None else peer.getpeercert(binary_form=True)

    def send(self, call: _Call, *, reused: bool) -> None:
        self._call = call
        call.connection = self
        self._type, self._status, self._seen, self._reused = b"", 0, False, reused
        self._beside = 0  # bytes since the last one of a body
        pool = self._pool  # requests that came together wake the engine together, once
        if not pool.outgoing:
            asyncio.get_running_loop().call_soon(pool.flush)
        head = pool.heads.get(self._address, _HEAD)
        # Made as late as can be: many wait for their answers, and what they keep in memory is in no cache.
        data = head % (call.method.encode(), call.path.encode(), len(call.body)) + call.body
        pool.outgoing.append((self._transport, data))

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            self.close()  # an engine that speaks unasked
            return
        if self._seen:
            self._parse(data)
            return
        self._seen = True
        known = self._pool.answered.get(self._address)
        if known is None or not (start := known.body(data)):
            self._parse(data)
            if self._call is None and self.usable and self._status == 200:  # noqa: PLR2004
                self._remember(data)
            return
        sink = self._ended(keep=True)
        if sink is not None:
            sink.engine_whole(known.type, data[start:])

    def _parse(self, data: bytes) -> None:
        self._beside += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broke(f"The engine's answer is malformed HTTP ({error}).")
        except httptools.HttpParserUpgrade:
            self._broke("The engine wants to speak another protocol.")
        else:
            if self._parts:
                self._hand_on()
            if self._beside > _MAX_BESIDE:
                self._broke("The engine's answer has too large headers.")

    def _remember(self, answer: bytes) -> None:
        """It came as a whole: the next may begin in the same way."""
        known, now = self._pool.answered.get(self._address), time.monotonic()
        if known is None or now - known.since > _ANEW_SECONDS:
            self._pool.answered[self._address] = Answered(answer, self._type, now)

    def _broke(self, words: str) -> None:
        if self._parts:
            self._hand_on()
        call, self._call = self._call, None
        self.close()
        if call is not None:
            call.failed(EngineRequestFailed(words, status=502))

    def on_message_begin(self) -> None:
        if self._call is None:
            self.close()  # two answers to one request: the next request must not get what is left of the second

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == _TYPE_LENGTH and name.lower() == b"content-type":
            self._type = value.lower()

    def on_headers_complete(self) -> None:
        call = self._call
        status = self._status = self._parser.get_status_code()
        if status >= 200 and call is not None and call.sink is not None:  # noqa: PLR2004  interim answers say nothing
            call.sink.engine_head(status, self._type)

    def _hand_on(self) -> None:
        """What one read brought of a body: an engine that was quicker than we are has said several things."""
        parts, call = self._parts, self._call
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._beside = 0
        if call is not None and call.sink is not None:
            call.sink.engine_data(data)

    def on_message_complete(self) -> None:
        if self._status < 200:  # noqa: PLR2004
            return
        if self._parts:
            self._hand_on()
        sink = self._ended(keep=self._parser.should_keep_alive())
        if sink is not None:
            sink.engine_done()

    def _ended(self, *, keep: bool) -> EngineSink | None:
        """The answer is over; who is to hear of it. `keep`: another may come on this connection."""
        call, self._call = self._call, None
        if keep and self.usable:
            if self._paused:
                self.resume()
            self._pool.release(self._address, self)
        else:
            self.close()
        if call is None:
            return None
        call.connection = None
        sink, call.sink = call.sink, None
        return sink

    def connection_lost(self, _error: Exception | None) -> None:
        self.usable = False
        self._parser = None
        call, self._call = self._call, None
        if call is None or call.sink is None:
            return
        call.connection = None
        if self._reused and not self._seen:
            self._pool.reconnect(call)
        else:
            call.failed(EngineDead("The engine closed the connection before its answer was complete."))

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()


class _Collect(EngineSink):
    """A sink that gathers a whole answer for whoever awaits `result`."""

    __slots__ = ("_parts", "_status", "result")

    def __init__(self) -> None:
        self.result: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status, self._parts = 0, list[bytes]()

    def engine_head(self, status: int, _content_type: bytes) -> None:
        self._status = status

    def engine_data(self, data: bytes) -> None:
        self._parts.append(data)

    def engine_done(self) -> None:
        if not self.result.done():
            self.result.set_result((self._status, b"".join(self._parts)))

    def engine_failed(self, error: DaulatError) -> None:
        if not self.result.done():
            self.result.set_exception(error if isinstance(error, EngineError) else EngineDead(str(error)))

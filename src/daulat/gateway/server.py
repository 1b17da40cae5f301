"""What the connections of one worker share: their limits, the time of day, and when their bytes go out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from daulat.core.snapshot import Limits
from daulat.errors import DaulatError
from daulat.gateway.exchange import Exchange

_SMALL_BODY: Final = 65_536  # anybody may send one


class Swept(Protocol):
    """A client's connection (`gateway.http.Connection`), as far as the server looks after it."""

    def sweep(self, now: float) -> None:
        """End a wait that is over; `now` is monotonic seconds."""
        ...

    def close_if_idle(self) -> None:
        """Close, now or behind the answer under way."""
        ...


class Server:
    """What the connections of one worker share."""

    def __init__(
        self,
        handle: Callable[[Exchange], None],
        limits: Callable[[], Limits],
        refuse: Callable[[Exchange, DaulatError], None],
        allow: Callable[[bytes, Mapping[bytes, bytes]], bool],
    ) -> None:
        """`handle` gets every whole request, and every `Incoming` one; `refuse` answers what never became one, with its
        method and headers only where its head was good; `allow` raises where the sender of this target and these
        headers may not send a large body, and says whether it is taken as it comes."""
        self.handle, self.refuse, self.allow = handle, refuse, allow
        self.connections: set[Swept] = set()
        self.draining = False
        self.date = self.ok = b""
        self._unwritten: list[Exchange] = []  # that have bytes to write
        self._limits = limits
        self.tick()

    def tick(self) -> None:
        """About once a second: the limits in force, the `Date` header's text, and the usual first lines."""
        self.limits = self._limits()
        self.small = min(_SMALL_BODY, self.limits.body_bytes)
        self.date = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime()).encode()
        self.ok = b"HTTP/1.1 200 OK\r\n" + self.date

    def soon(self, exchange: Exchange) -> None:
        """Have it flushed at the end of this turn of the loop: what it has got by then is one write."""
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unwritten.append(exchange)

    def _flush(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        for exchange in unwritten:
            exchange.flush()

    def sweep(self, now: float) -> None:
        """End waits that are over; `now` is monotonic seconds."""
        for connection in list(self.connections):
            connection.sweep(now)

    def drain(self) -> None:
        """Close idle connections, and the others when they have answered."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()

"""Clients that remember every byte they saw: what the log must account for, whatever happened to the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import dataclass, field
from typing import Any, Self

_AGAIN = 0.02  # between attempts to connect
_BACK_OFF = 0.1  # after a refusal


@dataclass(slots=True)
class Exchange:
    """One request, and what came back of its answer: all of it where `whole`."""

    request: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)  # after transfer decoding
    whole: bool = False
    left: bool = False  # the client itself hung up

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def promise(self) -> str:
        return self.headers.get("daulat-promise", "")


class Load:
    """So many clients, each asking again and again, until told to stop. Everything is kept in `exchanges`."""

    def __init__(self, port: int, api_key: str, seed: int, *, clients: int = 12, leaves: float = 0.05) -> None:
        """`leaves`: the share of answers at whose beginning the client hangs up."""
        self.exchanges: list[Exchange] = []
        self._port, self._key, self._clients, self._leaves = port, api_key, clients, leaves
        self._random = random.Random(seed)  # noqa: S311  choices that can be made again
        self._tasks: list[asyncio.Task[None]] = []
        self._go = asyncio.Event()
        self._busy = 0
        self._quiet = asyncio.Condition()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_reason: object) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def start(self) -> None:
        self._go.set()
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._clients)]

    async def pause(self) -> None:
        """Ask nothing more, and wait until every answer under way has ended, one way or the other."""
        self._go.clear()
        async with self._quiet:
            await self._quiet.wait_for(lambda: self._busy == 0)

    def resume(self) -> None:
        self._go.set()

    async def one(self, *, stream: bool = False) -> Exchange:
        """Ask once, on a connection of its own. Raises OSError where nobody listens."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        exchange = Exchange(_question(0, 0, stream=stream))
        try:
            await self._exchange(exchange, reader, writer, leaves=False)
        finally:
            writer.close()
        return exchange

    async def _client(self, number: int) -> None:
        count = 0
        while True:
            await self._go.wait()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(_AGAIN)
                continue
            try:
                keeps = True
                while keeps and self._go.is_set():
                    count += 1
                    exchange = Exchange(_question(number, count, stream=self._random.random() < 0.7))
                    self.exchanges.append(exchange)
                    leaves = self._random.random() < self._leaves
                    keeps = await self._counted(exchange, reader, writer, leaves=leaves)
            finally:
                writer.close()

    async def _counted(
        self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, leaves: bool
    ) -> bool:
        self._busy += 1
        try:
            keeps = await self._exchange(exchange, reader, writer, leaves=leaves)
        finally:
            self._busy -= 1
            async with self._quiet:
                self._quiet.notify_all()
        if exchange.status != 200:
            await asyncio.sleep(_BACK_OFF)
        return keeps

    async def _exchange(
        self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, leaves: bool
    ) -> bool:
        """Ask and read; whether the connection can be used again."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
                b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
                % (self._key.encode(), len(exchange.request), exchange.request)
            )
            await writer.drain()
            exchange.status, exchange.headers = await _head(reader)
            if leaves:
                exchange.left = True
                return False
            await _body(exchange, reader)
            exchange.whole = True
            return exchange.headers.get("connection") != "close"
        return False


def _question(client: int, count: int, *, stream: bool) -> bytes:
    asked: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": f"{client}:{count}"}]}
    return json.dumps(asked | ({"stream": True} if stream else {})).encode()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _body(exchange: Exchange, reader: asyncio.StreamReader) -> None:
    if "content-length" in exchange.headers:
        await _take(exchange, reader, int(exchange.headers["content-length"]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await _take(exchange, reader, size)
        await reader.readexactly(2)
    await reader.readexactly(2)


async def _take(exchange: Exchange, reader: asyncio.StreamReader, left: int) -> None:
    """Piece by piece: what came of something that never ended was seen, too."""
    while left:
        part = await reader.read(left)
        if not part:
            raise asyncio.IncompleteReadError(b"", left)
        exchange.body += part
        left -= len(part)

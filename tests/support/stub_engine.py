"""An engine that computes nothing, in the test's own loop: OpenAI's wire, and counters like those of a real engine.

`counters` is what a supervisor would read from it: every request counts, whoever sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any, Self

PROMPT_TOKENS = 40
_CHUNK = (
    'data: {"id":"chatcmpl-stub","object":"chat.completion.chunk","created":1,"model":"stub",'
    '"choices":[{"index":0,"delta":{"content":" token%d"},"finish_reason":null}]}\n\n'
)


class StubEngine:
    """Listens on a Unix socket. A stream has `events` events, `pause` seconds apart; a whole answer takes as long."""

    def __init__(self, path: Path, *, events: int = 8, pause: float = 0.01) -> None:
        self.path, self.events, self.pause = path, events, pause
        self.counters = {"prompt_tokens": 0, "cached_prompt_tokens": 0, "completion_tokens": 0}
        self.busy = self.most = 0  # answers under way, and the most there ever were
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[Any]] = set()

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connected, self.path)
        return self

    async def __aexit__(self, *_reason: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                await self._answer(head, body, writer)
        writer.close()

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET /counters "):
            _whole(writer, json.dumps(self.counters).encode())
            return
        asked = json.loads(body)
        self.counters["prompt_tokens"] += PROMPT_TOKENS
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            if asked.get("stream"):
                await self._stream(writer)
            else:
                await self._json(writer)
            await writer.drain()
        finally:
            self.busy -= 1

    async def _json(self, writer: asyncio.StreamWriter) -> None:
        self.counters["completion_tokens"] += self.events
        await asyncio.sleep(self.pause * self.events)
        message = {"role": "assistant", "content": "token " * self.events}
        answer = {
            "id": "chatcmpl-stub",
            "object": "chat.completion",
            "created": 1,
            "model": "stub",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": self._usage(),
        }
        _whole(writer, json.dumps(answer).encode())

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(self.events):
            self.counters["completion_tokens"] += 1
            _chunk(writer, (_CHUNK % number).encode())
            await writer.drain()
            await asyncio.sleep(self.pause)
        usage = {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}
        _chunk(writer, f"data: {json.dumps(usage)}\n\n".encode())
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": self.events,
            "total_tokens": PROMPT_TOKENS + self.events,
        }


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _whole(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))

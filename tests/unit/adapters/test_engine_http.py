"""The supervisor's own question to an engine: whatever comes back, it is an answer or an error of ours, in time."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from daulat.adapters import engine_http
from daulat.errors import EngineDead, EngineError, EngineTimeout


def ask(path: Path, answer: bytes | None, *, seconds: float = 5.0, body: bytes = b"") -> tuple[int, bytes, bytes]:
    """Status, body, and what the engine was sent. `answer` None: it never answers."""
    sent = b""

    async def go() -> tuple[int, bytes]:
        over = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            sent = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(body))
            if answer is None:
                await reader.read()  # until the other side has had enough
            else:
                writer.write(answer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            over.set()

        async with await asyncio.start_unix_server(serve, path):
            try:
                return await engine_http.fetch(path, "POST" if body else "GET", "/metrics", body, seconds=seconds)
            finally:
                await over.wait()

    status, found = asyncio.run(go())
    return status, found, sent


def test_an_answer_with_a_length_and_one_that_ends_with_its_connection(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    status, body, sent = ask(path, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert (status, body) == (200, b"hi")
    assert sent == b"GET /metrics HTTP/1.0\r\nHost: engine\r\nContent-Length: 0\r\n\r\n"
    path.unlink(missing_ok=True)
    assert ask(path, b"HTTP/1.1 503 Loading\r\n\r\n{}", body=b"x")[:2] == (503, b"{}")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", EngineDead),
        (b"HTTP/1.1 200 OK\r\n", EngineDead),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", EngineDead),
        (b"HTTP/1.1 twohundred OK\r\n\r\n", EngineError),
        (b"nonsense\r\n\r\n", EngineError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", EngineError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", EngineError),
        (b"x" * 3_000_000, EngineError),
    ],
)
def test_what_is_no_whole_answer_is_an_error_of_ours(tmp_path: Path, answer: bytes, kind: type[EngineError]) -> None:
    with pytest.raises(kind):
        ask(tmp_path / "e.sock", answer)


def test_an_engine_that_takes_the_connection_and_says_nothing_times_out(tmp_path: Path) -> None:
    with pytest.raises(EngineTimeout, match=r"/metrics in 0\.05 s"):
        ask(tmp_path / "e.sock", None, seconds=0.05)


def test_nobody_listening_is_a_dead_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineDead):
        asyncio.run(engine_http.fetch(tmp_path / "none.sock", "GET", "/health", seconds=1))

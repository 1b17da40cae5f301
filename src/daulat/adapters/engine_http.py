"""One request to an engine on its Unix socket, for the supervisor: health, metrics. The hot path has its own client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from daulat.errors import EngineDead, EngineError, EngineTimeout

_LONGEST_ANSWER: Final = 1_048_576
_STATUS_LINE: Final = 3  # version, code, reason


async def fetch(path: Path, method: str, target: str, body: bytes = b"", *, seconds: float) -> tuple[int, bytes]:
    """Ask once, on a connection of its own.

    Raises:
        EngineTimeout: no whole answer within `seconds`.
        EngineDead: nobody listens, or the connection broke.
        EngineError: what came is no HTTP answer.
    """
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LONGEST_ANSWER)
            try:
                head = f"{method} {target} HTTP/1.0\r\nHost: engine\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
                return await _answer(reader)
            finally:
                writer.close()
    except TimeoutError:
        raise EngineTimeout(f"the engine did not answer {target} in {seconds:g} s") from None
    except (OSError, asyncio.IncompleteReadError) as error:
        raise EngineDead(f"the engine's socket: {error}") from None
    except (ValueError, IndexError, asyncio.LimitOverrunError) as error:
        raise EngineError(f"the engine answered {target} with what is not HTTP: {error}") from None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = head[0].split(" ", _STATUS_LINE - 1)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    length = headers.get("content-length")
    body = await reader.readexactly(min(int(length), _LONGEST_ANSWER)) if length else await reader.read(_LONGEST_ANSWER)
    return int(status[1]), body

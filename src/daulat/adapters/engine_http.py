"""One request to an engine, for the supervisor: health, metrics. The hot path has its own client."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from daulat.engines import address as addresses
from daulat.engines.address import Address
from daulat.errors import EngineDead, EngineError, EngineTimeout

_LONGEST_ANSWER: Final = 4 * 1024 * 1024
_JSON: Final = "Content-Type: application/json\r\n"
_STATUS_LINE: Final = 3  # version, code, reason


async def fetch(
    address: str | Path, method: str, target: str, body: bytes = b"", *, seconds: float, key: str = ""
) -> tuple[int, bytes]:
    """Ask once, on a connection of its own. `address`: a Unix socket's path, or as in `engines.address`. `key`: the
    API key that the server wants.

    Raises:
        EngineTimeout: no whole answer within `seconds`.
        EngineDead: nobody listens, the connection broke, or another than the pinned certificate was shown.
        EngineError: what came is no HTTP answer.
    """
    try:
        async with asyncio.timeout(seconds):
            parsed = addresses.parse(address) if isinstance(address, str) else Address(os.fspath(address))
            reader, writer = await _connect(parsed)
            try:
                kind = _JSON if body else ""
                who = f"Authorization: Bearer {key}\r\n" if key else ""
                head = f"{method} {target} HTTP/1.0\r\nHost: {parsed.authority}\r\n{who}{kind}"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
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


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path:
        return await asyncio.open_unix_connection(address.path, limit=_LONGEST_ANSWER)
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=address.context(), limit=_LONGEST_ANSWER
    )
    if address.tls and not address.check(writer.get_extra_info("ssl_object").getpeercert(binary_form=True)):
        writer.transport.abort()
        raise EngineDead("the engine shows another certificate than the pinned one")
    return reader, writer


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = head[0].split(" ", _STATUS_LINE - 1)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    length = headers.get("content-length")
    body = await reader.readexactly(min(int(length), _LONGEST_ANSWER)) if length else await reader.read(_LONGEST_ANSWER)
    return int(status[1]), body

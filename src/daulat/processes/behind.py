"""HTTP over a Unix socket, for the processes behind the workers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import uvicorn
from starlette.applications import Starlette


async def serve(application: Starlette, socket: Path) -> tuple[uvicorn.Server, asyncio.Task[None]]:
    """Listen, for this user alone. Set `should_exit` on the server and wait for the task to end it."""
    socket.unlink(missing_ok=True)
    previous = os.umask(0o177)
    config = uvicorn.Config(
        application,
        uds=str(socket),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    # Not `serve`: that one takes the signals, which the edge has.
    serving = asyncio.create_task(server._serve())  # noqa: SLF001
    while not server.started and not serving.done():  # noqa: ASYNC110  a few times, at the start
        await asyncio.sleep(0.01)
    os.umask(previous)
    socket.chmod(0o600)
    return server, serving

"""An ASGI application at a Unix socket that only this user can open."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import uvicorn

from daulat.processes import edge


async def serve(application: Any, path: Path, stop: asyncio.Event) -> None:
    """Listen, say that we are ready, and answer until `stop` is set."""
    path.unlink(missing_ok=True)
    previous = os.umask(0o177)
    config = uvicorn.Config(
        application,
        uds=str(path),
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
    path.chmod(0o600)
    edge.ready()
    await stop.wait()
    server.should_exit = True
    await serving

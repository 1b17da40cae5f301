"""The first program inside a sandbox for engines that are not Daulat's own: `python -I -S inside.py '<json>'`.

It takes the sandbox's uid, which ends every capability, and becomes the engine. A second process stays beside it. That
one ends the engine, and with it the sandbox, when standard input ends: whoever started all this is gone then, which
bubblewrap's own `--die-with-parent` does not see while it sets up. And for an engine that listens on TCP alone it opens
Unix sockets in the writable folder and relays them to ports on the private loopback. Files that the engine reads its
settings from are written first, as that uid. Nothing of Daulat is visible here, so this file imports the standard
library alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping

_PIECE = 65_536


def drop(uid: int | None) -> None:
    """Become the sandbox's own uid for good: leaving uid 0 clears every capability (capabilities(7))."""
    os.umask(0o077)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def write(files: Mapping[str, str]) -> None:
    """New files by path, for their owner's eyes.

    Raises:
        FileExistsError: one is there already.
    """
    for path, text in files.items():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)


async def attend(ports: Mapping[str, int]) -> None:
    """Relay until standard input ends."""
    relaying = asyncio.create_task(relay(ports))
    await asyncio.get_running_loop().run_in_executor(None, os.read, 0, 1)
    relaying.cancel()


async def relay(ports: Mapping[str, int]) -> None:
    """Serve each Unix socket for ever by connecting it to its port."""
    servers = [await asyncio.start_unix_server(_to(port), path) for path, port in ports.items()]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _to(port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()  # the engine does not listen yet
            return
        await asyncio.gather(_copy(reader, forth), _copy(back, writer), return_exceptions=True)

    return serve


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; then both do."""
    try:
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def main() -> None:
    order = json.loads(sys.argv[1])
    drop(order["uid"])
    write(order["files"])
    engine = os.getpid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is under way ends with the engine
        asyncio.run(attend(order["relays"]))
        if os.getppid() == engine:
            os.kill(engine, signal.SIGKILL)
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execv(order["argv"][0], order["argv"])  # noqa: S606  no shell, and the sandbox's own environment


if __name__ == "__main__":
    main()

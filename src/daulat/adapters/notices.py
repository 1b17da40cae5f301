"""Telling people at once: a file, a web hook, a command; each gets one JSON object, each way fails for itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

_SECONDS: Final = 10.0  # for one way of telling: whoever broke the glass waits for it
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notices:
    """`file` gets a line and is always there; `url` (POST) and `command` (standard input) where they are not empty.

    The command is split into words as a shell would and started without one.
    """

    file: Path
    url: str = ""
    command: str = ""

    async def __call__(self, notice: Mapping[str, Any]) -> list[str]:
        """Tell everybody of it; which of the ways failed."""
        line = json.dumps(notice, ensure_ascii=False).encode() + b"\n"
        ways: dict[str, Callable[[bytes], Awaitable[None]]] = {"file": self._append}
        if self.url:
            ways["url"] = self._post
        if self.command:
            ways["command"] = self._run
        done = await asyncio.gather(*(self._tried(name, way, line) for name, way in ways.items()))
        return [name for name, well in zip(ways, done, strict=True) if not well]

    async def _tried(self, name: str, way: Callable[[bytes], Awaitable[None]], line: bytes) -> bool:
        try:
            async with asyncio.timeout(_SECONDS):
                await way(line)
        except (OSError, ValueError, httpx.HTTPError) as error:
            _log.error("a notice could not be given (%s): %s", name, str(error) or type(error).__name__)
            return False
        return True

    async def _append(self, line: bytes) -> None:
        await asyncio.to_thread(_appended, self.file, line)

    async def _post(self, line: bytes) -> None:
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
            headers = {"content-type": "application/json"}
            (await client.post(self.url, content=line, headers=headers)).raise_for_status()

    async def _run(self, line: bytes) -> None:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(self.command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await process.communicate(line)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise OSError(f"the command ended with {process.returncode}")


def _appended(path: Path, line: bytes) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as stream:
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())

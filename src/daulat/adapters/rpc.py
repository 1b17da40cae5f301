"""Calls between the processes of one host: JSON lines over a Unix socket in a folder that only this user can enter.

A request is `{"method", "params"}`, an answer `{"result"}` or `{"error": {"code", "message"}}`; one at a time per
connection, in order. Whoever may open the socket may call: the folder's mode is the access control.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from daulat import errors

Handler = Callable[..., Awaitable[Any]]
MAX_LINE: Final = 32 * 1024 * 1024
_BY_CODE: Final[Mapping[str, type[errors.DaulatError]]] = {
    kind.code: kind
    for kind in (
        errors.InvalidRequest,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.NotFound,
        errors.Conflict,
        errors.Unavailable,
        errors.EngineError,
        errors.EngineDead,
        errors.EngineTimeout,
        errors.IntegrityError,
        errors.VerificationFailed,
        errors.SealBroken,
        errors.ConfigError,
    )
}


async def serve(path: Path, handlers: Mapping[str, Handler]) -> asyncio.Server:
    """Listen at `path` (replacing a dead socket) and answer with `handlers` until the server is closed."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(handlers, line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # gone, or a line beyond MAX_LINE: nobody is left to be answered
        except asyncio.CancelledError:
            pass  # the process ends. Before Python 3.12, `asyncio.streams` takes a cancelled task for a failure
        finally:
            writer.close()

    previous = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(connected, path, limit=MAX_LINE)
    finally:
        os.umask(previous)


async def _answer(handlers: Mapping[str, Handler], line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        handler = handlers.get(request["method"])
        if handler is None:
            raise errors.NotFound(f"no method {request['method']!r}")
        return {"result": await handler(**request["params"])}
    except errors.DaulatError as error:
        said = {"code": error.code, "kind": type(error).code, "message": error.message}
        return {"error": {**said, "param": getattr(error, "param", None)}}
    except OSError as error:
        return {"error": {"code": errors.Unavailable.code, "message": f"{error.strerror or error}"}}
    except (ValueError, KeyError, TypeError) as error:
        return {"error": {"code": "invalid_request", "message": f"{type(error).__name__}: {error}"}}


class Client:
    """One connection, opened when first needed and again after it broke. Safe for concurrent tasks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, **params: Any) -> Any:
        """Call and wait.

        Raises:
            Unavailable: nobody listens, or the connection broke before an answer; the call may have taken effect.
            DaulatError: whatever the other side raised.
        """
        async with self._lock:
            try:
                if self._streams is None:
                    self._streams = await asyncio.open_unix_connection(self._path, limit=MAX_LINE)
                reader, writer = self._streams
                writer.write(_request(method, params))
                await writer.drain()
                line = await reader.readline()
            except OSError as error:
                self._drop()
                raise errors.Unavailable(f"{self._path.name}: {error.strerror or error}") from None
            except BaseException:
                self._drop()  # cancelled in the middle of a call: the next answer would not be ours
                raise
            if not line:
                self._drop()
                raise errors.Unavailable(f"{self._path.name}: closed before it answered {method}")
        return _result(line)

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def close(self) -> None:
        self._drop()


async def once(path: Path, method: str, **params: Any) -> Any:
    """`Client.call` on a connection of its own: none is found broken because the other side has started anew.

    Raises:
        Unavailable, DaulatError: as `Client.call`.
    """
    client = Client(path)
    try:
        return await client.call(method, **params)
    finally:
        await client.close()


def call(path: Path, method: str, *, timeout: float = 30.0, **params: Any) -> Any:
    """The same from synchronous code, one connection a call."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(os.fspath(path))
            connection.sendall(_request(method, params))
            with connection.makefile("rb") as stream:
                line = stream.readline(MAX_LINE)
    except OSError as error:
        raise errors.Unavailable(f"{path.name}: {error.strerror or error}") from None
    if not line:
        raise errors.Unavailable(f"{path.name}: closed before it answered {method}")
    return _result(line)


def _request(method: str, params: Mapping[str, Any]) -> bytes:
    return json.dumps({"method": method, "params": params}).encode() + b"\n"


def _result(line: bytes) -> Any:
    answer = json.loads(line)
    if "error" in answer:
        said = answer["error"]
        error = _BY_CODE.get(said.get("kind", said["code"]), errors.DaulatError)(said["message"])
        error.code = said["code"]
        if isinstance(error, errors.InvalidRequest):
            error.param = said.get("param")
        raise error
    return answer["result"]

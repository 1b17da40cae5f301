from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from daulat.adapters import rpc
from daulat.errors import Conflict, DaulatError, InvalidRequest, NotFound, Unavailable


async def add(a: int, b: int) -> int:
    return a + b


async def conflict() -> None:
    raise Conflict("changed since you looked")


async def with_server(path: Path, use: Any) -> Any:
    async with await rpc.serve(path, {"add": add, "conflict": conflict}):
        return await use()


def test_calls_answer_and_errors_keep_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"

    async def use() -> None:
        client = rpc.Client(path)
        assert await client.call("add", a=1, b=2) == 3
        with pytest.raises(Conflict, match="changed since"):
            await client.call("conflict")
        with pytest.raises(NotFound, match="no method 'nothing'"):
            await client.call("nothing")
        with pytest.raises(InvalidRequest):
            await client.call("add", a=1)
        assert await asyncio.gather(*(client.call("add", a=n, b=n) for n in range(50))) == [2 * n for n in range(50)]
        assert await asyncio.to_thread(rpc.call, path, "add", a=2, b=2) == 4
        await client.close()

    asyncio.run(with_server(path, use))
    assert issubclass(Conflict, DaulatError)


@pytest.mark.parametrize("kind", rpc._BY_CODE.values())
def test_every_kind_of_error_crosses(tmp_path: Path, kind: type[DaulatError]) -> None:
    async def fail() -> None:
        raise kind("so it is")

    async def use() -> None:
        async with await rpc.serve(tmp_path / "s.sock", {"fail": fail}):
            client = rpc.Client(tmp_path / "s.sock")
            with pytest.raises(kind, match="so it is") as caught:
                await client.call("fail")
            assert (type(caught.value), caught.value.code) == (kind, kind.code)
            await client.close()

    asyncio.run(use())


def test_a_disk_that_fails_is_unavailable_and_the_connection_stays(tmp_path: Path) -> None:
    async def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def use() -> None:
        async with await rpc.serve(tmp_path / "s.sock", {"fail": fail, "add": add}):
            client = rpc.Client(tmp_path / "s.sock")
            with pytest.raises(Unavailable, match="No space left on device"):
                await client.call("fail")
            assert await client.call("add", a=1, b=2) == 3
            await client.close()

    asyncio.run(use())


def test_the_socket_is_private(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"

    async def use() -> int:
        return path.stat().st_mode & 0o777

    assert asyncio.run(with_server(path, use)) == 0o600


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        rpc.call(tmp_path / "none.sock", "add")
    with pytest.raises(Unavailable):
        asyncio.run(rpc.Client(tmp_path / "none.sock").call("add"))


def test_a_client_reconnects_after_the_server_went(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"

    async def run() -> None:
        client = rpc.Client(path)
        server = await rpc.serve(path, {"add": add})
        assert await client.call("add", a=1, b=1) == 2
        server.close()
        client._streams[1].transport.abort()  # type: ignore[index]  # the peer is gone
        with pytest.raises(Unavailable):
            await client.call("add", a=1, b=1)
        async with await rpc.serve(path, {"add": add}):
            assert await client.call("add", a=1, b=1) == 2
            await client.close()

    asyncio.run(run())


def test_a_process_that_ends_with_callers_connected_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(callers: list[socket.socket]) -> None:
        waiting = asyncio.Event()

        async def wait() -> None:
            waiting.set()
            await asyncio.sleep(60)

        server = await rpc.serve(tmp_path / "s.sock", {"wait": wait})
        for caller in callers:
            caller.connect(os.fspath(tmp_path / "s.sock"))
        callers[0].send(b'{"method": "wait", "params": {}}\n')
        await waiting.wait()
        server.close()

    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        asyncio.run(main([one, other]))
    assert caplog.records == []


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b'{"method":[],"params":{}}', b'{"method":"add","params":[1]}'])
def test_malformed_requests_are_answered_with_an_error(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "s.sock"

    async def use() -> Any:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return answer["error"]["code"]

    assert asyncio.run(with_server(path, use)) == "invalid_request"

"""Requests handed on to the pages process: its answers arrive whole, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.wire import Asked, Gateway, PlayedEngine, get, post, request, run
from tests.support.worlds import SECRET

from daulat.gateway import forward


class Pages(PlayedEngine):
    """A pages process, played: requests without a body."""

    def __init__(self, data: bytes, *, hangs: bool = False) -> None:
        super().__init__()
        self.data, self.hangs = data, hangs
        self.heads: list[bytes] = []
        self.left = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.data)
            await writer.drain()
            if self.hangs:
                await reader.read()
                self.left.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def before(data: bytes, *, hangs: bool = False) -> AsyncIterator[tuple[Gateway, Pages]]:
    async with Gateway() as gateway:
        pages = Pages(data, hangs=hangs)
        await pages.start(gateway.folder / "pages")
        try:
            yield gateway, pages
        finally:
            await pages.stop()


TILE = bytes(range(256)) * 3000
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncache-control: immutable\r\nserver: uvicorn\r\n"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"content-length: %d\r\n\r\n" % len(TILE) + TILE,
        HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(TILE), TILE),
    ],
    ids=["length", "chunks"],
)
def test_an_answer_passes_with_its_headers_and_the_connection_is_kept(data: bytes) -> None:
    async def main() -> None:
        async with before(data) as (gateway, pages):
            client = await gateway.client()
            for _ in range(3):
                client.send(get(b"/log/tile/0/000?x=y", b"Accept-Encoding: gzip", b"If-None-Match: a", b"Cookie: b=c"))
                seen = await client.answer()
                assert (seen.status, seen.body) == (200, TILE)
                assert seen.headers["cache-control"] == "immutable"
                assert "server" not in seen.headers
            line, *lines = pages.heads[0].rstrip().split(b"\r\n")
            assert line == b"GET /log/tile/0/000?x=y HTTP/1.1"
            assert sorted(lines) == [
                b"accept-encoding: gzip",
                b"authorization: Bearer " + SECRET.encode(),
                b"connection: close",
                b"daulat-client: 127.0.0.1",
                b"host: pages",
                b"if-none-match: a",
            ], "and nothing else of the client's"
            client.send(get(b"/healthz"))
            assert (await client.answer()).status == 200

    run(main)


def test_a_key_given_as_anthropics_clients_do_passes_as_authorization_and_two_that_differ_do_not() -> None:
    async def main() -> None:
        async with before(HEAD + b"content-length: 2\r\n\r\n{}") as (gateway, pages):
            bearer = b"Authorization: Bearer " + SECRET.encode()
            asked = get(b"/v1/receipts/req_1").replace(bearer, b"x-api-key: " + SECRET.encode())
            assert (await gateway.exchange(asked)).status == 200
            assert bearer.replace(b"A", b"a", 1) in pages.heads[0]
            assert b"x-api-key" not in pages.heads[0]
            seen = await gateway.exchange(get(b"/v1/receipts/req_1", b"x-api-key: sk-other"))
            assert (seen.status, seen.json["error"]["code"]) == (401, "conflicting_api_keys")
            assert len(pages.heads) == 1

    run(main)


def test_head_passes_as_head() -> None:
    async def main() -> None:
        async with before(HEAD + b"content-length: 768000\r\n\r\n") as (gateway, pages):
            client = await gateway.client()
            client.send(get(b"/log/checkpoint", method=b"HEAD"))
            seen = await client.answer(head_only=True)
            assert (seen.status, seen.headers["content-length"]) == (200, "768000")
            assert pages.heads[0].startswith(b"HEAD /log/checkpoint ")
            client.send(get(b"/healthz"))
            assert (await client.answer()).body == b'{"status":"ok"}'

    run(main)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_that_has_no_body_is_not_given_one(status: bytes) -> None:
    """What follows on the connection would be read as the next answer's beginning (RFC 9112 section 6.3)."""

    async def main() -> None:
        async with before(b"HTTP/1.1 " + status + b'\r\netag: "1"\r\n\r\n') as (gateway, _):
            client = await gateway.client()
            client.send(get(b"/log/checkpoint"))
            seen = await client.answer(head_only=True)
            assert (seen.status, seen.headers["etag"]) == (int(status[:3]), '"1"')
            assert not {"transfer-encoding", "content-length"} & set(seen.headers)
            client.send(get(b"/healthz"))
            assert (await client.answer()).body == b'{"status":"ok"}'

    run(main)


def test_http_1_0_gets_an_answer_of_unknown_length_until_the_connection_closes() -> None:
    async def main() -> None:
        data = HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        async with before(data) as (gateway, _pages):
            client = await gateway.client()
            client.send(request(b"/metrics", method=b"GET", version=b"1.0"))
            seen = await client.answer()
            assert (seen.body, seen.headers["connection"]) == (b"abc", "close")

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n",
    ],
)
def test_an_answer_that_is_none_is_a_503(data: bytes) -> None:
    async def main() -> None:
        async with before(data) as (gateway, _pages):
            seen = await gateway.exchange(get(b"/metrics"))
            assert (seen.status, seen.json["error"]["type"]) == (503, "service_unavailable_error")

    run(main)


@pytest.mark.parametrize(
    "framing", [b"content-length: 10\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
def test_half_an_answer_does_not_look_like_a_whole_one(framing: bytes) -> None:
    async def main() -> None:
        async with before(HEAD + framing) as (gateway, _pages):
            client = await gateway.client()
            client.send(get(b"/log/checkpoint"))
            with pytest.raises(asyncio.IncompleteReadError):
                await client.answer()

    run(main)


def test_pages_that_never_begin_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_BEGIN_SECONDS", 0.05)

    async def main() -> None:
        async with before(b"", hangs=True) as (gateway, pages):
            assert (await gateway.exchange(get(b"/metrics"))).status == 503
            await asyncio.wait_for(pages.left.wait(), 20)

    run(main)


@pytest.mark.parametrize("data", [b"", HEAD + b"content-length: 100\r\n\r\nabc"])
def test_a_client_that_leaves_is_not_worked_for(data: bytes) -> None:
    async def main() -> None:
        async with before(data, hangs=True) as (gateway, pages):
            client = await gateway.client()
            client.send(get(b"/log/checkpoint"))
            await gateway.until(lambda: pages.heads)
            client.abort()
            await asyncio.wait_for(pages.left.wait(), 20)

    run(main)


def test_a_slow_client_slows_the_pages() -> None:
    async def main() -> None:
        body = bytes(20_000_000)
        async with before(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body) as (gateway, _pages):
            client = await gateway.client()
            client.writer.transport.pause_reading()
            client.send(get(b"/log/tile/0/000"))
            await gateway.until(lambda: [item for item in gateway.server.connections if item._stalled])
            await asyncio.sleep(0.05)
            kept = sum(item._transport.get_write_buffer_size() for item in gateway.server.connections)
            assert kept < 3_000_000
            client.writer.transport.resume_reading()
            assert (await client.answer()).body == body

    run(main)


def test_only_reading_is_handed_on() -> None:
    async def main() -> None:
        async with before(HEAD) as (gateway, pages):
            for method in (b"POST", b"PUT", b"DELETE", b"PATCH"):
                seen = await gateway.exchange(request(b"/log/checkpoint", method=method))
                assert seen.status == 405
            assert (await gateway.exchange(request(b"/log/checkpoint", method=b"OPTIONS"))).status == 200
            assert not pages.heads
            gateway.engine.answer = _never
            assert (await gateway.exchange(post(b"{}", target=b"/metrics"))).status == 405

    run(main)


async def _never(_asked: Asked, _writer: asyncio.StreamWriter) -> None:
    raise AssertionError("no engine is asked")

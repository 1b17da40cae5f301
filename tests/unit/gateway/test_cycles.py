"""What is over is gone at once: a cycle would stay, with keys and bodies in it, until the collector comes by."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from tests.support.wire import CHAT, STREAMED, Asked, Gateway, get, play, post, request, run
from tests.unit.gateway.test_forward import HEAD, before

from daulat.gateway import engines, forward, http
from daulat.gateway.exchange import Exchange
from daulat.pipeline.inference import Inference

KINDS = (http.Connection, Exchange, Inference, engines._Connection, engines._Call, forward._Pages)


def alive() -> list[str]:
    """What is still in memory of ours, whether anything reaches it or not."""
    return [type(item).__name__ for item in gc.get_objects() if issubclass(type(item), KINDS)]


def forget(gateway: Gateway) -> None:
    """What only the test holds."""
    gateway.accepted.clear()
    gateway.handled.clear()


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_nothing_is_left_of_a_clients_connection_nor_of_an_engines() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for _ in range(3):
                client = await gateway.client()
                for body in (CHAT, CHAT, STREAMED):  # the second head is the first one again
                    client.send(post(body))
                    assert (await client.answer()).status == 200
                client.close()
            assert alive()
            gateway.pool.close()
            forget(gateway)
            await gateway.until(lambda: not alive())

    run(main)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (post().replace(b"HTTP/1.1", b"HTTP/1.7"), 400),
        (request(b"/v1/chat/completions", b"Transfer-Encoding: chunked", body=b"zz\r\n"), 400),
        (post(CHAT, b"Content-Type: text/plain"), 400),  # one too many
        (post(secret="sk-nobody"), 401),
        (post(b"{"), 400),
        (post(b'{"model":"another","messages":[]}'), 404),
        (post(CHAT, b"Content-Encoding: gzip"), 415),
        (get(b"/v1/nothing"), 404),
        (get(b"/v1/embeddings"), 405),
        (get(b"/v1/receipts/req_1"), 503),  # where nobody answers
    ],
)
def test_nothing_is_left_of_what_was_refused(data: bytes, status: int) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            assert (await gateway.exchange(data)).status == status
            forget(gateway)
            await gateway.until(lambda: not alive())

    run(main)


@pytest.mark.parametrize("body", [CHAT, STREAMED])
def test_nothing_is_left_of_who_has_left(body: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            held = asyncio.Event()

            async def wait(asked: Asked, writer: asyncio.StreamWriter) -> None:
                await held.wait()
                await play(asked, writer)

            gateway.engine.answer = wait
            client = await gateway.client()
            client.send(post(body))
            await gateway.until(lambda: gateway.engine.asked)
            client.abort()
            await gateway.until(lambda: not gateway.service.active)
            held.set()
            forget(gateway)
            await gateway.until(lambda: not alive())

    run(main)


def test_nothing_is_left_where_an_engine_fails() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            await gateway.engine.stop()
            assert (await gateway.exchange(post())).status >= 500
            forget(gateway)
            await gateway.until(lambda: not alive())

    run(main)


def test_nothing_is_left_of_what_was_handed_on() -> None:
    async def main() -> None:
        async with before(HEAD + b"content-length: 2\r\n\r\n{}") as (gateway, _pages):
            assert (await gateway.exchange(get(b"/v1/receipts/req_1"))).status == 200
            forget(gateway)
            await gateway.until(lambda: not alive())

    run(main)

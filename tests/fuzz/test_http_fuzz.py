"""Malformed, smuggled, truncated, huge and oddly cut: towards clients and towards engines. All of it is seeded.

What must hold for every mutant: no 500, no exception that nobody caught, answers that are HTTP, one to each request
that was taken on and at most one refusal, last; and when all are gone, nothing is left (`Gateway` counts).
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.mutants import mutant, pieces
from tests.support.wire import (
    CHAT,
    STREAMED,
    Asked,
    Gateway,
    chunked,
    get,
    play,
    post,
    request,
    run,
)

from daulat.core.snapshot import Limits

TARGET = b"/v1/chat/completions"
CODING = b"Transfer-Encoding: chunked"
LIMITS = Limits(header_bytes=8192, body_bytes=65_536)
FORM = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"x" * 700 + b"\r\n--b--\r\n"
REQUESTS = (
    post(),
    post(STREAMED),
    post(CHAT[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'),
    post(CHAT[:-1] + b',"tools":[{"type":"function","function":{"name":"f","parameters":{"model":1}}}]}'),
    post(b'{"model":"small","prompt":"x"}', target=b"/v1/completions"),
    request(TARGET, CODING, body=chunked(CHAT[:20], CHAT[20:], extension=b";a=b", trailers=b"X: y\r\n")),
    request(TARGET, b"Content-Length: %d" % len(CHAT), b"Expect: 100-continue", body=CHAT),
    request(TARGET, b"Connection: keep-alive", b"Content-Length: %d" % len(CHAT), body=CHAT, version=b"1.0"),
    get(b"/v1/models"),
    get(b"/v1/models/small?x=y", method=b"HEAD"),
    get(b"http://test/healthz", b"Connection: close"),
    request(b"*", method=b"OPTIONS"),
    get(b"/healthz") + post() + get(b"/readyz") + post(STREAMED),
    request(TARGET, CODING, body=chunked(CHAT)) + post(),
    request(b"/v1/files", CODING, body=chunked(FORM[:20], FORM[20:], extension=b";a=b")) + post(),
)
STATUSES = frozenset({200, 400, 401, 404, 405, 408, 413, 414, 415, 417, 431, 501, 503, 505})


async def careful(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """An engine that reads a body in two ways and wants both to say the same."""
    first: dict[str, Any] = {}
    for name, value in json.loads(asked.body, object_pairs_hook=list, parse_int=str):
        first.setdefault(name, value)
    last = dict(json.loads(asked.body, object_pairs_hook=list, parse_int=str))
    for name in ("model", "stream", "stream_options", "messages", "prompt", "tools", "tool_choice"):
        assert first.get(name) == last.get(name), asked.body
    assert last["model"] in {"small", "embedder"}
    await play(asked, writer)


def answers(data: bytes, methods: Sequence[bytes]) -> list[int]:
    """The statuses of a connection's answers, read strictly; `methods` are those of the requests that they answer."""
    statuses: list[int] = []
    while data:
        found = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n((?:[a-z0-9-]+: [^\r\n]*\r\n)*)\r\n", data)
        assert found, data[:200]
        data = data[found.end() :]
        status = int(found[1])
        if status == 100:
            continue
        headers = dict(line.split(b": ", 1) for line in found[2].splitlines())
        method = methods[len(statuses)] if len(statuses) < len(methods) else b"GET"
        statuses.append(status)
        if method == b"HEAD":
            continue
        if headers.get(b"transfer-encoding") == b"chunked":
            while (size := int(data[: data.index(b"\r\n")], 16)) > 0:
                start = data.index(b"\r\n") + 2
                assert data[start + size : start + size + 2] == b"\r\n"
                data = data[start + size + 2 :]
            assert data.startswith(b"0\r\n\r\n")
            data = data[5:]
        elif b"content-length" in headers:
            size = int(headers[b"content-length"])
            assert len(data) >= size
            if status != 200:
                assert set(json.loads(data[:size])["error"]) == {"message", "type", "param", "code"}
            data = data[size:]
        else:
            assert headers[b"connection"] == b"close"
            data = b""
    return statuses


class Pen:
    """Sends mutants through one gateway, some at a time, and checks what each got."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._methods: dict[Any, list[bytes]] = {}
        self._refused: dict[Any, bytes] = {}  # the method of what was refused, where its head was whole
        inner, refuse = gateway._handle, gateway.server.refuse

        def handle(exchange: Any) -> None:
            peer = exchange.wire._transport.get_extra_info("peername")
            self._methods.setdefault(peer, []).append(exchange.method)
            inner(exchange)

        def refused(exchange: Any, error: Any) -> None:
            self._refused[exchange.wire._transport.get_extra_info("peername")] = exchange.method
            refuse(exchange, error)

        gateway.server.handle, gateway.server.refuse = handle, refused

    async def one(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311  reproducible, not secret
        data = mutant(rng, REQUESTS)
        client = await self._gateway.client()
        me = client.writer.get_extra_info("sockname")
        try:
            for piece in pieces(rng, data):
                client.send(piece)
                await asyncio.sleep(0)
            if rng.random() < 0.1:
                client.abort()  # leaves without waiting
                return
            await self._gateway.until(lambda: self._still(me, len(data)))
            await asyncio.sleep(0.001)  # what was only put off to the next turn of the loop
            await self._gateway.until(lambda: self._still(me, len(data)))
            client.writer.write_eof()
            got = await client.closed()
        finally:
            client.close()
        methods = self._methods.get(me, [])
        statuses = answers(got, [*methods, self._refused.get(me, b"")])
        assert set(statuses) <= STATUSES, (seed, statuses)
        taken = len(methods)
        assert taken <= len(statuses) <= taken + 1, (seed, statuses, taken)

    def _still(self, me: Any, sent: int) -> bool:
        """Whether the server has read everything and waits, or has hung up."""
        mine = [item for item in self._gateway.accepted if item.peer == me]
        return bool(mine) and (mine[0]._state == "closed" or (mine[0]._exchange is None and mine[0].received == sent))

    async def many(self, seeds: range, at_once: int = 16) -> None:
        for start in range(seeds.start, seeds.stop, at_once):
            await asyncio.gather(*(self.one(seed) for seed in range(start, min(start + at_once, seeds.stop))))
            self._methods.clear()
            self._refused.clear()
            self._gateway.accepted.clear()


async def mutants(first: int, count: int) -> None:
    async with Gateway(limits=LIMITS) as gateway:
        gateway.engine.answer = careful
        pen = Pen(gateway)
        for start in range(first, first + count, 500):
            await pen.many(range(start, min(start + 500, first + count)))
            await gateway.healthy()
            gateway.handled.clear()
        assert gateway.engine.asked, "else the mutants are too wild to show anything"


@pytest.mark.parametrize("first", range(0, 3000, 1000))
def test_mutants_of_good_requests(first: int) -> None:
    run(lambda: mutants(first, 1000))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1_000_000, 1_100_000, 20_000))
def test_a_hundred_thousand_mutants(first: int) -> None:
    run(lambda: mutants(first, 20_000), 850.0)


@pytest.mark.parametrize("number", [1, 5, 6, 12])  # plain, chunked, expecting, pipelined
def test_a_request_may_be_cut_at_every_byte(number: int) -> None:
    data = REQUESTS[number]

    async def one(gateway: Gateway, at: int) -> None:
        client = await gateway.client()
        client.send(data[:at])
        await gateway.until(lambda: gateway.got(client) == at)
        client.send(data[at:])
        for _ in range(4 if number == 12 else 1):
            assert (await client.answer()).status == 200, at
        client.close()

    async def main() -> None:
        async with Gateway() as gateway:
            for start in range(1, len(data), 32):
                await asyncio.gather(*(one(gateway, at) for at in range(start, min(start + 32, len(data)))))
                gateway.accepted.clear()

    run(main)

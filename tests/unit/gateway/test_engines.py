"""What engines may say, and what is made of it: an answer, or an honest error; never a hang, never a silent end."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.request_path import DONE, answered, chunk
from tests.support.wire import CHAT, STREAMED, Asked, Gateway, Seen, post, run, whole

EVENTS = b"content-type: text/event-stream\r\n"
JSON = b"content-type: application/json\r\n"
CHUNKS = b"transfer-encoding: chunked\r\n"
BODY = answered()


def head(*lines: bytes, status: bytes = b"200 OK", version: bytes = b"HTTP/1.1") -> bytes:
    return version + b" " + status + b"\r\n" + b"".join(lines) + b"\r\n"


def length(size: int) -> bytes:
    return b"content-length: %d\r\n" % size


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def say(gateway: Gateway, data: bytes, body: bytes, *, close: bool = True) -> Seen:
    """What a client gets when the engine says these bytes, whatever it is asked, and then hangs up or not."""

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if close:
            writer.close()
        else:
            await asyncio.Event().wait()

    gateway.engine.answer = answer
    return await gateway.exchange(post(body))


BROKEN = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "half a header": b"HTTP/1.1 200 OK\r\ncontent-le",
    "no body": head(JSON, length(10)),
    "half a body": head(JSON, length(len(BODY))) + BODY[:10],
    "half a chunk": head(JSON, CHUNKS) + piece(BODY)[:20],
    "no last chunk": head(JSON, CHUNKS) + piece(BODY),
    "no framing": head(JSON) + BODY,
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "HTTP/0.9": BODY,
    "HTTP/3": head(JSON, length(len(BODY)), version=b"HTTP/3.0") + BODY,
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a status without digits": head(JSON, length(2), status=b"abc OK") + b"{}",
    "a status of four digits": head(JSON, length(2), status=b"2000 OK") + b"{}",
    "two lengths": head(JSON, length(2), length(3)) + b"{}",
    "a negative length": head(JSON, b"content-length: -2\r\n") + b"{}",
    "length and coding": head(JSON, length(2), CHUNKS) + piece(BODY) + b"0\r\n\r\n",
    "a chunk's size in a wrong base": head(JSON, CHUNKS) + b"xyz\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": head(JSON, CHUNKS) + b"1\r\n{}\r\n0\r\n\r\n",
    "NUL in a header": head(JSON, b"x: \0\r\n", length(2)) + b"{}",
    "a bare LF": b"HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\n{}",
    "an upgrade": head(b"connection: upgrade\r\nupgrade: x\r\n", status=b"101 Switching"),
    "a header without end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 80_000,
    "trailers without end": head(JSON, CHUNKS) + b"0\r\nx: " + b"y" * 400_000,
    "no content": head(status=b"204 No Content"),
    "nothing new": head(status=b"304 Not Modified"),
    "elsewhere": head(b"location: http://other/\r\n", length(0), status=b"302 Found"),
    "part of it": head(JSON, length(len(BODY)), status=b"206 Partial Content") + BODY,
    "no object": head(JSON, length(2)) + b"[]",
    "no JSON": head(JSON, length(2)) + b"{]",
    "an empty answer": head(JSON, length(0)),
    "its own failure": head(JSON, length(2), status=b"500 Oops") + b"{}",
    "its own busyness": head(JSON, length(2), status=b"503 Busy") + b"{}",
    "garbage": bytes(range(256)) * 50,
}


@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "streamed"])
@pytest.mark.parametrize("words", BROKEN)
def test_an_answer_that_is_none_is_an_engine_error(words: str, body: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            seen = await say(gateway, BROKEN[words], body)
            assert seen.status == 502, seen
            assert seen.json["error"]["type"] == "engine_error"
            (completion,) = gateway.disk.completions()
            assert (completion["outcome"], completion["status"]) == ("failed", 502)
            await gateway.healthy()

    run(main)


STREAMS = {
    "no event": b"",
    "half an event": b'data: {"choices":',
    "one event": chunk("hello"),
    "an end that is none": chunk("hello") + b"data: [DONE",
    "an end in a comment": chunk("hello") + b": data: [DONE]\n\n",
    "an error and nothing more": b'data: {"error":{"message":"out of memory"}}\n\n',
    "binary": chunk("hello") + bytes(range(256)) + b"\n\n",
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("words", STREAMS)
def test_a_stream_without_its_end_is_an_error(words: str, finished: bool) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            data = head(EVENTS, CHUNKS) + (piece(STREAMS[words]) if STREAMS[words] else b"")
            seen = await say(gateway, data + (b"0\r\n\r\n" if finished else b""), STREAMED)
            if seen.status == 200:
                event = seen.body.rstrip(b"\n").rpartition(b"\n\n")[2]
                assert json.loads(event.removeprefix(b"data: "))["error"]["type"] == "engine_error"
                assert not seen.body.endswith(DONE)
            else:
                assert seen.status == 502
            (completion,) = gateway.disk.completions()
            assert completion["outcome"] == "failed"
            assert completion["attempts"][0]["outcome"] != "ok"
            await gateway.healthy()

    run(main)


GOOD = {
    "in one piece": head(JSON, length(len(BODY))) + BODY,
    "in chunks": head(JSON, CHUNKS)
    + b"".join(piece(BODY[at : at + 7]) for at in range(0, len(BODY), 7))
    + b"0\r\n\r\n",
    "behind interim answers": head(status=b"100 Continue")
    + head(status=b"103 Hints")
    + head(JSON, length(len(BODY)))
    + BODY,
    "with extensions and trailers": head(JSON, CHUNKS) + b"%x;a=b\r\n%b\r\n0\r\nx: y\r\n\r\n" % (len(BODY), BODY),
    "closing": head(JSON, b"connection: close\r\n", length(len(BODY))) + BODY,
    "in HTTP/1.0": head(JSON, length(len(BODY)), version=b"HTTP/1.0") + BODY,
    "under any type": head(b"content-type: text/plain\r\n", length(len(BODY))) + BODY,
    "with many headers": head(JSON, *[b"x-%d: y\r\n" % n for n in range(200)], length(len(BODY))) + BODY,
}


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "streamed"])
@pytest.mark.parametrize("words", GOOD)
def test_an_answer_that_is_one_arrives(words: str, body: bytes, close: bool) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            seen = await say(gateway, GOOD[words], body, close=close)
            assert (seen.status, seen.body) == (200, BODY)

    run(main)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("kind", [EVENTS, b"Content-Type: Text/Event-Stream; charset=utf-8\r\n"])
def test_streams_in_other_spellings_arrive(end: bytes, kind: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            said = (chunk("hello") + DONE).replace(b"\n\n", end)
            data = (
                head(kind, CHUNKS) + b"".join(piece(said[at : at + 3]) for at in range(0, len(said), 3)) + b"0\r\n\r\n"
            )
            seen = await say(gateway, data, STREAMED)
            assert (seen.status, seen.body) == (200, said)
            (completion,) = gateway.disk.completions()
            assert completion["outcome"] == "ok"

    run(main)


@pytest.mark.parametrize(
    "late", [b"", whole(b'{"evil":1}')[:30], whole(b'{"evil":1}'), b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_a_second_answer_to_one_request_never_becomes_the_answer_to_the_next(late: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            rest = asyncio.Event()

            async def twice(asked: Asked, writer: asyncio.StreamWriter) -> None:
                if b"first" in asked.body:
                    writer.write(whole(answered("first")) + late)
                    await writer.drain()
                    await rest.wait()
                else:
                    writer.write(whole(answered("second")))

            gateway.engine.answer = twice
            assert b"first" in (await gateway.exchange(post(CHAT.replace(b"hi", b"first")))).body
            if late:
                await gateway.until(lambda: not [c for idle in gateway.pool._idle.values() for c in idle if c.usable])
            rest.set()
            assert b"second" in (await gateway.exchange(post(CHAT.replace(b"hi", b"second")))).body

    run(main)


@pytest.mark.parametrize("broken", [b"zz\r\n", b"5\r\nshort"])
def test_what_came_before_a_stream_broke_was_an_answer(broken: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:

            async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
                writer.write(head(EVENTS, CHUNKS) + piece(chunk("one")))
                await begun.wait()
                writer.write(piece(chunk("two")) + piece(chunk("three")) + broken)  # in one read
                await writer.drain()
                writer.close()

            begun, gateway.engine.answer = asyncio.Event(), answer
            client = await gateway.client()
            client.send(post(STREAMED))
            said = await client.reader.readuntil(chunk("one"))
            begun.set()
            said += await client.reader.readuntil(b"0\r\n\r\n")
            events = piece(chunk("one")), piece(chunk("two") + chunk("three"))
            assert b"".join(events) in said
            assert b'data: {"error"' in said.rpartition(chunk("three"))[2]

    run(main)


@pytest.mark.parametrize("flood", ["a header without end", "headers without end", "trailers without end"])
def test_an_engine_that_never_comes_to_the_point_is_hung_up_on(flood: str) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            seen = await say(gateway, BROKEN[flood], CHAT, close=False)
            assert seen.status == 502
            assert "headers" in seen.json["error"]["message"]

    run(main)


def test_an_engine_that_speaks_unasked_loses_its_connection() -> None:
    async def main() -> None:
        async with Gateway() as gateway:

            async def chatty(_asked: Asked, writer: asyncio.StreamWriter) -> None:
                writer.write(whole(answered()))
                await writer.drain()
                await asyncio.sleep(0.02)
                writer.write(whole(b'{"evil":1}'))
                await asyncio.Event().wait()

            gateway.engine.answer = chatty
            assert (await gateway.exchange(post())).body == answered()
            await gateway.until(lambda: not [c for idle in gateway.pool._idle.values() for c in idle if c.usable])
            await gateway.healthy()

    run(main)


def test_an_engines_headers_do_not_reach_the_client() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            loud = whole(answered(), more=b"access-control-allow-origin: *\r\nset-cookie: a=b\r\nserver: llama.cpp\r\n")
            seen = await say(gateway, loud, CHAT)
            assert set(seen.headers) == {
                "date",
                "x-request-id",
                "daulat-receipt",
                "daulat-promise",
                "content-type",
                "content-length",
            }

    run(main)

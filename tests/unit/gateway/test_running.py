"""Answers on their way through real sockets: slow clients, clients that leave, keys that are revoked, engines that
fail."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from tests.support.request_path import DONE, answered, chunk, usage_chunk
from tests.support.wire import CHAT, STREAMED, Asked, Client, Gateway, chunked, get, play, post, run, whole
from tests.support.worlds import OTHER_SECRET, SECRET, key, roll, world

from daulat.core.snapshot import Limits

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def endless(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Word after word, as fast as they are taken."""
    writer.write(HEAD)
    while True:
        writer.write(framed(chunk("x" * 4000)) * 4)
        await writer.drain()
        await asyncio.sleep(0)


async def one_word(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A word, and then nothing for as long as anybody listens."""
    writer.write(HEAD + framed(chunk("hello")))
    await asyncio.Event().wait()


BIG = answered("x" * 8_000_000)


async def big(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """More than a client's buffers hold."""
    writer.write(whole(BIG))
    await writer.drain()


async def streaming(gateway: Gateway) -> Client:
    """A client whose stream has begun."""
    client = await gateway.client()
    client.send(post(STREAMED))
    await first_word(client)
    return client


async def first_word(client: Client) -> None:
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 200"), head
    await asyncio.wait_for(client.reader.readuntil(b"\n\n"), 20)


async def last_event(client: Client) -> dict[str, dict[str, str]]:
    """The error event that a broken stream ends with, the rest of the chunked body behind it."""
    rest = await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 20)
    events = [line[6:] for line in rest.split(b"\r\n") if line.startswith(b"data: ")]
    return dict(json.loads(events[-1]))


def test_no_byte_leaves_while_the_disk_has_not_got_the_admission() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.disk.gate.clear()
            client = await gateway.client()
            client.send(post(STREAMED))
            await gateway.until(lambda: gateway.engine.asked)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.1)
            gateway.disk.gate.set()
            seen = await client.answer()
            assert seen.body == chunk("hello") + DONE
            assert seen.headers["daulat-promise"]

    run(main)


def test_a_slow_client_stops_the_engine_instead_of_filling_our_memory() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.engine.answer = endless
            client = await gateway.client()
            client.writer.transport.pause_reading()
            client.send(post(STREAMED))
            await gateway.until(lambda: [item for item in gateway.server.connections if item._stalled])
            sizes = []
            for _ in range(5):
                await asyncio.sleep(0.02)
                sizes.append(sum(item._transport.get_write_buffer_size() for item in gateway.server.connections))
            assert len(set(sizes)) == 1, "nothing more is taken from the engine"
            assert sizes[0] < 1_500_000
            client.writer.transport.resume_reading()
            await gateway.until(lambda: not [item for item in gateway.server.connections if item._stalled])
            await first_word(client)
            client.abort()
            await gateway.until(lambda: gateway.engine.lost)

    run(main)


def test_a_client_that_takes_nothing_for_long_is_cut() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(write_seconds=60.0)) as gateway:
            gateway.engine.answer = endless
            client = await gateway.client()
            client.writer.transport.pause_reading()
            client.send(post(STREAMED))
            await gateway.until(lambda: [item for item in gateway.server.connections if item._stalled])
            gateway.server.sweep(asyncio.get_running_loop().time() + 59.0)
            assert gateway.server.connections
            gateway.server.sweep(asyncio.get_running_loop().time() + 61.0)
            await gateway.until(lambda: not gateway.server.connections)
            await gateway.until(lambda: gateway.engine.lost)
            await gateway.until(gateway.disk.completions)
            assert gateway.disk.completions()[0]["outcome"] == "aborted"

    run(main)


def test_a_connection_that_is_closed_but_never_drained_goes_at_last() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(write_seconds=60.0)) as gateway:
            gateway.engine.answer = big
            client = await gateway.client()
            client.writer.transport.pause_reading()
            client.send(post(CHAT, b"Connection: close"))
            await gateway.until(lambda: [item for item in gateway.server.connections if item._state == "closed"])
            gateway.server.sweep(asyncio.get_running_loop().time() + 61.0)
            await gateway.until(lambda: not gateway.server.connections)

    run(main)


def test_a_client_that_does_not_read_gets_no_second_answer_into_memory() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.engine.answer = big
            client = await gateway.client()
            client.writer.transport.pause_reading()
            client.send(post() * 10)
            await gateway.until(lambda: [item for item in gateway.server.connections if item._stalled])
            await asyncio.sleep(0.1)
            assert len(gateway.handled) == 1
            gateway.server.sweep(asyncio.get_running_loop().time() + 30.0)
            client.writer.transport.resume_reading()
            for _ in range(10):
                assert (await client.answer()).body == BIG

    run(main)


@pytest.mark.parametrize("body", [CHAT, STREAMED])
def test_a_client_that_leaves_before_an_answer_stops_the_engine(body: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:

            async def think(_asked: Asked, _writer: asyncio.StreamWriter) -> None:
                await asyncio.Event().wait()

            gateway.engine.answer = think
            client = await gateway.client()
            client.send(post(body))
            await gateway.until(lambda: gateway.engine.asked)
            client.abort()
            await gateway.until(lambda: gateway.engine.lost)
            await gateway.until(gateway.disk.completions)
            (completion,) = gateway.disk.completions()
            assert (completion["outcome"], completion["error"]) == ("aborted", "client_left")
            await gateway.healthy()

    run(main)


def test_a_client_that_leaves_mid_stream_stops_the_engine() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.engine.answer = one_word
            client = await streaming(gateway)
            client.close()
            await gateway.until(lambda: gateway.engine.lost)
            await gateway.until(gateway.disk.completions)
            assert gateway.disk.completions()[0]["usage"]["completion_tokens"] == 1

    run(main)


def test_a_revoked_key_cuts_its_streams_and_admits_nothing_more() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.engine.answer = one_word
            mine, other = await gateway.client(), await gateway.client()
            mine.send(post(STREAMED, secret=SECRET))
            other.send(post(STREAMED, secret=OTHER_SECRET))
            for client in (mine, other):
                await first_word(client)
            left = replace(gateway.snapshot, number=2, roll=roll(keys=(key(2, OTHER_SECRET),)))
            gateway.service.renew(world(gateway.clock, left))
            event = await last_event(mine)
            assert event["error"]["code"] == "revoked"
            await gateway.until(lambda: gateway.engine.lost == 1)
            assert len(gateway.service.active) == 1
            gateway.engine.answer = play
            mine.send(post(secret=SECRET))
            assert (await mine.answer()).status == 401
            assert (await gateway.exchange(post(secret=OTHER_SECRET))).status == 200
            other.abort()

    run(main)


def test_expiry_stops_admission_to_the_second_and_no_running_stream() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            expiring = (key(1, expires=gateway.clock.now + 5000),)
            gateway.service.renew(world(gateway.clock, replace(gateway.snapshot, roll=roll(keys=expiring))))
            gateway.engine.answer = one_word
            client = await streaming(gateway)
            gateway.engine.answer = play
            gateway.clock.now += 4999
            assert (await gateway.exchange(post())).status == 200
            gateway.clock.now += 1
            for data in (post(), post(STREAMED), get(b"/v1/models")):
                seen = await gateway.exchange(data)
                assert (seen.status, seen.json["error"]["code"]) == (401, "expired_api_key")
            assert len(gateway.service.active) == 1
            client.abort()

    run(main)


def test_a_person_whose_eligibility_ends_is_as_expired_as_a_key() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            people = tuple(replace(row, expires=gateway.clock.now) for row in gateway.snapshot.roll.people)
            gateway.service.renew(world(gateway.clock, replace(gateway.snapshot, roll=roll(people=people))))
            assert (await gateway.exchange(post())).json["error"]["code"] == "expired_api_key"

    run(main)


def test_a_lease_that_ends_makes_the_service_unready_and_says_why() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            assert (await gateway.exchange(get(b"/readyz"))).json == {"status": "ready"}
            gateway.clock.pass_seconds(300)
            for data in (post(), get(b"/readyz")):
                seen = await gateway.exchange(data)
                assert seen.status == 503
                assert "lease of node node_1 has expired" in seen.json["error"]["message"]
                assert seen.headers["retry-after"]
            assert (await gateway.exchange(get(b"/healthz"))).status == 200, "alive, and honest about it"
            assert not gateway.engine.asked

    run(main)


def test_a_full_disk_makes_the_service_unready_and_refuses() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.disk.short = "the disk is nearly full"
            gateway.journal.tick()
            for data in (post(), get(b"/readyz")):
                seen = await gateway.exchange(data)
                assert seen.status == 503
                assert "nearly full" in seen.json["error"]["message"]
            gateway.disk.short = ""
            gateway.journal.tick()
            await gateway.healthy()

    run(main)


# Engines.


@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])
def test_another_replica_takes_over_before_the_first_byte_and_the_dead_one_is_left_at_once(body: bytes) -> None:
    async def main() -> None:
        async with Gateway(replicas=2) as gateway:

            async def broken(_asked: Asked, writer: asyncio.StreamWriter) -> None:
                writer.close()

            gateway.engines[0].answer = broken
            for _ in range(2):
                assert (await gateway.exchange(post(body))).status == 200
            assert len(gateway.engines[1].asked) == 2
            attempts = [completion["attempts"] for completion in gateway.disk.completions()]
            assert [[attempt["outcome"] for attempt in tried] for tried in attempts] == [["dead", "ok"], ["ok"]]

    run(main)


def test_an_engine_that_is_not_there_is_an_honest_error() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            (gateway.folder / "engine-1").unlink()
            for body in (CHAT, STREAMED):
                seen = await gateway.exchange(post(body))
                assert (seen.status, seen.json["error"]["code"]) == (502, "engine_dead")

    run(main)


def test_a_connection_that_the_engine_has_closed_meanwhile_is_replaced_silently() -> None:
    async def main() -> None:
        async with Gateway() as gateway:

            async def once(asked: Asked, writer: asyncio.StreamWriter) -> None:
                await play(asked, writer)
                writer.close()

            gateway.engine.answer = once
            for _ in range(5):
                assert (await gateway.exchange(post())).status == 200
            assert len(gateway.engine.asked) == 5

    run(main)


def test_connections_to_an_engine_are_kept_and_used_again() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for _ in range(20):
                assert (await gateway.exchange(post())).status == 200
            (address,) = gateway.pool._idle
            assert len(gateway.pool._idle[address]) == 1
            gateway.pool.retain(set(), set())
            assert not gateway.pool._idle

    run(main)


def test_a_stream_broken_by_the_engine_ends_with_an_error_event() -> None:
    async def main() -> None:
        async with Gateway(replicas=2) as gateway:

            async def breaks(_asked: Asked, writer: asyncio.StreamWriter) -> None:
                writer.write(HEAD + framed(chunk("hello")))
                await writer.drain()
                await asyncio.sleep(0.05)
                writer.close()

            gateway.engines[0].answer = breaks
            client = await gateway.client()
            client.send(post(STREAMED))
            seen = await client.answer()
            assert seen.status == 200
            first, second = seen.body.split(b"\n\n")[:2]
            assert first + b"\n\n" == chunk("hello")
            assert json.loads(second[6:])["error"]["type"] == "engine_error"
            assert not gateway.engines[1].asked, "after the first byte nobody takes over"
            client.send(post())
            assert (await client.answer()).status == 200, "the connection is as good as before"

    run(main)


def test_usage_is_asked_for_and_hidden_on_the_wire() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            seen = await gateway.exchange(post(STREAMED))
            assert usage_chunk() not in seen.body
            assert json.loads(gateway.engine.asked[0].body)["stream_options"] == {"include_usage": True}
            asks = STREAMED[:-1] + b',"stream_options":{"include_usage":true}}'
            seen = await gateway.exchange(post(asks))
            assert usage_chunk() in seen.body
            assert gateway.engine.asked[1].body == asks
            assert [completion["usage"]["prompt_tokens"] for completion in gateway.disk.completions()] == [5, 5]

    run(main)


def test_many_at_once_each_get_their_own_answer() -> None:
    async def main() -> None:
        async with Gateway() as gateway:

            async def echo(asked: Asked, writer: asyncio.StreamWriter) -> None:
                await asyncio.sleep(0.001 * (len(asked.body) % 7))
                content = json.loads(asked.body)["messages"][0]["content"]
                if b'"stream":true' in asked.body:
                    writer.write(HEAD + framed(chunk(content)) + framed(usage_chunk() + DONE) + b"0\r\n\r\n")
                else:
                    writer.write(whole(answered(content)))

            gateway.engine.answer = echo

            async def one(number: int) -> None:
                client = await gateway.client()
                for turn in range(5):
                    word = f"{number}-{turn}-" + "x" * (number % 11)
                    body = (STREAMED if (number + turn) % 2 else CHAT).replace(b"hi", word.encode())
                    client.send(post(body))
                    seen = await client.answer()
                    assert word.encode() in seen.body
                client.close()

            await asyncio.gather(*(one(number) for number in range(60)))
            assert len(gateway.disk.completions()) == 300
            assert len({seen.target for seen in gateway.handled}) == 1

    run(main)


def test_more_at_once_than_a_worker_may_hold_are_told_to_wait() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(streams=2)) as gateway:
            gateway.engine.answer = one_word
            running = [await streaming(gateway) for _ in range(2)]
            seen = await gateway.exchange(post())
            assert (seen.status, seen.headers["retry-after"]) == (429, "1")
            running[0].abort()
            await gateway.until(lambda: len(gateway.service.active) == 1)
            gateway.engine.answer = play
            assert (await gateway.exchange(post())).status == 200
            running[1].abort()

    run(main)


def test_a_service_that_stops_ends_its_streams_with_words() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.engine.answer = one_word
            client = await streaming(gateway)
            gateway.server.drain()
            for inference in list(gateway.service.active):
                inference.cut("the service is stopping")
            assert "stopping" in (await last_event(client))["error"]["message"]
            assert await client.closed() == b""

    run(main)


def test_chunks_from_the_client_reach_the_engine_as_one_body() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            parts = [CHAT[at : at + 5] for at in range(0, len(CHAT), 5)]
            head = (
                post()
                .partition(b"\r\n\r\n")[0]
                .replace(b"Content-Length: %d" % len(CHAT), b"Transfer-Encoding: chunked")
            )
            assert (await gateway.exchange(head + b"\r\n\r\n" + chunked(*parts))).status == 200
            (asked,) = gateway.engine.asked
            assert asked.headers[b"content-length"] == b"%d" % len(CHAT)
            assert asked.body == CHAT

    run(main)

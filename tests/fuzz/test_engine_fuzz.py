"""What a mad engine may say: always an answer or an honest error, never a hang, never a silent end. All is seeded.

For every mutant: the log says `ok` exactly when the client got a whole answer or a stream with its end, and its
commitment opens to the bytes the client got.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from tests.support.mutants import mutant, pieces
from tests.support.request_path import answered, chunk, usage_chunk
from tests.support.wire import CHAT, STREAMED, Asked, Gateway, Seen, post, run, whole
from tests.support.worlds import PERSON_KEY

from daulat.core.commitments import opens, salt
from daulat.core.snapshot import Limits
from daulat.ledger import records

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = chunk("one") + chunk("two") + usage_chunk() + b"data: [DONE]\n\n"


def framed(data: bytes, size: int) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


ANSWERS = (
    whole(answered()),
    whole(b'{"error":{"message":"no","type":"x","code":400}}', 400),
    HEAD + framed(EVENTS, 10_000),
    HEAD + framed(EVENTS, 50),
    HEAD + framed(EVENTS.replace(b"\n\n", b"\r\n\r\n"), 70),
    HEAD + framed(chunk("x" * 3000) * 5 + EVENTS, 1000),
    b"HTTP/1.1 100 Continue\r\n\r\n" + whole(answered()),
    HEAD.replace(b"text/event-stream", b"application/json") + framed(answered(), 30),
)


def mad(rng: random.Random) -> bytes:
    """A mutant of an answer's bytes, or a good envelope around a mutant of what it says."""
    if rng.random() < 0.4:
        return mutant(rng, ANSWERS)
    if rng.random() < 0.4:
        return whole(mutant(rng, (answered(), answered("data: [DONE]"))), rng.choice((200, 200, 200, 400, 500)))
    return HEAD + framed(mutant(rng, (EVENTS, EVENTS.replace(b"\n\n", b"\r\n\r\n"))), rng.choice((1, 20, 10_000)))


def ended(seen: Seen) -> bool:
    """Whether a client that got this got a whole answer. Anything else must be an error that says so."""
    if seen.headers["content-type"] == "text/event-stream":
        last = seen.body.replace(b"\r\n", b"\n").rstrip(b"\n").rpartition(b"\n\n")[2]
        if b"data: [DONE]" in last.splitlines() or b"data:[DONE]" in last.splitlines():
            return True
        assert json.loads(last.removeprefix(b"data: "))["error"]["message"], seen.body
        return False
    value = json.loads(seen.body)
    assert isinstance(value, dict)
    if seen.status != 200:
        assert value["error"]["message"]
    return seen.status == 200


class Asylum:
    """A gateway before a mad engine; requests carry the seed of their answer."""

    def __init__(self, gateway: Gateway, *, hangs: bool) -> None:
        self._gateway, self._hangs = gateway, hangs
        self._seen: dict[str, Seen] = {}
        self.said = 0
        self.whole = self.broken = 0
        gateway.engine.answer = self._answer

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        content = json.loads(asked.body)["messages"][0]["content"]
        if content == "hi":
            writer.write(whole(answered()) if b"include_usage" not in asked.body else ANSWERS[3])
            return
        rng = random.Random(int(content))  # noqa: S311  reproducible, not secret
        for piece in pieces(rng, mad(rng)):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        self.said += 1
        if self._hangs:
            await asyncio.Event().wait()
        writer.close()

    async def one(self, seed: int) -> None:
        body = (STREAMED if seed % 2 else CHAT).replace(b"hi", b"%d" % seed)
        client = await self._gateway.client()
        client.send(post(body))
        answer = asyncio.ensure_future(client.answer())
        if self._hangs:
            before = self.said
            await self._gateway.until(lambda: answer.done() or self.said > before)
            while not answer.done():
                await asyncio.sleep(0.005)
                self._gateway.sweep(601.0)
        seen = await answer
        assert seen.status in {200, 502, 504} or 400 <= seen.status < 500, (seed, seen)
        self._seen[seen.headers["x-request-id"]] = seen
        client.close()

    def check(self) -> None:
        """The log against what clients got."""
        ids: dict[int, str] = {}
        for record in self._gateway.disk.all():
            value: dict[str, Any] = json.loads(record.payload)
            if record.kind == records.ADMISSION:
                ids[record.sequence] = value["request_id"]
            elif record.kind == records.COMPLETION and (id_ := ids[record.sequence]) in self._seen:
                seen = self._seen.pop(id_)
                ok = ended(seen)
                assert (value["outcome"] == "ok") == ok, (value, seen)
                self.whole += ok
                self.broken += not ok
                assert value["status"] == seen.status
                assert opens(value["response"], salt(PERSON_KEY, id_, "response"), "response", seen.body)
        assert not self._seen, "an answer without its completion"
        assert min(self.whole, self.broken) > 20, "else the mutants are too wild, or too tame, to show anything"


async def mutants(first: int, count: int) -> None:
    async with Gateway() as gateway:
        asylum = Asylum(gateway, hangs=False)
        for start in range(first, first + count, 16):
            await asyncio.gather(*(asylum.one(seed) for seed in range(start, min(start + 16, first + count))))
        asylum.check()
        await gateway.healthy()


@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_mutants_of_good_answers(first: int) -> None:
    run(lambda: mutants(first, 500))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1_000_000, 1_050_000, 10_000))
def test_fifty_thousand_mutants(first: int) -> None:
    run(lambda: mutants(first, 10_000), 850.0)


def test_engines_that_say_half_and_then_nothing_are_given_up() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(engine_seconds=120.0, request_seconds=600.0)) as gateway:
            asylum = Asylum(gateway, hangs=True)
            for seed in range(5000, 5300):
                await asylum.one(seed)
            asylum.check()
            await gateway.healthy()

    run(main)

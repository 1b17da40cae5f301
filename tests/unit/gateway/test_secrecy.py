"""Keys, prompts, answers and salts are in no log line, no representation and no header that nobody asked for."""

from __future__ import annotations

import hmac
import io
import logging
from typing import Any

import pytest
from tests.support.wire import CHAT, STREAMED, Gateway, get, post, request, run
from tests.support.worlds import EPOCH_KEY, SECRET, snapshot

from daulat.identity import directory

PROMPT = b"a very private question"
ANSWER = "hello"  # what the played engine says


def secret_in(text: str) -> list[str]:
    epoch = snapshot().roll.tenants[0].epoch_key
    return [word for word in (SECRET, SECRET[3:], PROMPT.decode(), epoch, repr(EPOCH_KEY)) if word in text]


def test_nothing_secret_is_logged_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for body in (CHAT, STREAMED):
                await gateway.exchange(post(body.replace(b"hi", PROMPT)))
            await gateway.exchange(post(PROMPT))
            await gateway.exchange(post(CHAT.replace(b"small", PROMPT)))
            await gateway.exchange(post(CHAT, b"Content-Length: 5"))
            await gateway.exchange(get(b"/" + SECRET.encode()))
            await gateway.exchange(post().replace(b"Bearer ", b"Bearer x"))

            def defect(*_arguments: Any) -> None:
                raise KeyError("a defect")

            monkeypatch.setattr(gateway.app, "_infer", defect)
            seen = await gateway.exchange(post(CHAT.replace(b"hi", PROMPT)))
            assert (seen.status, seen.json["error"]["code"]) == (500, "internal_error")
            assert b"KeyError" not in seen.body

    log, handler = logging.getLogger("daulat"), logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "propagate", False)  # pytest's own handler holds on to what a traceback refers to
    monkeypatch.setattr(log, "level", logging.DEBUG)
    run(main)
    text = handler.stream.getvalue()
    assert "could not be handled" in text, "the defect itself is told to the operator"
    assert not secret_in(text)


def test_nothing_secret_is_in_a_representation() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            await gateway.exchange(post(CHAT.replace(b"hi", PROMPT)))
            world = gateway.service.world
            principal = world.directory.authenticate(SECRET.encode())
            exchange = gateway.handled[0]
            for thing in (world.snapshot, world, principal, gateway.service, gateway.journal, exchange):
                assert not secret_in(repr(thing)), type(thing)

    run(main)


def test_nothing_of_the_request_but_its_commitment_is_journalled() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            await gateway.exchange(post(CHAT.replace(b"hi", PROMPT)))
            await gateway.exchange(post(PROMPT))
            journalled = b"".join(record.payload for record in gateway.disk.all()).decode()
            assert not secret_in(journalled)
            assert ANSWER not in journalled
            for personal in ("person_1", "tenant_1", "key_1"):
                assert personal not in journalled, "pseudonyms only"

    run(main)


def test_a_client_chooses_no_header_of_an_answer() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            evil = b"req_evil\rx: y"
            data = post(CHAT, b"X-Request-Id: req_mine", b"Daulat-Promise: mine", b"Origin: null")
            seen = await gateway.exchange(data)
            assert "mine" not in str(seen.headers)
            for target in (b"/v1/models/%0d%0aset-cookie:%20a=b", b"/v1/receipts/%0d%0ax:y", b"/%0d%0ax:y"):
                seen = await gateway.exchange(get(target))
                assert "set-cookie" not in seen.headers
                assert "x" not in seen.headers
            name = b'{"model":"a\\r\\nset-cookie: b","messages":[]}'
            seen = await gateway.exchange(post(name))
            assert "set-cookie" not in seen.headers
            assert seen.status == 404
            assert (await gateway.exchange(post(CHAT, b"X-Request-Id: " + evil))).status == 400

    run(main)


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    class Watched:
        @staticmethod
        def compare_digest(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return hmac.compare_digest(one, other)

    monkeypatch.setattr(directory, "hmac", Watched)

    async def main() -> None:
        async with Gateway() as gateway:
            assert (await gateway.exchange(post())).status == 200
            assert (await gateway.exchange(request(b"/v1/models", method=b"GET"))).status == 200

    run(main)
    assert len(compared) == 2
    assert all(one == other and len(one) == 32 for one, other in compared), "digests, never secrets"

"""A connection remembers who asked on it last: whoever asks otherwise, or when it is otherwise, is looked up anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.wire import CHAT, Client, Gateway, post, run
from tests.support.worlds import OTHER_SECRET, SECRET, key, roll, world

from daulat.identity.directory import Directory


async def said(client: Client, data: bytes) -> str:
    client.send(data)
    seen = await client.answer()
    return "answered" if seen.status == 200 else str(seen.json["error"]["code"])


def test_who_asks_again_with_the_same_head_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    authenticate = Directory.authenticate
    monkeypatch.setattr(Directory, "authenticate", lambda self, key: (asked.append(key), authenticate(self, key))[1])

    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            for secret in (SECRET, SECRET, SECRET, OTHER_SECRET, SECRET, SECRET):
                assert await said(client, post(secret=secret)) == "answered"
            # The first is read by the parser; the second is the first that is taken for the same, as others will be.
            assert [key.decode() for key in asked] == [SECRET, SECRET, OTHER_SECRET, SECRET]
            who = [admission["key"] for admission in gateway.disk.admissions()]
            assert who == ["which1", "which1", "which1", "which2", "which1", "which1"]
            assert await said(client, post(secret="sk-nobody")) == "invalid_api_key"
            assert await said(client, post(secret=SECRET)) == "answered"

    run(main)


def test_who_is_known_may_be_revoked_or_expire() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            expiring = replace(gateway.snapshot, roll=roll(keys=(key(1, expires=gateway.clock.now + 5000),)))
            gateway.service.renew(world(gateway.clock, expiring))
            client = await gateway.client()
            for _ in range(3):
                assert await said(client, post()) == "answered"
            gateway.clock.now += 5000
            assert await said(client, post()) == "expired_api_key"
            gateway.service.renew(world(gateway.clock, gateway.snapshot))
            for _ in range(3):
                assert await said(client, post()) == "answered"
            gateway.service.renew(world(gateway.clock, replace(gateway.snapshot, roll=roll(keys=()))))
            assert await said(client, post()) == "invalid_api_key"

    run(main)


def test_a_second_key_beside_the_known_one_is_seen() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            lines = b"X-Api-Key: %b" % SECRET.encode()
            for _ in range(3):
                assert await said(client, post(CHAT, lines)) == "answered"
            other = b"X-Api-Key: %b" % OTHER_SECRET.encode()
            assert await said(client, post(CHAT, other)) == "conflicting_api_keys"
            assert await said(client, post(CHAT, lines)) == "answered"

    run(main)

"""Keys for certain networks, and eligibility that has ended: through real sockets, and what the log says of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.wire import CHAT, Gateway, get, post, run
from tests.support.worlds import NOW, key, person, roll, world

from daulat.core.principal import Attributes
from daulat.gateway import peers

OWN = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))


def allowed_from(gateway: Gateway, *networks: str) -> None:
    rows = (replace(key(1), networks=networks),)
    gateway.service.renew(world(gateway.clock, replace(gateway.snapshot, roll=roll(keys=rows))))


def asked(*networks: str, line: bytes = b"", proxies: Any = ()) -> tuple[int, Any, list[dict[str, Any]]]:
    """Status, body, and what the log has of one request by a key of these networks."""
    found: list[Any] = []

    async def main() -> None:
        async with Gateway() as gateway:
            gateway.app._proxies = proxies
            allowed_from(gateway, *networks)
            seen = await gateway.exchange(post(CHAT, line) if line else post())
            await gateway.until(gateway.disk.whole)
            found.extend((seen.status, seen.json, gateway.disk.completions()))

    run(main)
    return found[0], found[1], found[2]


def test_a_key_of_this_network_is_used_and_one_of_another_is_refused_and_logged() -> None:
    assert asked("127.0.0.0/8", "2001:db8::/32")[0] == 200
    status, body, completions = asked("192.0.2.0/24")
    assert status == 403
    assert body["error"]["code"] == "network_not_allowed"
    assert "192.0.2.0/24 only, and this request comes from 127.0.0.1" in body["error"]["message"]
    assert [(entry["outcome"], entry["error"]) for entry in completions] == [("denied", "network_not_allowed")]


def test_behind_the_operators_own_proxy_it_is_the_clients_address_that_counts() -> None:
    forwarded = b"X-Forwarded-For: 192.0.2.7"
    assert asked("192.0.2.0/24", line=forwarded, proxies=OWN)[0] == 200
    assert asked("127.0.0.0/8", line=forwarded, proxies=OWN)[0] == 403
    assert asked("192.0.2.0/24", line=forwarded)[0] == 403  # nobody named that proxy: anybody can write such a line
    assert asked("192.0.2.0/24", line=b"X-Forwarded-For: 192.0.2.7, 198.51.100.1", proxies=OWN)[0] == 403


def test_what_models_there_are_is_told_within_the_network_alone() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            allowed_from(gateway, "192.0.2.0/24")
            assert (await gateway.exchange(get(b"/v1/models"))).status == 403
            allowed_from(gateway, "127.0.0.1/32")
            assert (await gateway.exchange(get(b"/v1/models"))).status == 200

    run(main)


@pytest.mark.parametrize(
    ("peer", "line", "client"),
    [
        ("192.0.2.7", b"", "192.0.2.7"),
        ("192.0.2.7", b"198.51.100.1", "192.0.2.7"),  # not our proxy: its word is nothing
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", b"203.0.113.9, 198.51.100.1 , 10.0.0.2", "198.51.100.1"),
        ("::ffff:10.0.0.1", b"2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", b"", "192.0.2.7"),
        ("fe80::1%eth0", b"", "fe80::1"),
        ("10.0.0.1", b"198.51.100.1, unknown", None),
        ("10.0.0.1", b"198.51.100.1:4000", None),
        ("", b"198.51.100.1", None),
    ],
)
def test_whose_address_it_is(peer: str, line: bytes, client: str | None) -> None:
    found = peers.client(peer, {b"x-forwarded-for": line} if line else {}, OWN)
    assert found == (None if client is None else ip_address(client))


@settings(derandomize=True, max_examples=300)
@given(st.binary(max_size=60), st.ip_addresses())
def test_nothing_written_into_the_header_raises_or_speaks_for_a_stranger(line: bytes, peer: Any) -> None:
    assert peers.client(str(peer), {b"x-forwarded-for": line}, ()) in {peer, getattr(peer, "ipv4_mapped", None)}
    peers.client("10.0.0.1", {b"x-forwarded-for": line}, OWN)


def test_with_the_citizenship_its_keys_end_at_once_and_their_holder_is_told_why() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            citizen = Attributes("MY", "substantial", ("user",), "https://id.example", NOW + 1000)
            people = (replace(person(1), attributes=citizen),)
            gateway.service.renew(world(gateway.clock, replace(gateway.snapshot, roll=roll(people=people))))
            seen = await gateway.exchange(post())
            assert seen.status == 403  # the starter charter counts the word of operators alone
            assert "use.issuer" in seen.json["error"]["message"]
            gateway.clock.pass_seconds(1)
            late = await gateway.exchange(post())
            assert (late.status, late.json["error"]["code"]) == (401, "expired_citizenship")
            gateway.journal.tick()
            await gateway.until(gateway.disk.refusals)
            assert gateway.disk.refusals() == {"expired_citizenship": 1}

    run(main)

"""Anthropic's header for keys is as strict as `Authorization`, and errors under its address have its envelope."""

from __future__ import annotations

import json

import pytest
from tests.support.wire import CHAT, Gateway, get, post, request, run
from tests.support.worlds import OTHER_SECRET, SECRET

BEARER = b"Authorization: Bearer " + SECRET.encode()
KEY = b"x-api-key: " + SECRET.encode()
MESSAGES = b"/v1/messages"


def keyed(data: bytes, *lines: bytes) -> bytes:
    """A request with these headers in place of its Authorization."""
    return data.replace(BEARER + b"\r\n", b"".join(line + b"\r\n" for line in lines))


@pytest.mark.parametrize("lines", [(KEY,), (KEY, BEARER), (KEY.replace(b"x-api-key", b"X-API-Key"),)])
def test_a_key_is_taken_from_either_header_and_from_both_where_they_agree(lines: tuple[bytes, ...]) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            assert (await gateway.exchange(keyed(post(), *lines))).status == 200

    run(main)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ((b"x-api-key: sk-nobody",), "invalid_api_key"),
        ((b"x-api-key:",), "invalid_api_key"),
        ((b"x-api-key: Bearer " + SECRET.encode(),), "invalid_api_key"),
        ((KEY, b"Authorization: Bearer " + OTHER_SECRET.encode()), "conflicting_api_keys"),
        ((BEARER, b"x-api-key: sk-nobody"), "conflicting_api_keys"),
        ((BEARER, b"x-api-key:"), "conflicting_api_keys"),
        ((KEY, b"Authorization: Basic eDp5"), "missing_api_key"),
        ((), "missing_api_key"),
    ],
)
def test_a_wrong_key_or_two_different_ones_are_refused(lines: tuple[bytes, ...], code: str) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            seen = await gateway.exchange(keyed(post(), *lines))
            assert (seen.status, seen.json["error"]["code"]) == (401, code)
            assert not gateway.engine.asked

    run(main)


def test_a_key_given_twice_is_refused() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            assert (await gateway.exchange(keyed(post(), KEY, KEY))).status == 400
            assert not gateway.engine.asked

    run(main)


@pytest.mark.parametrize(
    ("data", "status", "type_"),
    [
        (keyed(post(CHAT, target=MESSAGES)), 401, "authentication_error"),
        (get(MESSAGES), 405, "invalid_request_error"),
        (post(b"{}", target=MESSAGES + b"?beta=true"), 400, "invalid_request_error"),
        (post(CHAT.replace(b"small", b"nosuch"), target=MESSAGES), 404, "not_found_error"),
        (post(b"{}", target=MESSAGES + b"/count_tokens"), 400, "invalid_request_error"),
        (request(MESSAGES, b"Content-Length: 999999999"), 413, "request_too_large"),
    ],
)
def test_errors_of_messages_have_anthropics_envelope(data: bytes, status: int, type_: str) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            seen = await gateway.exchange(data)
            assert seen.status == status
            assert set(seen.json) == {"type", "error"}
            assert (seen.json["type"], seen.json["error"]["type"]) == ("error", type_)
            assert seen.json["error"]["message"]

    run(main)


def test_messages_and_responses_reach_the_engine_at_their_own_addresses() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for target, field in ((MESSAGES, "messages"), (b"/v1/responses", "input")):
                body = json.dumps({"model": "small", field: [{"role": "user", "content": "hi"}]}).encode()
                await gateway.exchange(post(body, target=target))
                assert gateway.engine.asked[-1].body == body
                assert gateway.engine.asked[-1].line.split()[1] == target

    run(main)

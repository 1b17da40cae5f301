"""HTTP/1.1 towards clients, over real sockets: what RFC 9112 lets a client do works."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.request_path import DONE, answered, chunk
from tests.support.wire import CHAT, STREAMED, Gateway, Seen, chunked, get, post, request, run

from daulat.core.promise import parse_header
from daulat.core.snapshot import Limits
from daulat.gateway import framing

TARGET, CODING = b"/v1/chat/completions", b"Transfer-Encoding: chunked"


def test_an_answer_carries_its_id_its_receipts_address_and_a_promise() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            seen = await gateway.exchange(post())
            assert (seen.status, seen.body) == (200, answered())
            id_ = seen.headers["x-request-id"]
            assert seen.headers["daulat-receipt"] == f"/v1/receipts/{id_}"
            promise = parse_header(seen.headers["daulat-promise"])
            assert promise.request_id == id_
            assert seen.headers["content-type"] == "application/json"
            assert not [name for name in seen.headers if name.startswith("access-control")]
            (asked,) = gateway.engine.asked
            assert asked.line == b"POST /v1/chat/completions HTTP/1.1"
            assert asked.body == CHAT
            assert b"authorization" not in asked.headers, "an engine never learns a key"

    run(main)


def test_a_connection_is_kept_and_used_again() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            for _ in range(5):
                client.send(post())
                assert (await client.answer()).status == 200
                client.send(post(STREAMED))
                seen = await client.answer()
                assert seen.headers["transfer-encoding"] == "chunked"
                assert seen.body == chunk("hello") + DONE
            assert len(gateway.server.connections) == 1
            client.send(post(CHAT, b"Connection: close"))
            seen = await client.answer()
            assert seen.headers["connection"] == "close"
            assert await client.closed() == b""

    run(main)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            slow = asyncio.Event()

            async def reversed_(asked: object, writer: asyncio.StreamWriter) -> None:
                await slow.wait()
                await play(asked, writer)  # type: ignore[arg-type]

            play, gateway.engine.answer = gateway.engine.answer, reversed_
            client.send(post() + get(b"/healthz") + post(STREAMED) + get(b"/nowhere") + get(b"/v1/models"))
            await gateway.until(lambda: gateway.engine.asked)
            assert len(gateway.handled) == 1, "the second waits for the first"
            slow.set()
            statuses = [await client.answer() for _ in range(5)]
            assert [seen.status for seen in statuses] == [200, 200, 200, 404, 200]
            assert statuses[0].body == answered()
            assert statuses[1].body == b'{"status":"ok"}'
            assert statuses[2].body.endswith(DONE)
            assert [row["id"] for row in statuses[4].json["data"]] == ["small", "embedder"]

    run(main)


def test_a_thousand_pipelined_requests_need_no_stack() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            client.send(get(b"/healthz") * 1000)
            for _ in range(1000):
                assert (await client.answer()).status == 200

    run(main)


def test_what_a_pipelining_client_sends_meanwhile_is_bounded() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.disk.gate.clear()
            client = await gateway.client()
            client.send(post())
            await gateway.until(lambda: gateway.engine.asked)
            client.send(get(b"/healthz") * 20_000)
            await gateway.until(lambda: [item for item in gateway.server.connections if not item._reading])
            assert sum(len(item._buffer) for item in gateway.server.connections) < 500_000
            gateway.disk.gate.set()
            assert (await client.answer()).body == answered()
            for _ in range(100):
                assert (await client.answer()).status == 200
            client.abort()

    run(main)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_however_a_request_is_cut_it_is_the_same_request(size: int) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            whole = request(b"/v1/chat/completions", b"Transfer-Encoding: chunked", body=chunked(CHAT[:9], CHAT[9:]))
            for data in (post(), whole):
                for at in range(0, len(data), size):
                    client.send(data[at : at + size])
                    await asyncio.sleep(0)
                assert (await client.answer()).status == 200
            assert [asked.body for asked in gateway.engine.asked] == [CHAT, CHAT]

    run(main)


@pytest.mark.parametrize(
    "body",
    [
        chunked(CHAT),
        chunked(*[CHAT[at : at + 1] for at in range(len(CHAT))]),
        chunked(CHAT, extension=b";name=value"),
        chunked(CHAT, extension=b';name="a;b\\"c"'),
        chunked(CHAT, trailers=b"X-Checksum: 1\r\nHost: evil\r\nAuthorization: Bearer x\r\n"),
        chunked(CHAT).replace(b"%x\r\n" % len(CHAT), b"000%X\r\n" % len(CHAT)),
    ],
)
def test_chunked_bodies_with_extensions_and_trailers(body: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            for _ in range(2):
                client.send(request(b"/v1/chat/completions", b"Transfer-Encoding: Chunked", body=body))
                seen = await client.answer()
                assert seen.status == 200, seen.body
            assert gateway.engine.asked[1].body == CHAT

    run(main)


def test_what_follows_a_chunked_body_in_its_segment_is_not_answered_and_not_swallowed_in_silence() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            first = request(b"/v1/chat/completions", b"Transfer-Encoding: chunked", body=chunked(CHAT))
            upgrade = get(b"/healthz", b"Connection: upgrade", b"Upgrade: websocket")
            for second in (post(), first, upgrade, b"garbage\0\r\n\r\n", b"\r\n\r\n"):
                client = await gateway.client()
                client.send(first + second)
                seen = await client.answer()
                assert seen.status == 200
                if seen.headers.get("connection") == "close":
                    assert await client.closed() == b""
            assert len(gateway.engine.asked) == 5, "one answer each"

    run(main)


def test_two_requests_that_come_in_two_pieces_are_both_answered_or_the_second_is_said_to_be_lost() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            coded = request(TARGET, CODING, body=chunked(b"{}"))
            for first in (coded, post(b"{}")):
                both, lost = first + get(b"/healthz"), 0
                for cut in range(1, len(both)):
                    client = await gateway.client()
                    client.send(both[:cut])
                    await gateway.until(lambda client=client, cut=cut: gateway.got(client) >= cut)
                    client.send(both[cut:])
                    seen = await client.answer()
                    assert seen.status == 400
                    if seen.headers.get("connection") == "close":
                        assert cut != len(first), "nothing of the second came with the first's end"
                        assert await client.closed() == b""
                        lost += 1
                    else:
                        assert (await client.answer()).body == b'{"status":"ok"}', both[:cut]
                    client.close()
                assert lost == (len(both) - 2 if first == coded else 0)

    run(main)


@pytest.mark.parametrize(
    "host", [b"", b"a", b"a_b.example:8470", b"127.0.0.1:1", b"[::1]", b"[fe80::1%25eth0]:80", b"[v1.a:b]", b"x%20y:"]
)
def test_every_host_of_rfc_3986_is_taken(host: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for _ in range(2):
                seen = await gateway.exchange(get(b"/healthz").replace(b"Host: test", b"Host: " + host))
                assert seen.status == 200

    run(main)


def test_hosts_without_end_fill_no_memory() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            for number in range(3000):
                client.send(get(b"/healthz").replace(b"Host: test", b"Host: h%d" % number))
                assert (await client.answer()).status == 200
            assert len(framing.HOSTS) <= 1024

    run(main)


def test_a_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            length, coding = b"Content-Length: %d" % len(CHAT), b"Transfer-Encoding: chunked"
            for line, body in ((length, CHAT), (coding, chunked(CHAT))):
                client.send(request(b"/v1/chat/completions", line, b"Expect: 100-Continue"))
                assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                client.send(body)
                assert (await client.answer()).status == 200
            client.send(request(b"/v1/models", b"Expect: 100-continue", method=b"GET"))
            assert (await client._answer(head_only=False)).status == 200, "without a body there is nothing to wait for"
            client.send(post(CHAT, b"Expect: 100-continue"))
            assert (await client._answer(head_only=False)).status == 200, "who did not wait is not told"

    run(main)


def test_a_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(body_bytes=1000)) as gateway:
            client = await gateway.client()
            client.send(request(b"/v1/chat/completions", b"Content-Length: 1001", b"Expect: 100-continue"))
            seen = await client._answer(head_only=False)
            assert seen.status == 413
            assert await client.closed() == b""

    run(main)


@pytest.mark.parametrize("lines", [(b"Content-Length: 65537",), (b"Transfer-Encoding: chunked",)])
def test_a_large_body_is_taken_only_from_somebody_who_is_known(lines: tuple[bytes, ...]) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for more in ((), (b"Expect: 100-continue",)):
                client = await gateway.client()
                client.send(request(b"/v1/chat/completions", *lines, *more, secret="sk-nobody"))
                seen = await client._answer(head_only=False)
                assert (seen.status, seen.json["error"]["code"]) == (401, "invalid_api_key")
                assert await client.closed() == b""
            gateway.journal.tick()
            await gateway.until(gateway.disk.refusals)
            assert gateway.disk.refusals() == {"invalid_api_key": 2}
            large = CHAT[:-1] + b" " * 100_000 + b"}"
            assert (await gateway.exchange(post(large))).status == 200

    run(main)


@pytest.mark.parametrize("how", ["length", "chunks"])
def test_who_sends_too_large_a_body_all_the_same_can_read_why_it_was_refused(how: str) -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(body_bytes=1000)) as gateway:
            client = await gateway.client()
            body = bytes(5_000_000)
            if how == "length":
                client.send(request(b"/v1/chat/completions", b"Content-Length: %d" % len(body), body=body))
            else:
                client.send(request(b"/v1/chat/completions", b"Transfer-Encoding: chunked", body=chunked(body)))
            seen = await client.answer()
            assert (seen.status, seen.json["error"]["code"]) == (413, "body_too_large")
            assert await client.closed() == b""
            assert not gateway.engine.asked

    run(main)


def test_a_body_of_just_the_largest_size_passes() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(body_bytes=1000)) as gateway:
            body = CHAT.ljust(1000)
            for data in (
                post(body),
                request(b"/v1/chat/completions", b"Transfer-Encoding: chunked", body=chunked(body)),
            ):
                assert (await gateway.exchange(data)).status == 200

    run(main)


def test_head_is_get_without_a_body() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            for target in (
                b"/v1/models",
                b"/v1/models/small",
                b"/healthz",
                b"/readyz",
                b"/v1/models/nope",
                b"/metrics",
            ):
                client.send(get(target))
                whole = await client.answer()
                client.send(get(target, method=b"HEAD"))
                head = await client.answer(head_only=True)
                assert head.status == whole.status
                assert head.headers["content-length"] == str(len(whole.body)), target

    run(main)


def test_options_says_what_is_allowed_and_nothing_to_browsers_elsewhere() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            asks = (b"Origin: https://evil.example", b"Access-Control-Request-Method: POST")
            for target, allowed in (
                (b"/v1/completions", "POST, OPTIONS"),
                (b"/v1/chat/completions", "GET, HEAD, POST, OPTIONS"),
                (b"/v1/chat/completions/chatcmpl-1", "GET, HEAD, POST, DELETE, OPTIONS"),
                (b"/v1/models", "GET, HEAD, OPTIONS"),
                (b"*", "GET, HEAD, POST, OPTIONS"),
            ):
                client.send(request(target, *asks, method=b"OPTIONS"))
                seen = await client.answer()
                assert (seen.status, seen.headers["allow"], seen.body) == (200, allowed, b"")
                assert not [name for name in seen.headers if name.startswith("access-control")]
            client.send(post(CHAT, b"Origin: https://evil.example"))
            seen = await client.answer()
            assert not [name for name in seen.headers if name.startswith("access-control")]

    run(main)


def test_http_1_0_gets_whole_answers_and_a_closed_connection() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for body in (CHAT, STREAMED):
                client = await gateway.client()
                data = request(
                    b"/v1/chat/completions",
                    b"Connection: keep-alive",
                    b"Content-Length: %d" % len(body),
                    body=body,
                    version=b"1.0",
                )
                client.send(data)
                seen = await client.answer()
                assert seen.status == 200
                assert "transfer-encoding" not in seen.headers
                assert seen.headers["connection"] == "close"
                assert await client.closed() == b""
            bare = await gateway.client()
            bare.send(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert (await bare.answer()).status == 200, "HTTP/1.0 needs no Host"

    run(main)


@pytest.mark.parametrize("target", [b"http://other.example", b"HTTP://test:8080", b"https://[::1]:9"])
def test_a_target_in_absolute_form_is_understood(target: bytes) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            client.send(get(target + b"/healthz?x=http://y/"))
            assert (await client.answer()).body == b'{"status":"ok"}'
            client.send(post(target=target + b"/v1/chat/completions"))
            assert (await client.answer()).status == 200
            client.send(get(target))
            assert (await client.answer()).status == 404

    run(main)


def test_a_query_does_not_change_the_route() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            assert (await gateway.exchange(post(target=b"/v1/chat/completions?api-version=1"))).status == 200
            assert (await gateway.exchange(get(b"/v1/models?limit=1"))).status == 200

    run(main)


def test_an_upgrade_that_is_offered_is_not_taken() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            for upgrade in (b"websocket", b"h2c"):
                client.send(get(b"/healthz", b"Connection: Upgrade", b"Upgrade: " + upgrade))
                seen = await client.answer()
                assert seen.status == 200
            client = await gateway.client()
            client.send(post(CHAT, b"Connection: Upgrade", b"Upgrade: h2c") + get(b"/healthz"))
            assert (await client.answer()).body == answered()

    run(main)


def test_white_space_around_values_is_no_part_of_them() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            length = b"Content-Length:\t  %d \t" % len(CHAT)
            assert (await gateway.exchange(request(b"/v1/chat/completions", length, body=CHAT))).status == 200
            coding = b"Transfer-Encoding:chunked "
            assert (await gateway.exchange(request(b"/v1/chat/completions", coding, body=chunked(CHAT)))).status == 200

    run(main)


def test_an_empty_line_before_a_request_is_ignored() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            for _ in range(2):
                client.send(b"\r\n" + post())
                assert (await client.answer()).status == 200

    run(main)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (get(b"/nowhere"), 404, "unknown_url"),
        (get(b"/v1/completions"), 405, "method_not_allowed"),
        (request(b"/v1/files", method=b"PUT"), 405, "method_not_allowed"),
        (request(b"/v1/files", method=b"GET", secret="sk-nobody"), 401, "invalid_api_key"),
        (request(b"/v1/models", method=b"DELETE"), 405, "method_not_allowed"),
        (request(b"/healthz", b"Content-Length: 0"), 405, "method_not_allowed"),
        (get(b"/v1/models/nope%20%ff%00"), 404, "model_not_found"),
        (post(CHAT, secret="sk-nobody"), 401, "invalid_api_key"),
        (post().replace(b"Authorization: Bearer ", b"X-Key: "), 401, "missing_api_key"),
        (post().replace(b"Bearer ", b"Basic "), 401, "missing_api_key"),
        (post().replace(b"application/json", b"text/plain"), 415, "unsupported_media_type"),
        (post().replace(b"Content-Type: application/json\r\n", b""), 415, "unsupported_media_type"),
        (post(CHAT, b"Content-Encoding: gzip"), 415, "unsupported_media_type"),
        (request(b"/v1/chat/completions"), 400, "invalid_request"),
        (post(b"{}"), 400, "invalid_request"),
        (post(b'{"model":"small","messages":' + b"[" * 65 + b"]" * 65 + b"}"), 400, "invalid_request"),
    ],
)
def test_what_is_wrong_with_a_request_does_not_cost_the_connection(data: bytes, status: int, code: str) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            client.send(data)
            seen = await client.answer()
            assert (seen.status, seen.json["error"]["code"]) == (status, code)
            assert set(seen.json["error"]) == {"message", "type", "param", "code"}
            if status == 405:
                assert seen.headers["allow"]
            if status == 401:
                assert seen.headers["www-authenticate"].startswith("Bearer")
                assert "x-request-id" not in seen.headers
            client.send(post())
            assert (await client.answer()).status == 200
            assert len(gateway.engine.asked) == 1

    run(main)


def test_bearer_is_read_in_any_case_and_the_type_with_its_parameters() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            odd = (
                post()
                .replace(b"Bearer ", b"bearer   ")
                .replace(b"application/json", b"Application/JSON; charset=utf-8")
            )
            assert (await gateway.exchange(odd)).status == 200

    run(main)


def test_refusals_before_anybody_is_known_are_counted_by_their_reason() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            await gateway.exchange(post(secret="sk-nobody"))
            await gateway.exchange(post(secret="sk-nobody").replace(b"application/json", b"text/plain"))
            await gateway.exchange(b"nonsense\r\n\r\n")
            await gateway.exchange(post(CHAT, b"Content-Length: 9"))
            gateway.journal.tick()
            await gateway.until(gateway.disk.refusals)
            assert gateway.disk.refusals() == {"invalid_api_key": 2, "invalid_request": 2}
            assert not gateway.disk.completions(), "and leave no entry"
            samples = gateway.metrics.samples()["daulat_refusals_total"]
            assert samples == {'reason="invalid_api_key"': 2, 'reason="invalid_request"': 2}

    run(main)


WHOLLY_READ = (
    (post().replace(b"application/json", b"text/plain"), 415, "unsupported_media_type"),
    (post(CHAT, b"Content-Encoding: gzip"), 415, "unsupported_media_type"),
    (post().replace(b"Content-Type: application/json\r\n", b""), 415, "unsupported_media_type"),
)
NOT_READ = (
    (request(TARGET, b"Content-Length: 100001"), 413, "body_too_large"),
    (request(TARGET, CODING, body=chunked(bytes(60_000), bytes(60_000))), 413, "body_too_large"),
    (request(TARGET, CODING, body=b"2;" + b"x" * 70_000), 431, "headers_too_large"),
    (request(TARGET, CODING, body=b"nonsense"), 400, "invalid_request"),
    (request(TARGET, CODING, body=b"2\r\nab"), 408, "request_timeout"),
    (request(TARGET, b"Content-Length: 70000", body=b"ab"), 408, "request_timeout"),
    (request(TARGET, b"Content-Length: 9", body=b"ab"), 408, "request_timeout"),
)


async def _refused(gateway: Gateway, data: bytes, status: int) -> Seen:
    client = await gateway.client()
    client.send(data)
    await gateway.until(lambda: gateway.got(client) >= len(data) or status != 408)
    if status == 408:
        gateway.sweep(gateway.limits.body_seconds + 1)
    return await client.answer()


@pytest.mark.parametrize(("data", "status", "code"), [*WHOLLY_READ, *NOT_READ])
def test_who_is_known_has_an_entry_of_what_the_wire_refused(data: bytes, status: int, code: str) -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(body_bytes=100_000)) as gateway:
            seen = await _refused(gateway, data, status)
            assert (seen.status, seen.json["error"]["code"]) == (status, code)
            assert parse_header(seen.headers["daulat-promise"]).request_id == seen.headers["x-request-id"]
            (completion,) = gateway.disk.completions()
            assert (completion["status"], completion["outcome"], completion["error"]) == (status, "failed", code)
            gateway.journal.tick()
            assert not gateway.disk.refusals()
            assert not gateway.metrics.samples()["daulat_refusals_total"]
            assert not gateway.engine.asked

    run(main)


@pytest.mark.parametrize(("data", "status", "code"), [case for case in NOT_READ if case[1] == 408][2:])
def test_who_is_not_known_is_counted_and_told_the_same(data: bytes, status: int, code: str) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            seen = await _refused(gateway, data.replace(b"Bearer sk-", b"Bearer sx-"), status)
            assert (seen.status, seen.json["error"]["code"]) == (status, code)
            assert "x-request-id" not in seen.headers
            assert not gateway.disk.completions()
            assert gateway.metrics.samples()["daulat_refusals_total"] == {f'reason="{code}"': 1}

    run(main)


def test_a_worker_that_drains_answers_what_it_has_begun_and_closes() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            gateway.disk.gate.clear()
            idle, busy = await gateway.client(), await gateway.client()
            idle.send(get(b"/healthz"))
            await idle.answer()
            busy.send(post())
            await gateway.until(lambda: gateway.engine.asked)
            gateway.server.drain()
            assert await idle.closed() == b""
            gateway.disk.gate.set()
            seen = await busy.answer()
            assert (seen.status, seen.headers["connection"]) == (200, "close")
            assert await busy.closed() == b""

    run(main)


def test_pages_that_do_not_run_are_said_to_be_missing() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for target in (b"/metrics", b"/log/checkpoint", b"/v1/receipts/req_0"):
                seen = await gateway.exchange(get(target))
                assert seen.status == 503
                assert json.loads(seen.body)["error"]["type"] == "service_unavailable_error"

    run(main)

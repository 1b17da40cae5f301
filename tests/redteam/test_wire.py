"""What attackers do to HTTP itself, through a real worker to the real pages and the real control half behind it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from tests.redteam.test_admin import everything
from tests.support.town import Town
from tests.support.wire import Gateway, Seen

SECRET = "first-operator"
THEIRS = "tenant-admin-of-other-agency"
TENANTS = b"/admin/v1/tenants"


class Siege:
    """A town behind a worker's gateway."""

    def __init__(self, town: Town, gateway: Gateway) -> None:
        self.town, self.gateway = town, gateway

    async def raw(self, data: bytes) -> Seen:
        return await self.gateway.exchange(data)

    async def ask(self, line: bytes, *lines: bytes, body: bytes = b"", who: str = "") -> Seen:
        """A request of exactly these lines, behind Host; as somebody where `who` names them."""
        head = [line + b" HTTP/1.1", b"Host: test", *lines]
        if who:
            head.append(b"Authorization: Bearer " + self.town.secrets[who].encode())
        if body:
            head += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
        return await self.raw(b"\r\n".join(head) + b"\r\n\r\n" + body)


@asynccontextmanager
async def besieged(folder: Path) -> AsyncIterator[Siege]:
    async with Gateway() as gateway, Town(folder, approvals=2) as town:
        config = uvicorn.Config(town.app, uds=str(gateway.folder / "pages"), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        while not server.started:  # noqa: ASYNC110  a few times, at the start
            await asyncio.sleep(0.01)
        try:
            yield Siege(town, gateway)
        finally:
            server.should_exit = True
            await serving


def within(tmp_path: Path, use: Callable[[Siege], Awaitable[None]]) -> None:
    async def main() -> None:
        async with besieged(tmp_path / "home") as siege:
            before, known = everything(siege.town), len(siege.town.log)
            await use(siege)
            assert everything(siege.town) == before
            assert {entry["type"] for entry in siege.town.log[known:]} <= {"access.refused/v1"}

    asyncio.run(main())


def test_a_good_request_comes_through_and_one_without_a_credential_does_not(tmp_path: Path) -> None:
    async def use(siege: Siege) -> None:
        seen = await siege.ask(b"GET " + TENANTS, who=SECRET)
        assert (seen.status, len(seen.json["data"])) == (200, 3)
        assert "server" not in seen.headers
        assert not [name for name in seen.headers if name.startswith("access-control")]
        seen = await siege.ask(b"GET /admin/v1/me")
        assert (seen.status, seen.json["error"]["code"]) == (401, "missing_api_key")

    within(tmp_path, use)


def odd_credentials(secret: bytes) -> list[tuple[bytes, list[bytes]]]:
    """The good secret, where it does not belong: target and header lines."""
    basic = base64.b64encode(b"admin:" + secret)
    return [
        (TENANTS + b"?api_key=" + secret, []),
        (TENANTS + b"?access_token=" + secret, []),
        (TENANTS + b"?Authorization=Bearer%20" + secret, []),
        (TENANTS, [b"Cookie: session=" + secret]),
        (TENANTS, [b"Cookie: Authorization=Bearer " + secret]),
        (TENANTS, [b"x-api-key: " + secret]),
        (TENANTS, [b"X-API-Key: " + secret, b"Authorization: Bearer " + secret]),
        (TENANTS, [b"Authorization: Basic " + basic]),
        (TENANTS, [b"Authorization: Token " + secret]),
        (TENANTS, [b"Authorization: " + secret]),
        (TENANTS, [b"Authorization: Bearer"]),
        (TENANTS, [b"Authorization: Bearer " + secret + b"x"]),
        (TENANTS, [b"Authorization: Bearer " + secret[:-1]]),
        (TENANTS, [b"Authorization: Bearer " + secret.upper()]),
        (TENANTS, [b"Authorization: Bearer " + secret + b" " + secret]),
        (TENANTS, [b"Authorization: Bearer sk-" + secret[3:]]),
        (TENANTS, [b"Proxy-Authorization: Bearer " + secret]),
        (TENANTS, [b"X-Forwarded-User: first-operator", b"X-Remote-User: first-operator"]),
        (TENANTS, [b"X-Forwarded-For: 127.0.0.1", b"X-Daulat-Person: first-operator"]),
    ]


def test_a_credential_in_an_odd_place_is_none(tmp_path: Path) -> None:
    async def use(siege: Siege) -> None:
        for target, lines in odd_credentials(siege.town.secrets[SECRET].encode()):
            seen = await siege.ask(b"GET " + target, *lines)
            assert seen.status == 401, (target, lines)
            assert siege.town.secrets[SECRET].encode() not in seen.body
        good = b"Authorization: Bearer " + siege.town.secrets[SECRET].encode()
        assert (await siege.ask(b"GET " + TENANTS, good, good)).status == 400, "two"

    within(tmp_path, use)


TRICKS = [
    b"//admin/v1/%b", b"/admin//v1/%b", b"/admin/v1//%b", b"/admin/v1/%b/", b"/admin/v1/./%b", b"/admin/v1/x/../%b",
    b"/admin/v1/%%2e%%2e/v1/%b", b"/%%61dmin/v1/%b", b"/admin%%2fv1/%b", b"/admin/v1%%2f%b", b"/ADMIN/v1/%b",
    b"/admin/V1/%b", b"/admin/v1/%b.", b"/admin/v1/%b%%00", b"/admin/v1/%b%%0d%%0aX:%%20y", b"/admin/v1/%b;x=y",
    b"/admin;/v1/%b", b"/admin/v1/%b%%20", b"/admin/v1/%b.json", b"/log/../admin/v1/%b", b"/log/%%2e%%2e/admin/v1/%b",
    b"/log/..%%2fadmin/v1/%b", b"/log/tile/../../admin/v1/%b", b"/v1/receipts/../../admin/v1/%b",
    b"/metrics/../admin/v1/%b", b"/metrics/%%2e%%2e/admin/v1/%b", b"/admin/v1/openapi.json/../%b",
    b"/admin/v1/%%252e%%252e/v1/%b", b"/admin\\v1\\%b", b"/./admin/v1/%b", b"http://test/../admin/v1/%b",
]  # fmt: skip


def test_no_other_spelling_of_an_address_leads_further(tmp_path: Path) -> None:
    """Whoever may ask the address itself gets nothing else by another spelling; whoever may not, nothing at all."""

    async def use(siege: Siege) -> None:
        ids = siege.town.ids
        paths = (b"status", b"people/" + ids["user-of-first-agency"].encode(), b"keys")
        for trick, path, method in itertools.product(TRICKS, paths, (b"GET", b"DELETE")):
            line = b"%b %b" % (method, trick % path)
            siege.town.clock.pass_seconds(1)
            seen = await siege.ask(line, who=THEIRS)
            assert "location" not in seen.headers
            if seen.status == 200:
                assert (path, method) == (b"keys", b"GET"), line
                assert ids["key-of-user-of-first-agency"] not in seen.body.decode()
            else:
                assert seen.status in {400, 403, 404, 405}, (line, seen.status)
            assert (await siege.ask(line)).status in {400, 401, 404, 405}, line

    within(tmp_path, use)


def test_a_method_is_what_it_says_and_nothing_overrides_it(tmp_path: Path) -> None:
    async def use(siege: Siege) -> None:
        key = siege.town.ids["key-of-user-of-first-agency"].encode()
        for name in (b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override"):
            seen = await siege.ask(b"GET /admin/v1/keys/" + key, name + b": DELETE", who=SECRET)
            assert (seen.status, seen.json["revoked"]) == (200, None)
        assert (await siege.ask(b"GET /admin/v1/keys/" + key + b"?_method=DELETE", who=SECRET)).status == 400
        for method, path, status in (
            (b"POST", b"/admin/v1/keys/" + key, 405),
            (b"PUT", b"/admin/v1/people", 405),
            (b"PATCH", b"/admin/v1/keys", 405),
            (b"DELETE", b"/admin/v1/keys", 405),
            (b"DELETE", b"/admin/v1/openapi.json", 405),
            (b"POST", b"/log/checkpoint", 405),
            (b"DELETE", b"/v1/receipts/req_" + b"0" * 32, 405),
            (b"POST", b"/metrics", 405),
            (b"TRACE", TENANTS, 501),
            (b"CONNECT", TENANTS, 501),
            (b"PROPFIND", TENANTS, 501),
            (b"delete", b"/admin/v1/keys/" + key, 400),
        ):
            seen = await siege.ask(method + b" " + path, who=SECRET)
            assert seen.status == status, (method, path, seen.status)
            if status == 405:
                assert seen.headers["allow"]
                assert seen.json["error"]["code"] == "method_not_allowed"
        seen = await siege.ask(
            b"OPTIONS " + TENANTS, b"Origin: https://evil.example", b"Access-Control-Request-Method: POST"
        )
        assert (seen.status, seen.body) == (200, b"")
        assert not [name for name in seen.headers if name.startswith("access-control")]

    within(tmp_path, use)


NEW = json.dumps({"name": "smuggled"}).encode()
GOOD = b"Content-Type: application/json"


AMBIGUOUS = [
    [GOOD, b"Content-Length: %d" % len(NEW), b"Transfer-Encoding: chunked"],
    [GOOD, b"Content-Length: %d" % len(NEW), b"Content-Length: 0"],
    [GOOD, b"Content-Length: +%d" % len(NEW)],
    [GOOD, b"Content-Length: %d, %d" % (len(NEW), len(NEW))],
    [GOOD, b"Content-Length : %d" % len(NEW)],
    [GOOD, b"Transfer-Encoding: identity, chunked"],
    [GOOD, b"Transfer-Encoding: chunked"],
    [GOOD, b"Content-Length: %d" % len(NEW), b"If-Match: x\nAuthorization: Bearer y"],
    [GOOD, b"Content-Length: %d" % len(NEW), b"Idempotency-Key: x\x00y"],
    [GOOD, b"Content-Length: %d" % len(NEW), b"Idempotency-Key: x\r y"],
    [GOOD, b"Content-Length: %d" % len(NEW), b"Idempotency-Key: a", b"Idempotency-Key: b"],
    [GOOD, b"Content-Length: %d" % len(NEW), b"If-Match: a", b"If-Match: b"],
    [GOOD, b"Content-Length: %d" % len(NEW), b"Content-Encoding: gzip"],
    [b"Content-Type: text/plain", b"Content-Length: %d" % len(NEW)],
    [b"Content-Type: application/x-www-form-urlencoded", b"Content-Length: %d" % len(NEW)],
    [b"Content-Length: %d" % len(NEW)],
    [GOOD, b"Content-Length: 65537"],
]


def test_a_request_that_two_readers_could_read_differently_is_none(tmp_path: Path) -> None:
    async def use(siege: Siege) -> None:
        credential = b"Authorization: Bearer " + siege.town.secrets[SECRET].encode()
        for lines in AMBIGUOUS:
            head = b"\r\n".join([b"POST " + TENANTS + b" HTTP/1.1", b"Host: test", credential, *lines])
            seen = await siege.raw(head + b"\r\n\r\n" + NEW)
            assert seen.status in {400, 413, 415, 501}, (lines, seen)

    within(tmp_path, use)


def test_what_follows_a_body_is_another_request_with_its_own_credential(tmp_path: Path) -> None:
    async def use(siege: Siege) -> None:
        inner = b"DELETE /admin/v1/people/%b HTTP/1.1\r\nHost: test\r\n\r\n" % siege.town.ids["bina"].encode()
        client = await siege.gateway.client()
        credential = b"Authorization: Bearer " + siege.town.secrets[SECRET].encode()
        client.send(b"GET " + TENANTS + b" HTTP/1.1\r\nHost: test\r\n" + credential + b"\r\n\r\n" + inner)
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 401
        client.close()
        long = b"Content-Length: %d" % len(inner)
        head = b"\r\n".join([b"GET " + TENANTS + b" HTTP/1.1", b"Host: test", credential, GOOD, long])
        seen = await siege.raw(head + b"\r\n\r\n" + inner)
        assert seen.status == 400, "a body where none belongs, and no second request"

    within(tmp_path, use)


ODD = [
    b"{",
    b"\xff\xfe",
    b'{"name": "x", "name": 1}',
    b"[" * 60_000,
    b'{"name": ' + b"[" * 30_000,
    b'{"name": "\\ud800"}',
    b'{"name": NaN}',
    b"null",
    b'{"name": "' + b"x" * 101 + b'"}',
    b'{"name": "a\\u0000b"}',
    b'{"name": "a\\u202eb"}',
    b'{"name": 1e400}',
]


def test_no_body_is_too_odd_to_be_refused(tmp_path: Path) -> None:
    async def use(siege: Siege) -> None:
        for body in ODD:
            seen = await siege.ask(b"POST " + TENANTS, who=SECRET, body=body)
            assert (seen.status, seen.json["error"]["type"]) == (400, "invalid_request_error"), (body[:40], seen.body)

    within(tmp_path, use)

"""What RFC 9112 forbids, and what two servers could read differently: refused, closed, and nothing of it reaches an
engine."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.wire import CHAT, Gateway, chunked, get, post, request, run

from daulat.core.snapshot import Limits

CODING = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: %d" % len(CHAT)
TARGET = b"/v1/chat/completions"


def headed(*lines: bytes, body: bytes = CHAT) -> bytes:
    return request(TARGET, *lines, body=body)


SHAPES = {
    "two lengths that differ": headed(LENGTH, b"Content-Length: 3"),
    "two lengths that agree": headed(LENGTH, LENGTH),
    "a list of lengths": headed(b"Content-Length: %d, %d" % (len(CHAT), len(CHAT))),
    "length and coding": headed(LENGTH, CODING, body=chunked(CHAT)),
    "coding and length": headed(CODING, LENGTH, body=chunked(CHAT)),
    "two codings": headed(CODING, CODING, body=chunked(CHAT)),
    "chunked, then gzip": headed(b"Transfer-Encoding: chunked, gzip", body=chunked(CHAT)),
    "gzip, then chunked": headed(b"Transfer-Encoding: gzip, chunked", body=chunked(CHAT)),
    "chunked twice": headed(b"Transfer-Encoding: chunked, chunked", body=chunked(CHAT)),
    "identity": headed(b"Transfer-Encoding: identity", LENGTH),
    "identity alone": headed(b"Transfer-Encoding: identity"),
    "a coding like chunked": headed(b"Transfer-Encoding: xchunked", body=chunked(CHAT)),
    "a quoted coding": headed(b'Transfer-Encoding: "chunked"', body=chunked(CHAT)),
    "a coding with a parameter": headed(b"Transfer-Encoding: chunked;q=1", body=chunked(CHAT)),
    "a coding behind a comma": headed(b"Transfer-Encoding: ,chunked", body=chunked(CHAT)),
    "an empty coding": headed(b"Transfer-Encoding:", LENGTH),
    "a coding behind a vertical tab": headed(b"Transfer-Encoding: \x0bchunked", body=chunked(CHAT)),
    "a coding with a space before its colon": headed(b"Transfer-Encoding : chunked", body=chunked(CHAT)),
    "a coding with a tab before its colon": headed(b"Transfer-Encoding\t: chunked", body=chunked(CHAT)),
    "a folded coding": headed(b"Transfer-Encoding:\r\n chunked", body=chunked(CHAT)),
    "a coding behind a bare LF": headed(b"X: y\nTransfer-Encoding: chunked", LENGTH),
    "a coding behind a bare CR": headed(b"X: y\rTransfer-Encoding: chunked", LENGTH),
    "a coding in HTTP/1.0": request(TARGET, CODING, body=chunked(CHAT), version=b"1.0"),
    "a negative length": headed(b"Content-Length: -1"),
    "a length with a plus": headed(b"Content-Length: +%d" % len(CHAT)),
    "a length in hex": headed(b"Content-Length: 0x10"),
    "a length with a fraction": headed(b"Content-Length: 1.0"),
    "a length with an exponent": headed(b"Content-Length: 1e1"),
    "a length of two words": headed(b"Content-Length: 6 1"),
    "a length with an underscore": headed(b"Content-Length: 6_1"),
    "an empty length": headed(b"Content-Length:"),
    "a length in other digits": headed("Content-Length: \u0661\u0662".encode()),
    "a length beyond 64 bits": headed(b"Content-Length: 18446744073709551617"),
    "a length with a space before its colon": headed(b"Content-Length : 3", LENGTH),
    "a length with NUL": headed(b"Content-Length: 6\x001"),
    "a folded header": headed(LENGTH, b"X-Long: one\r\n two"),
    "a fold before the first header": post().replace(b"Host: test", b" Host: test"),
    "a bare LF behind the request line": post().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
    "bare LFs everywhere": post().replace(b"\r\n", b"\n"),
    "a bare CR in a value": headed(LENGTH, b"X: a\rb"),
    "NUL in a value": headed(LENGTH, b"X: a\0b"),
    "NUL in a name": headed(LENGTH, b"X\0: a"),
    "a control character in a value": headed(LENGTH, b"X: a\x1bb"),
    "a header without a colon": headed(LENGTH, b"nonsense"),
    "a header without a name": headed(LENGTH, b": x"),
    "a space in a name": headed(LENGTH, b"X Y: z"),
    "a name beyond ASCII": headed(LENGTH, "\u00e9: x".encode()),
    "two hosts": headed(LENGTH, b"Host: other"),
    "no host": post().replace(b"Host: test\r\n", b""),
    "a host with a space": post().replace(b"Host: test", b"Host: a b"),
    "a host beyond ASCII": post().replace(b"Host: test", b"Host: a\x80"),
    "a host with a user": post().replace(b"Host: test", b"Host: user@test"),
    "a host with a path": post().replace(b"Host: test", b"Host: test/x"),
    "a host with a query": post().replace(b"Host: test", b"Host: test?x"),
    "a host with a word for a port": post().replace(b"Host: test", b"Host: test:http"),
    "a host with two ports": post().replace(b"Host: test", b"Host: test:1:2"),
    "a host with half a bracket": post().replace(b"Host: test", b"Host: [::1"),
    "a host with half an escape": post().replace(b"Host: test", b"Host: te%2"),
    "a host in HTTP/1.0 with a space": b"GET /healthz HTTP/1.0\r\nHost: a b\r\n\r\n",
    "two authorizations": headed(LENGTH, b"Authorization: Bearer other"),
    "two types": headed(LENGTH, b"Content-Type: application/json"),
    "two spaces in the request line": post().replace(b"POST /", b"POST  /"),
    "a space behind the version": post().replace(b"HTTP/1.1\r\n", b"HTTP/1.1 \r\n", 1),
    "a tab in the request line": post().replace(b"POST /", b"POST\t/"),
    "a space in the target": post(target=b"/v1/chat/completions x"),
    "a control character in the target": post(target=b"/v1/chat\x01/completions"),
    "a target beyond ASCII": post(target="/v1/ch\u00e4t/completions".encode()),
    "a target without a slash": post(target=b"v1/chat/completions"),
    "a target with a user": get(b"http://user@test/healthz"),
    "a target without an authority": get(b"http:///healthz"),
    "a target of another scheme": get(b"ftp://test/healthz"),
    "a star where it has no place": get(b"*"),
    "a method in lower case": post().replace(b"POST", b"post"),
    "a method that nobody knows": post().replace(b"POST", b"BREW"),
    "a method that is not for us": post().replace(b"POST", b"PROPFIND"),
    "a tunnel": request(b"test:443", method=b"CONNECT"),
    "a trace": request(b"/", method=b"TRACE"),
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/1.2": post().replace(b"HTTP/1.1", b"HTTP/1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 as a version": post().replace(b"HTTP/1.1", b"HTTP/2.0"),
    "another protocol's name": post().replace(b"HTTP/1.1", b"HTPP/1.1"),
    "the version in lower case": post().replace(b"HTTP/1.1", b"http/1.1"),
    "a TLS hello": bytes.fromhex("1603010200010001fc0303") + bytes(40) + b"\r\n\r\n",
    "an upgrade with a chunked body": headed(CODING, b"Connection: upgrade", b"Upgrade: x", body=chunked(CHAT)),
    "an unknown expectation": headed(LENGTH, b"Expect: 200-ok"),
    "a chunk's size in a wrong base": headed(CODING, body=b"0x3d\r\n" + CHAT + b"\r\n0\r\n\r\n"),
    "a negative chunk": headed(CODING, body=b"-3\r\n" + CHAT + b"\r\n0\r\n\r\n"),
    "a chunk's size with a space": headed(CODING, body=b"3d \r\n" + CHAT + b"\r\n0\r\n\r\n"),
    "a chunk's size beyond 64 bits": headed(CODING, body=b"1000000000000003d\r\n" + CHAT + b"\r\n0\r\n\r\n"),
    "a chunk behind a bare LF": headed(CODING, body=b"3d\n" + CHAT + b"\r\n0\r\n\r\n"),
    "a chunk longer than it says": headed(CODING, body=b"3c\r\n" + CHAT + b"\r\n0\r\n\r\n"),
    "a chunk's extension with a bare LF": headed(CODING, body=b"3d;x\ny\r\n" + CHAT + b"\r\n0\r\n\r\n"),
    "no size of a chunk": headed(CODING, body=b"\r\n" + CHAT + b"\r\n0\r\n\r\n"),
    "a length in the trailers": headed(CODING, body=chunked(CHAT, trailers=b"Content-Length: 3\r\n")),
    "a trailer behind a bare LF": headed(CODING, body=chunked(CHAT, trailers=b"A: b\nC: d\r\n")),
    "a trailer with a space": headed(CODING, body=chunked(CHAT, trailers=b"A : b\r\n")),
}
FOLLOWER = b"POST /v1/chat/completions HTTP/1.1\r\nHost: smuggled\r\nX-Smuggled: 1\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_refused_the_connection_closed_and_no_engine_asked(shape: str) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            client.send(SHAPES[shape] + FOLLOWER)
            seen = await client.answer()
            assert 400 <= seen.status < 506, seen
            assert seen.status not in {500, 502, 503, 504}
            assert seen.headers["connection"] == "close"
            assert set(seen.json["error"]) == {"message", "type", "param", "code"}
            assert await client.closed() == b"", "one answer, then the end"
            assert not gateway.engine.asked
            assert not gateway.handled, "nothing came as far as a handler"
            await gateway.healthy()

    run(main)


@pytest.mark.parametrize(
    ("shape", "status"),
    [
        ("an unknown expectation", 417),
        ("a method that is not for us", 501),
        ("gzip, then chunked", 501),
        ("length and coding", 400),
        ("a coding in HTTP/1.0", 400),
        ("HTTP/0.9", 505),
        ("HTTP/2 as a version", 505),
        ("two lengths that differ", 400),
    ],
)
def test_a_refusal_has_its_status(shape: str, status: int) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            assert (await gateway.exchange(SHAPES[shape])).status == status

    run(main)


@pytest.mark.parametrize("whole", [True, False])
def test_a_header_that_is_too_large_is_refused_as_soon_as_it_is(whole: bool) -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(header_bytes=4096)) as gateway:
            for flood in (b"X: " + b"y" * 5000, b"\r\n".join(b"X-%d: y" % number for number in range(1000))):
                data = headed(LENGTH, flood)
                seen = await gateway.exchange(data if whole else data.partition(b"\r\n\r\n")[0])
                assert (seen.status, seen.json["error"]["code"]) == (431, "headers_too_large")
            fits = headed(LENGTH, b"X: " + b"y" * 3000)
            assert (await gateway.exchange(fits)).status == 200

    run(main)


def test_a_target_that_is_too_long_is_refused() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            assert (await gateway.exchange(get(b"/" + b"x" * 2048))).status == 414
            assert (await gateway.exchange(get(b"/" + b"x" * 2047))).status == 404

    run(main)


@pytest.mark.parametrize(
    "part", [b"1;" + b"x" * 100_000, b"0\r\n" + b"X: y\r\n" * 20_000, b"0\r\nX: " + b"y" * 100_000]
)
def test_extensions_and_trailers_without_end_are_refused(part: bytes) -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(header_bytes=4096)) as gateway:
            client = await gateway.client()
            client.send(headed(CODING, body=part))
            seen = await client.answer()
            assert seen.status == 431
            assert await client.closed() == b""

    run(main)


def test_what_is_cut_off_in_the_middle_is_no_request() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            for data in (post(), headed(CODING, body=chunked(CHAT))):
                for at in range(1, len(data), 13):
                    client = await gateway.client()
                    client.send(data[:at])
                    client.writer.write_eof()
                    assert await client.closed() == b"", "who has left gets no answer"
            assert not gateway.handled
            await gateway.healthy()

    run(main)


# Time.


def test_a_header_that_does_not_come_in_time_is_refused_however_it_drips() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(header_seconds=10.0)) as gateway:
            client = await gateway.client()
            for byte in post()[:40]:
                client.send(bytes([byte]))
                await asyncio.sleep(0.001)
            gateway.sweep(9.0)
            assert gateway.server.connections
            gateway.sweep(11.0)
            seen = await client.answer()
            assert (seen.status, seen.json["error"]["code"]) == (408, "request_timeout")
            assert await client.closed() == b""

    run(main)


@pytest.mark.parametrize("framing", [b"Content-Length: 100", CODING])
def test_a_body_that_does_not_come_in_time_is_refused(framing: bytes) -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(header_seconds=10.0, body_seconds=30.0)) as gateway:
            client = await gateway.client()
            client.send(request(TARGET, framing, body=b"5\r\nhel"))
            await gateway.until(lambda: [item for item in gateway.server.connections if item._state == "body"])
            gateway.sweep(29.0)
            assert [item for item in gateway.server.connections if item._state == "body"]
            gateway.sweep(31.0)
            assert (await client.answer()).status == 408
            assert not gateway.handled

    run(main)


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(header_seconds=10.0, idle_seconds=75.0)) as gateway:
            fresh, used = await gateway.client(), await gateway.client()
            used.send(get(b"/healthz"))
            await used.answer()
            await gateway.until(lambda: len(gateway.server.connections) == 2)
            gateway.sweep(11.0)
            assert await fresh.closed() == b"", "who has asked nothing yet has the time of a header"
            assert len(gateway.server.connections) == 1
            gateway.sweep(76.0)
            assert await used.closed() == b""

    run(main)


def test_who_keeps_sending_after_a_refusal_is_listened_to_for_a_moment_only() -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            client = await gateway.client()
            client.send(b"nonsense\r\n\r\n")
            assert (await client.answer()).status == 400
            assert await client.closed() == b""
            client.send(post() * 10)
            await asyncio.sleep(0.01)
            assert len(gateway.server.connections) == 1
            gateway.sweep(3.0)
            await gateway.until(lambda: not gateway.server.connections)
            assert not gateway.handled

    run(main)


def test_more_connections_than_there_may_be_are_told_so() -> None:
    async def main() -> None:
        async with Gateway(limits=Limits(connections=3)) as gateway:
            kept = [await gateway.client() for _ in range(3)]
            for client in kept:
                client.send(get(b"/healthz"))
                assert (await client.answer()).status == 200
            over = await gateway.client()
            seen = await over.answer()
            assert (seen.status, seen.json["error"]["code"]) == (503, "too_many_connections")
            assert seen.headers["retry-after"]
            assert await over.closed() == b""
            kept[0].close()
            over.close()
            await gateway.until(lambda: len(gateway.server.connections) == 2)
            assert (await gateway.exchange(get(b"/healthz"))).status == 200

    run(main)

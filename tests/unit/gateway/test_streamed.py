"""Large files through a worker's gateway to the vault behind it: passed on as they come, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from tests.support.wire import Gateway, chunked, get, request, run
from tests.support.worlds import SECRET
from tests.unit.gateway.test_kept import MOST, PEOPLE, Site

from daulat.gateway import files
from daulat.processes import behind

SIZE = 20_000_000
CONTENT = hashlib.shake_256(b"large").digest(SIZE)
TYPE = "invalid_request_error"
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
TAIL = b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setitem(PEOPLE, SECRET, PEOPLE["sk-ali"])
    return Site()


@contextlib.asynccontextmanager
async def standing(site: Site) -> AsyncIterator[Gateway]:
    """A gateway, and behind it the vault's HTTP side as it is served."""
    async with Gateway() as gateway:
        server, serving = await behind.serve(site.application, gateway.folder / "vault")
        try:
            yield gateway
        finally:
            server.should_exit = True
            await serving


def form(*lines: bytes, **more: Any) -> bytes:
    asked = request(b"/v1/files", *lines, **more)
    return asked.replace(b"application/json", b"multipart/form-data; boundary=b", 1)


def upload(body: bytes, framing: str = "length") -> bytes:
    if framing == "chunks":
        parts = (body[start : start + 700_000] for start in range(0, len(body), 700_000))
        return form(b"Transfer-Encoding: chunked", body=chunked(*parts))
    return form(b"Content-Length: %d" % len(body), body=body)


def begun(length: int = len(HEAD) + SIZE + len(TAIL)) -> bytes:
    return form(b"Content-Length: %d" % length)


async def emptied(gateway: Gateway, site: Site) -> None:
    """Nobody is uploading anything any more, and nothing is left of it."""
    await gateway.until(lambda: not site.kept.objects._coming)
    assert not site.kept.place.objects
    assert not site.kept.index.rows


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_file_larger_than_other_bodies_may_be_passes_both_ways(site: Site, framing: str) -> None:
    async def main() -> None:
        async with standing(site) as gateway:
            client = await gateway.client()
            client.send(upload(HEAD + CONTENT + TAIL, framing))
            made = await client.answer()
            assert (made.status, made.json["bytes"], made.headers["connection"]) == (200, SIZE, "close")
            assert await client.closed() == b""
            seen = await gateway.exchange(get(b"/v1/files/" + made.json["id"].encode() + b"/content"))
            assert seen.body == CONTENT

    run(main)


def test_a_vault_that_is_slow_slows_the_client_and_fills_no_memory(site: Site) -> None:
    going, put = threading.Event(), site.kept.place.put

    def slow(name: str, data: Iterable[bytes]) -> int:
        def pieces() -> Any:
            for piece in data:
                going.wait(30)
                yield piece

        return put(name, pieces())

    site.kept.place.put = slow  # type: ignore[method-assign]

    async def main() -> None:
        async with standing(site) as gateway:
            client = await gateway.client()
            client.send(upload(HEAD + CONTENT + TAIL))
            await gateway.until(lambda: [each for each in gateway.server.connections if not each._reading])
            await asyncio.sleep(0.2)
            assert 0 < gateway.got(client) < 2_000_000
            gateway.sweep(1000)  # it is not the client who is slow
            going.set()
            assert (await client.answer()).json["bytes"] == SIZE

    run(main)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_that_leaves_in_the_middle_leaves_nothing(site: Site, framing: str) -> None:
    async def main() -> None:
        async with standing(site) as gateway:
            client = await gateway.client()
            client.send(upload(HEAD + CONTENT + TAIL, framing)[: SIZE // 2])
            await gateway.until(lambda: site.kept.objects._coming.total() > SIZE // 4)
            client.abort()
            await emptied(gateway, site)
            assert (await gateway.exchange(upload(HEAD + b"x" * 100_000 + TAIL))).status == 200

    run(main)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_too_large_a_file_is_refused_with_its_limit(site: Site, framing: str) -> None:
    async def main() -> None:
        async with standing(site) as gateway:
            for size in (MOST + 1, MOST + 500_000):
                client = await gateway.client()
                client.send(upload(HEAD + bytes(size) + TAIL, framing))
                seen = await client.answer()
                assert (seen.status, seen.json["error"]["code"]) == (413, "body_too_large")
                assert f"at most {MOST} bytes" in seen.json["error"]["message"]
                await emptied(gateway, site)
            assert (await gateway.exchange(upload(HEAD + bytes(MOST) + TAIL, framing))).status == 200

    run(main)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (HEAD + CONTENT, "ends too early"),
        (HEAD + CONTENT + TAIL[:-6], "ends too early"),
        (HEAD + CONTENT + b"\r\n--b--\r\n", "'purpose' is one of"),
        (TAIL[2:-6] + b"\r\n" + b"x" * 100_000, "longer than 4096 bytes"),
        (HEAD + CONTENT + b"\r\n" + HEAD + b"more" + TAIL, "more than one 'file'"),
    ],
)
def test_forms_that_go_wrong_behind_the_file_leave_nothing(site: Site, body: bytes, said: str) -> None:
    async def main() -> None:
        async with standing(site) as gateway:
            for framing in ("length", "chunks"):
                client = await gateway.client()
                client.send(upload(body, framing))
                seen = await client.answer()
                assert (seen.status, seen.json["error"]["type"]) == (400, "invalid_request_error")
                assert said in seen.json["error"]["message"]
                await emptied(gateway, site)

    run(main)


def test_who_may_not_is_told_so_before_the_body_was_sent(site: Site) -> None:
    site.refused = True

    async def main() -> None:
        async with standing(site) as gateway:
            for secret, status in ((SECRET, 403), ("sk-nobody", 401)):
                client = await gateway.client()
                length = b"Content-Length: %d" % SIZE
                client.send(form(length, secret=secret))
                assert (await client.answer()).status == status
            client = await gateway.client()
            client.send(begun() + HEAD + CONTENT[:1_000_000])
            assert (await client.answer()).status == 403
            await emptied(gateway, site)

    run(main)


def test_who_may_no_longer_in_the_middle_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_ASK_SECONDS", 0.0)

    async def main() -> None:
        async with standing(site) as gateway:
            client = await gateway.client()
            client.send(begun() + HEAD + CONTENT[: SIZE // 2])
            await gateway.until(lambda: site.kept.objects._coming.total() > SIZE // 4)
            site.refused = True
            client.send(CONTENT[SIZE // 2 :] + TAIL)
            seen = await client.answer()
            assert (seen.status, seen.json["error"]["type"]) == (403, "permission_error")
            await emptied(gateway, site)

    run(main)


def test_a_chunk_that_is_none_is_refused_in_the_middle(site: Site) -> None:
    async def main() -> None:
        async with standing(site) as gateway:
            for wrong in (b"zz\r\n", b"5;" + b"x" * 400_000, b"-1\r\n", b"0" * 40 + b"9" * 40 + b"\r\n"):
                client = await gateway.client()
                sent = chunked(HEAD, CONTENT[:1_000_000], CONTENT[:1_000_000]).removesuffix(b"0\r\n\r\n")
                client.send(form(b"Transfer-Encoding: chunked", body=sent))
                await gateway.until(lambda: site.kept.objects._coming.total() > 1_000_000)
                client.send(wrong)
                seen = await client.answer()
                assert (seen.status, seen.json["error"]["type"]) in {(400, TYPE), (431, TYPE)}, seen
                await emptied(gateway, site)

    run(main)


def test_a_client_that_sends_no_more_is_cut_and_told(site: Site) -> None:
    async def main() -> None:
        async with standing(site) as gateway:
            client = await gateway.client()
            client.send(begun() + HEAD + CONTENT[:100_000])
            await gateway.until(lambda: site.kept.objects._coming.total() > 50_000)
            gateway.sweep(25)
            gateway.sweep(1000)
            seen = await client.answer()
            assert (seen.status, seen.json["error"]["code"]) == (408, "request_timeout")
            await emptied(gateway, site)

    run(main)


def test_a_vault_that_goes_away_in_the_middle_is_a_503(site: Site) -> None:
    async def main() -> None:
        async with Gateway() as gateway:
            reached = asyncio.Event()

            async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readexactly(1_000_000)
                reached.set()
                writer.transport.abort()

            server = await asyncio.start_unix_server(dies, gateway.folder / "vault")
            client = await gateway.client()
            client.send(upload(HEAD + CONTENT + TAIL))
            assert (await client.answer()).status == 503
            assert reached.is_set()
            server.close()
            (gateway.folder / "vault").unlink(missing_ok=True)
            client = await gateway.client()
            client.send(upload(HEAD + CONTENT + TAIL))
            assert (await client.answer()).status == 503

    run(main)


def test_so_many_uploads_at_once_and_no_more_of_one_person(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_TURN_SECONDS", 0.3)
    monkeypatch.setitem(PEOPLE, SECRET, PEOPLE["sk-ali"])

    async def main() -> None:
        async with standing(site) as gateway:
            clients = [await gateway.client() for _ in range(files._AT_ONCE_OF_ONE)]
            for client in clients:
                client.send(begun() + HEAD + CONTENT[:100_000])
            await gateway.until(lambda: site.kept.objects._coming.total() >= 4 * 65_536)
            seen = await gateway.exchange(upload(HEAD + CONTENT[:100_000] + TAIL))
            assert (seen.status, "at once" in seen.json["error"]["message"]) == (503, True)
            for client in clients[1:]:
                client.abort()
            clients[0].send(CONTENT[100_000:] + TAIL)
            assert (await clients[0].answer()).json["bytes"] == SIZE
            assert (await gateway.exchange(upload(HEAD + CONTENT[:100_000] + TAIL))).status == 200

    run(main)

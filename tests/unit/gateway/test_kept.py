"""Files and stored completions through the real `openai` package, for two tenants at one vault."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from tests.unit.vault.test_objects import Kept

from daulat.errors import DaulatError, PermissionDenied, Unauthenticated, Unavailable
from daulat.gateway import stored as stored_pages
from daulat.gateway.files import Files
from daulat.gateway.stored import Completions
from daulat.processes.callers import failed, missing
from daulat.vault.objects import Whose

MOST = 32 << 20  # bytes of a file
PEOPLE = {"sk-ali": Whose("t1", "ali"), "sk-bala": Whose("t1", "bala"), "sk-chong": Whose("t2", "chong")}


class Site:
    """The vault's HTTP side, over memory."""

    def __init__(self) -> None:
        self.kept, self.closed, self.refused = Kept(most_bytes=64 << 20), "", False
        self.broken: list[str] = []
        files = Files(self.objects, self.reads, self.keeps, lambda _, error: self.broken.append(error.message), MOST)
        completions = Completions(self.objects, self.reads, self.keeps)
        handlers: dict[Any, Any] = {DaulatError: failed, 404: missing}
        routes = [*files.routes(), *completions.routes()]
        self.application = Starlette(routes=routes, exception_handlers=handlers)

    def objects(self) -> Any:
        if self.closed:
            raise Unavailable(self.closed, code="vault_unavailable")
        return self.kept.objects

    def reads(self, request: Request) -> Whose:
        whose = PEOPLE.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if whose is None:
            raise Unauthenticated("nobody")
        return whose

    def keeps(self, request: Request) -> Whose:
        if self.refused:
            raise PermissionDenied("Refused by use.citizenship: the charter says so.")
        return self.reads(request)

    def http(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.application, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://kept")

    def client(self, key: str) -> AsyncOpenAI:
        return AsyncOpenAI(api_key=key, base_url="http://kept/v1", http_client=self.http(), max_retries=0)


@pytest.fixture
def site() -> Site:
    return Site()


def answered(site: Site, whose: Whose, number: int, **request: Any) -> str:
    asked = {"model": "m", "store": True, "messages": [{"role": "user", "content": f"question {number}"}], **request}
    choice = {"index": 0, "message": {"role": "assistant", "content": f"answer {number}"}, "finish_reason": "stop"}
    answer = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": number, "model": asked["model"]}
    sent = json.dumps({**answer, "choices": [choice]}).encode()
    return stored_pages.keep(site.kept.objects, whose, json.dumps(asked).encode(), sent, stream=False)


def run(coroutine: Any) -> Any:
    import asyncio  # noqa: PLC0415

    return asyncio.run(coroutine)


def test_a_file_comes_back_byte_for_byte(site: Site) -> None:
    async def go() -> None:
        client = site.client("sk-ali")
        content = bytes(range(256)) * 9_000  # 2.3 MB, with whatever a boundary could be mistaken for
        made = await client.files.create(file=("data/../pay\n.jsonl", content), purpose="user_data")
        assert (made.object, made.bytes, made.purpose, made.status) == ("file", len(content), "user_data", "processed")
        assert "/" not in made.filename
        assert made.filename.endswith(".jsonl")
        assert made.expires_at is None
        assert (await client.files.retrieve(made.id)) == made
        assert (await client.files.content(made.id)).content == content
        assert [file.id async for file in client.files.list()] == [made.id]
        assert (await client.files.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made.id)
        assert not site.kept.place.objects

    run(go())


def test_purposes_expiry_and_lists(site: Site) -> None:
    async def go() -> None:
        client = site.client("sk-ali")
        now = site.kept.clock.now // 1000
        batch = await client.files.create(file=b"{}", purpose="batch")
        assert batch.expires_at == now + 30 * 86_400
        soon = await client.files.create(
            file=b"x", purpose="vision", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert soon.expires_at == now + 3600
        last = await client.files.create(file=b"", purpose="user_data")
        assert last.bytes == 0
        assert (await client.files.content(last.id)).content == b""
        assert [file.id async for file in client.files.list(order="asc", limit=1)] == [batch.id, soon.id, last.id]
        assert [file.id async for file in client.files.list(purpose="vision")] == [soon.id]
        page = await client.files.list(limit=1, order="asc")
        assert page.has_more
        for wrong in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "file-nobody"}):
            with pytest.raises(openai.BadRequestError):
                await client.files.list(**wrong)  # type: ignore[arg-type]
        for purpose, expires in (("spying", None), ("vision", 10), ("vision", 99_999_999)):
            after = {} if expires is None else {"expires_after": {"anchor": "created_at", "seconds": expires}}
            with pytest.raises(openai.BadRequestError):
                await client.files.create(file=b"x", purpose=purpose, **after)  # type: ignore[arg-type,call-overload]
        assert len(site.kept.place.objects) == 3

    run(go())


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"garbage"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf'),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'),
        ("multipart/form-data; boundary=x", b"--x\r\nH: " + b"h" * 20_000 + b"\r\n\r\n1\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n1\r\n' * 2 + b"--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"p" * 5_000 + b"\r\n--x--\r\n",
        ),
    ],
)
def test_forms_that_are_none_are_refused_and_leave_nothing(site: Site, kind: str, body: bytes) -> None:
    async def go() -> None:
        headers = {"authorization": "Bearer sk-ali", "content-type": kind}
        answer = await site.http().post("/v1/files", content=body, headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"

    run(go())
    assert not site.kept.place.objects


def test_a_changed_file_is_never_given_out_as_whole(site: Site) -> None:
    async def go() -> None:
        client = site.client("sk-ali")
        made = await client.files.create(file=b"x" * 200_000, purpose="user_data")
        (name,) = site.kept.place.objects
        whole = site.kept.place.objects[name]
        for changed in (whole[:-5], whole[:100_000], whole[:150_000] + b"!" + whole[150_001:]):
            site.kept.place.objects[name] = changed
            got = b""
            try:
                got = (await client.files.content(made.id)).content
            except (openai.APIError, httpx.HTTPError):
                continue
            assert len(got) < 200_000
        assert len(site.broken) == 3
        other = await client.files.create(file=b"y" * 200_000, purpose="user_data")
        (second,) = set(site.kept.place.objects) - {name}
        site.kept.place.objects[second] = whole
        with pytest.raises(openai.InternalServerError, match="put in the place of another"):
            await client.files.content(other.id)

    run(go())


def test_stored_completions_are_listed_changed_and_deleted(site: Site) -> None:
    ids = [answered(site, PEOPLE["sk-ali"], number, metadata={"odd": str(number % 2)}) for number in range(5)]

    async def go() -> None:
        completions = site.client("sk-ali").chat.completions
        assert [one.id async for one in completions.list(limit=2)] == ids
        assert [one.id async for one in completions.list(order="desc", limit=3)] == ids[::-1]
        assert [one.id async for one in completions.list(metadata={"odd": "1"})] == [ids[1], ids[3]]
        assert [one.id async for one in completions.list(model="another")] == []
        one = await completions.retrieve(ids[2])
        assert one.choices[0].message.content == "answer 2"
        changed = await completions.update(ids[2], metadata={"seen": "yes"})
        assert changed.metadata == {"seen": "yes"}  # type: ignore[attr-defined]
        assert (await completions.retrieve(ids[2])).metadata == {"seen": "yes"}  # type: ignore[attr-defined]
        messages = [message async for message in completions.messages.list(ids[2])]
        assert [(message.role, message.content) for message in messages] == [("user", "question 2")]
        assert (await completions.delete(ids[2])).deleted
        with pytest.raises(openai.NotFoundError):
            await completions.retrieve(ids[2])
        with pytest.raises(openai.BadRequestError, match="metadata"):
            await completions.update(ids[1], metadata={"a": "b" * 600})

    run(go())


def every_call(client: AsyncOpenAI, file: str, completion: str) -> Iterator[Any]:
    yield client.files.retrieve(file)
    yield client.files.content(file)
    yield client.files.delete(file)
    yield client.chat.completions.retrieve(completion)
    yield client.chat.completions.update(completion, metadata={})
    yield client.chat.completions.delete(completion)

    async def messages() -> None:
        _ = [message async for message in client.chat.completions.messages.list(completion)]

    yield messages()


def test_no_id_of_one_tenant_or_person_is_there_for_another(site: Site) -> None:
    completion = answered(site, PEOPLE["sk-ali"], 1)

    async def go() -> None:
        made = await site.client("sk-ali").files.create(file=b"secret", purpose="user_data")
        for key in ("sk-chong", "sk-bala"):
            theirs = every_call(site.client(key), made.id, completion)
            nobodys = every_call(site.client(key), made.id.replace(made.id[-6:], "000000"), "chatcmpl-0")
            for one, other in zip(theirs, nobodys, strict=True):
                said = []
                for call in (one, other):
                    with pytest.raises(openai.NotFoundError) as refused:
                        await call
                    said.append(refused.value.code)
                assert said[0] == said[1]
            assert [file.id async for file in site.client(key).files.list()] == []
            assert [one.id async for one in site.client(key).chat.completions.list()] == []
            with pytest.raises(openai.BadRequestError):
                await site.client(key).files.list(after=made.id)
        assert (await site.client("sk-ali").files.content(made.id)).content == b"secret"
        assert (await site.client("sk-ali").chat.completions.retrieve(completion)).id == completion

    run(go())


def test_two_people_may_have_completions_of_one_id(site: Site) -> None:
    for key in ("sk-ali", "sk-chong"):
        answered(site, PEOPLE[key], 7, metadata={"whose": key})

    async def go() -> None:
        for key in ("sk-ali", "sk-chong"):
            found = await site.client(key).chat.completions.retrieve("chatcmpl-7")
            assert found.metadata == {"whose": key}  # type: ignore[attr-defined]

    run(go())


def test_strangers_refused_people_and_a_closed_vault(site: Site) -> None:
    answered(site, PEOPLE["sk-ali"], 1)

    async def go() -> None:
        with pytest.raises(openai.AuthenticationError):
            await site.client("sk-nobody").files.list()
        site.refused = True
        with pytest.raises(openai.PermissionDeniedError, match="citizenship"):
            await site.client("sk-ali").files.create(file=b"x", purpose="user_data")
        assert (await site.client("sk-ali").chat.completions.retrieve("chatcmpl-1")).id == "chatcmpl-1"
        assert (await site.client("sk-ali").chat.completions.delete("chatcmpl-1")).deleted
        site.closed = "the root is sealed"
        with pytest.raises(openai.InternalServerError, match="the root is sealed"):
            await site.client("sk-ali").files.list()

    run(go())


async def _pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_form_that_comes_in_pieces_is_the_same_form(site: Site, size: int) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\none\r\n--not\r\n-two\r\n'
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'
    )

    async def go() -> None:
        headers = {"authorization": "Bearer sk-ali", "content-type": "multipart/form-data; boundary=b"}
        answer = await site.http().post("/v1/files", content=_pieces(body, size), headers=headers)
        assert answer.status_code == 200, answer.text
        content = await site.client("sk-ali").files.content(answer.json()["id"])
        assert content.content == b"one\r\n--not\r\n-two"

    run(go())

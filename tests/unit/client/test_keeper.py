"""The keeper beneath the `openai` package: exact bytes, the promise, the receipt; over transports that go nowhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.support.logs import EPOCH_KEY, SIGNER, VERIFIER, Published, request_id, write

from daulat.audit import receipt as receipts
from daulat.client import Keeper, keeper
from daulat.core import commitments
from daulat.errors import InvalidRequest, NotFound, Unauthenticated, Unavailable, VerificationFailed

ANSWER = json.dumps(
    {
        "id": "x", "object": "chat.completion", "created": 1, "model": "tiny",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Kuala Lumpur"}, "finish_reason": "stop"}],
    }
).encode()  # fmt: skip
CHUNK = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[{"index":0,"delta":{"content":"Kuala"}}]}\n\n'  # noqa: E501
CHUNKS = [CHUNK, CHUNK[:50], CHUNK[50:] + b"data: [DO", b"NE]\n\n"]
ID = request_id(1)
MESSAGES: list[Any] = [{"role": "user", "content": "Capital of Malaysia?"}]


@dataclass
class Served:
    """A service that answers everything with what the test gives it, and logs what it got."""

    library: Any
    answer: list[bytes]
    late: int = 1  # how many times the receipt is not there yet
    changes: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    receipt_status: int = 200
    log: Published | None = None
    requests: list[Any] = field(default_factory=list)

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        if request.url.path == f"/v1/receipts/{ID}":
            return self._receipt()
        return self._answer(request.read())

    async def asynchronously(self, request: Any) -> Any:
        await request.aread()
        return self(request)

    def _answer(self, body: bytes) -> Any:
        def seal(kind: commitments.Kind, data: bytes) -> str:
            return commitments.commit(commitments.salt(EPOCH_KEY, ID, kind), kind, data)

        sealed = {
            "admission.request": seal("request", body),
            "completion.response": seal("response", b"".join(self.answer)),
        }
        self.log = write({"answer": {**sealed, **self.changes}})
        headers = {
            "content-type": "application/json" if self.answer == [ANSWER] else "text/event-stream",
            "x-request-id": ID,
            "daulat-receipt": f"/v1/receipts/{ID}",
            "daulat-promise": self.log.promise("denied", of="answer").header(),
            **self.headers,
        }
        headers = {name: value for name, value in headers.items() if value}
        return self.library.Response(200, headers=headers, stream=_stream(self.library, self.answer))

    def _receipt(self) -> Any:
        self.late -= 1
        if self.late >= 0:
            return self.library.Response(404, json={"error": {"code": "receipt_pending"}})
        assert self.log is not None
        return self.library.Response(self.receipt_status, json=self.log.receipt("answer"))


def _stream(library: Any, all_parts: list[bytes]) -> Any:
    """A body that, like one from a socket, can be read once."""
    parts = iter(all_parts)

    class Both(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield from parts

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        def close(self) -> None: ...

        async def aclose(self) -> None: ...

    return Both()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits; the seconds they would have are kept."""
    waited: list[float] = []
    monkeypatch.setattr(keeper.time, "sleep", waited.append)
    real = asyncio.sleep
    monkeypatch.setattr(keeper.asyncio, "sleep", lambda seconds: (waited.append(seconds), real(0))[1])
    return waited


def client(kept: Keeper, service: Served) -> OpenAI:
    transport = kept.transport(httpx2.MockTransport(service))
    return OpenAI(
        base_url="http://daulat.test/v1", api_key="sk-x", max_retries=0, http_client=httpx2.Client(transport=transport)
    )


def test_an_answer_is_kept_to_the_byte_and_its_receipt_verifies(waits: list[float]) -> None:
    kept, service = Keeper(SIGNER.vkey), Served(httpx2, [ANSWER])
    with client(kept, service) as api:
        answer = api.chat.completions.create(model="tiny", messages=MESSAGES)
    assert answer.choices[0].message.content == "Kuala Lumpur"
    exchange = kept.exchanges[ID]
    assert (exchange.request, bytes(exchange.response)) == (service.requests[0].content, ANSWER)
    verdict = kept.verify(str(answer._request_id))
    assert (verdict.request_id, verdict.effect, verdict.outcome) == (ID, "allow", "ok")
    assert sum("byte for byte" in words for words in verdict.proven) == 2
    assert any("promised" in words for words in verdict.proven)
    assert waits == [0.3]
    assert {request.headers["authorization"] for request in service.requests} == {"Bearer sk-x"}
    assert kept.promises() == [exchange.promise]


def test_a_stream_is_kept_to_the_byte_though_the_package_stops_at_its_last_event() -> None:
    kept, service = Keeper(SIGNER.vkey), Served(httpx2, CHUNKS)
    with client(kept, service) as api:
        stream = api.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        with pytest.raises(VerificationFailed, match="not read to its end"):
            kept.verify(ID)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "KualaKuala"
    assert bytes(kept.exchanges[ID].response) == b"".join(CHUNKS)
    assert kept.verify(ID).outcome == "ok"


@pytest.mark.parametrize("streaming", [True, False])
def test_the_same_asynchronously(streaming: bool, waits: list[float]) -> None:
    kept, service = Keeper(SIGNER.vkey), Served(httpx2, CHUNKS if streaming else [ANSWER], late=2)

    async def go() -> receipts.Verdict:
        transport = kept.async_transport(httpx2.MockTransport(service.asynchronously))
        inner = httpx2.AsyncClient(transport=transport)
        async with AsyncOpenAI(base_url="http://daulat.test/v1", api_key="sk-x", http_client=inner) as api:
            if streaming:
                stream = await api.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
                assert [chunk.choices[0].delta.content async for chunk in stream] == ["Kuala", "Kuala"]
            else:
                await api.chat.completions.create(model="tiny", messages=MESSAGES)
        with pytest.raises(InvalidRequest, match="verify_async"):
            kept.verify(ID)
        return await kept.verify_async(ID)

    assert asyncio.run(go()).request_id == ID
    assert [seconds for seconds in waits if seconds] == [0.3, 0.3]


def test_plain_httpx_works_as_well() -> None:
    kept, service = Keeper(SIGNER.vkey), Served(httpx, [ANSWER])
    with httpx.Client(transport=kept.transport(httpx.MockTransport(service)), base_url="http://daulat.test") as plain:
        assert plain.post("/v1/chat/completions", json={"a": "é"}).content == ANSWER
    assert kept.exchanges[ID].request == '{"a":"é"}'.encode()
    assert kept.verify(ID).request_id == ID


def broken(service: Served) -> VerificationFailed:
    """What verifying says of an answer with something wrong."""
    kept = Keeper(SIGNER.vkey)
    with client(kept, service) as api:
        api.chat.completions.create(model="tiny", messages=MESSAGES)
    with pytest.raises(VerificationFailed) as caught:
        kept.verify(ID)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"admission.request": "A" * 43 + "="}, r"step 7 \(bodies\).*request"),
        ({"completion.response": "A" * 43 + "="}, r"step 7 \(bodies\).*response"),
        ({"admission.attributes.citizenship": "XX"}, r"step 6 \(chain\)"),
        ({"admission.lease": None}, r"step 6 \(chain\)"),
    ],
)
def test_an_entry_that_lies_about_the_answer_is_caught(changes: dict[str, Any], step: str) -> None:
    error = broken(Served(httpx2, [ANSWER], changes=changes))
    assert receipts.re.search(step, error.message), error.message


def test_an_entry_that_is_not_the_promised_one_is_caught() -> None:
    other = write({"answer": {"admission.snapshot": 4}})
    error = broken(Served(httpx2, [ANSWER], headers={"daulat-promise": other.promise(of="answer").header()}))
    assert "step 8 (promise)" in error.message
    assert "rewritten" in error.message


def test_an_answer_without_a_promise_is_caught() -> None:
    assert "without a promise" in broken(Served(httpx2, [ANSWER], headers={"daulat-promise": ""})).message


def test_another_logs_key_opens_nothing() -> None:
    kept = Keeper(VERIFIER.renamed("ai.other/2026").vkey)
    with client(kept, Served(httpx2, [ANSWER])) as api:
        api.chat.completions.create(model="tiny", messages=MESSAGES)
    with pytest.raises(VerificationFailed, match="step 2"):
        kept.verify(ID)


def test_what_cannot_be_fetched_is_said_plainly(waits: list[float]) -> None:
    kept = Keeper(SIGNER.vkey)
    for service, error, words, patience in (
        (Served(httpx2, [ANSWER], late=1000), NotFound, "no receipt", -1.0),
        (Served(httpx2, [ANSWER], receipt_status=401), Unauthenticated, "key is not accepted", 10.0),
        (Served(httpx2, [ANSWER], receipt_status=403), Unauthenticated, "may not read it now", 10.0),
    ):
        with client(kept, service) as api:
            api.chat.completions.create(model="tiny", messages=MESSAGES)
        with pytest.raises(error, match=words):
            kept.verify(ID, patience)

    def gone(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    kept.exchanges[ID].transport.inner = httpx2.MockTransport(gone)
    with pytest.raises(Unavailable, match="refused"):
        kept.verify(ID)
    with pytest.raises(NotFound, match="no exchange"):
        kept.verify(request_id(2))


def test_only_so_much_is_kept_and_only_what_has_a_receipt() -> None:
    def answer(body: bytes) -> Callable[[httpx.Request], httpx.Response]:
        def handler(request: httpx.Request) -> httpx.Response:
            name = request.url.path.rpartition("/")[2]
            headers = {"x-request-id": name, "daulat-receipt": f"/r/{name}"} if name != "none" else {}
            return httpx.Response(200, headers=headers, stream=_stream(httpx, [body]))

        return handler

    for keep, names, held in (
        (Keeper(SIGNER.vkey, keep=2), "abc", ["b", "c"]),
        (Keeper(SIGNER.vkey, keep_bytes=250), "abcd", ["b", "c", "d"]),  # 100 bytes each; the last is not read yet
    ):
        with httpx.Client(transport=keep.transport(httpx.MockTransport(answer(b"x" * 100)))) as plain:
            for name in [*names, "none"]:
                plain.get(f"http://daulat.test/{name}")
        assert list(keep.exchanges) == held


def test_secrets_do_not_show() -> None:
    kept, service = Keeper(SIGNER.vkey), Served(httpx2, [ANSWER])
    with client(kept, service) as api:
        api.chat.completions.create(model="tiny", messages=MESSAGES)
    assert "sk-x" not in repr(kept.exchanges[ID])

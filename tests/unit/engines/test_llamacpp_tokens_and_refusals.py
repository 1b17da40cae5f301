"""llama.cpp counts tokens as vLLM is asked to, and says of an input that is too long that it is too long."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.engines.dialect import EngineRequest, Prepared
from daulat.engines.llamacpp.dialect import LlamaCpp
from daulat.engines.llamacpp.refusals import explain
from daulat.engines.llamacpp.slots import Partition
from daulat.errors import EngineRequestFailed, InvalidRequest
from daulat.pipeline.body import peek

MESSAGES = [{"role": "user", "content": "hi"}]


def prepared(action: str, status: int = 200, answer: bytes = b'{"prompt":"<user>hi"}', **fields: Any) -> Prepared:
    """With no slot free: counting must not wait for one."""
    body = json.dumps({"model": "m", **fields}).encode()
    request = EngineRequest(action, f"/{action}", body, stream=False, fields=peek(body, action, 64).members)
    asked: list[tuple[str, str, Any]] = []

    async def fetch(method: str, path: str, sent: bytes) -> tuple[int, bytes]:
        asked.append((method, path, json.loads(sent)))
        return status, answer

    async def go() -> Prepared:
        places = Partition(1)
        places.take(0)
        made = await LlamaCpp(fetch, places, 1).prepare(request)
        assert asked == (
            [("POST", "/apply-template", {key: fields[key] for key in ("messages", "tools") if key in fields})]
            if action == "tokenize" and "messages" in fields
            else []
        )
        return made

    return asyncio.run(asyncio.wait_for(go(), 10))


def test_a_text_is_counted_as_it_stands() -> None:
    made = prepared("tokenize", prompt="hello", add_special_tokens=False)
    assert json.loads(made.body) == {"content": "hello", "add_special": False, "parse_special": True}
    assert made.rewriter is not None
    assert made.rewriter.hold(b'{"tokens":[1,') == b""
    made.rewriter.hold(b"2]}")
    assert json.loads(made.rewriter.finish()) == {"count": 2, "tokens": [1, 2]}
    made.release()


def test_messages_are_put_into_the_models_template_first() -> None:
    made = prepared("tokenize", messages=MESSAGES, tools=[{"type": "function"}])
    assert json.loads(made.body)["content"] == "<user>hi"


@pytest.mark.parametrize("action", ["messages.tokens", "responses.tokens"])
def test_the_engines_own_counting_goes_as_it_came(action: str) -> None:
    made = prepared(action, **{"messages.tokens": {"messages": MESSAGES}, "responses.tokens": {"input": "hi"}}[action])
    assert "id_slot" not in json.loads(made.body)
    made.release()


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (InvalidRequest, {"prompt": [1, 2]}),
        (InvalidRequest, {"messages": [], "status": 400, "answer": b'{"error":{"message":"no messages"}}'}),
        (EngineRequestFailed, {"messages": [], "status": 500, "answer": b"oh"}),
        (EngineRequestFailed, {"messages": [], "status": 503, "answer": b"[]"}),
    ],
)
def test_what_cannot_be_counted_is_said_so(error: type[Exception], fields: dict[str, Any]) -> None:
    with pytest.raises(error):
        prepared("tokenize", **fields)


@pytest.mark.parametrize(
    ("status", "message", "kind", "numbers"),
    [
        (500, "input (9000 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
         "server_error", ("9000", "512")),
        (400, "request (7530 tokens) exceeds the available context size (2048 tokens), try increasing it",
         "exceed_context_size_error", ("7530", "2048")),
        (400, "too long", "exceed_context_size_error", ()),
    ],
)  # fmt: skip
def test_too_long_is_said_as_openai_says_it(status: int, message: str, kind: str, numbers: tuple[str, ...]) -> None:
    body = json.dumps({"error": {"code": status, "message": message, "type": kind}}).encode()
    error = explain(status, body)
    assert isinstance(error, InvalidRequest)
    assert error.code == "context_length_exceeded"
    assert all(number in error.message for number in numbers)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error":"x"}', b'{"error":{"message":"out of memory"}}'])
def test_other_errors_pass_as_they_came(body: bytes) -> None:
    assert explain(500, body) is None


@settings(derandomize=True, deadline=None)
@given(st.binary() | st.text().map(lambda text: json.dumps({"error": {"message": text, "type": text}}).encode()))
def test_whatever_an_engine_says_is_no_defect_here(body: bytes) -> None:
    explain(500, body)

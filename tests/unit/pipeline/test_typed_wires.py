"""OpenAI's Responses and Anthropic's Messages: where their usage stands, which event is the last, and their errors."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.request_path import JSON, Path

from daulat.errors import EngineDead, EngineRequestFailed
from daulat.pipeline.typed import TypedStream, of_answer
from daulat.pipeline.usage import Usage


def event(type_: str, **members: Any) -> bytes:
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **members})}\n\n".encode()


MESSAGE = [
    event("message_start", message={"content": [], "usage": {"input_tokens": 4, "cache_read_input_tokens": 36}}),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": 'a "message_stop", "usage": 3 \n\n'}),
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5}),
    event("message_stop"),
]
RESPONSE = [
    event("response.created", response={"status": "in_progress", "usage": None}),
    event("response.output_text.delta", delta="response.completed"),
    event(
        "response.completed",
        response={
            "status": "completed",
            "usage": {"input_tokens": 40, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 36}},
        },
    ),
]


def body(action: str, **fields: Any) -> bytes:
    asked = {"messages": [{"role": "user", "content": "hi"}]} if action == "messages" else {"input": "hi"}
    return json.dumps({"model": "small", "max_tokens": 9, **asked, **fields}).encode()


STREAMS = [pytest.param("messages", MESSAGE, id="messages"), pytest.param("responses", RESPONSE, id="responses")]


@pytest.mark.parametrize(("action", "events"), STREAMS)
def test_a_stream_passes_as_it_is_its_last_event_held_until_the_log_has_it(action: str, events: list[bytes]) -> None:
    path = Path()
    sent = body(action, stream=True)
    _, client = path.ask(sent, action)
    assert (path.call.request.path, path.call.request.body) == (f"/v1/{action}", sent), "nothing is added to the body"
    path.call.begin()
    path.journal.commit()
    for part in events:
        path.call.say(part)
    path.call.say(b"data: [DONE]\n\n")
    path.call.end()
    assert client.body == b"".join(events[:-1])
    path.journal.commit()
    assert client.body == b"".join(events)
    assert client.whole
    completion = path.journal.one("completion")
    assert completion["usage"] == {"prompt_tokens": 40, "cached_tokens": 36, "completion_tokens": 5}
    assert completion["outcome"] == "ok"
    assert path.journal.one("admission")["action"] == action
    assert path.at_rest()


@pytest.mark.parametrize(("action", "events"), STREAMS)
@pytest.mark.parametrize("seed", range(8))
def test_chunk_boundaries_change_nothing(action: str, events: list[bytes], seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  boundaries, no secrets
    data, stream = b"".join(events), TypedStream()
    passed = b""
    while data and stream.final is None:
        size = rng.randint(1, 40)
        passed += stream.feed(data[:size])
        data = data[size:]
    assert passed == b"".join(events[:-1])
    assert stream.final == events[-1]
    assert stream.usage == Usage(40, 36, 5)


@pytest.mark.parametrize(("action", "events"), STREAMS)
def test_a_stream_that_breaks_ends_with_an_error_event_of_its_wire(action: str, events: list[bytes]) -> None:
    path = Path()
    _, client = path.ask(body(action, stream=True), action)
    path.call.begin()
    path.journal.commit()
    for part in events[:3] if action == "messages" else events[:2]:
        path.call.say(part)
    path.call.fail(EngineDead("gone"))
    path.journal.commit()
    name, data = client.body.decode().split("\n\n")[-2].split("\n") if action == "responses" else last(client.body)
    assert name == "event: error"
    said = json.loads(data.removeprefix("data: "))
    assert said["error"]["message"] == "gone"
    if action == "messages":
        assert (said["type"], said["error"]["type"]) == ("error", "api_error")
    assert path.journal.one("completion")["outcome"] == "failed"


def last(data: bytes) -> list[str]:
    return data.decode().strip().split("\n")[-2:]


def test_whole_answers_are_counted() -> None:
    path = Path()
    _, client = path.ask(body("messages"), "messages")
    answer = {
        "content": [{"type": "text", "text": "hello"}],
        "usage": {
            "input_tokens": 1,
            "cache_read_input_tokens": 30,
            "cache_creation_input_tokens": 9,
            "output_tokens": 2,
        },
    }
    path.call.answer(json.dumps(answer).encode())
    path.journal.commit()
    assert json.loads(client.body) == answer
    counted = path.journal.one("completion")["usage"]
    assert counted == {"prompt_tokens": 40, "cached_tokens": 30, "completion_tokens": 2}
    stated = b'{"usage":{"input_tokens":40,"output_tokens":5,"input_tokens_details":{"cached_tokens":36}}}'
    assert of_answer(stated) == Usage(40, 36, 5)


def test_what_is_no_answer_is_said_to_be_none() -> None:
    assert of_answer(b'{"usage":{"input_tokens":"many"}}') is None
    for broken in (b"", b"[", b"[]", b'{"a":"\xff"}'):
        with pytest.raises(EngineRequestFailed):
            of_answer(broken)


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.binary(max_size=30) | st.sampled_from([b"data: {", b'"usage":', b'{"type":"message_stop"}', b"\n\n"]))
)
def test_whatever_an_engine_streams_is_no_defect_here(chunks: list[bytes]) -> None:
    stream = TypedStream()
    passed = b"".join(map(stream.feed, chunks))
    assert b"".join(chunks).startswith(passed)
    with contextlib.suppress(EngineRequestFailed):
        of_answer(b"".join(chunks))


def test_an_event_that_never_ends_is_an_error() -> None:
    with pytest.raises(ValueError, match="too large"):
        TypedStream().feed(b"data: " + b"x" * (9 * 1024 * 1024))


@pytest.mark.parametrize("action", ["messages", "messages.tokens"])
def test_refusals_of_messages_are_in_anthropics_envelope(action: str) -> None:
    path = Path()
    _, unknown = path.ask(json.dumps({"model": "no-such", "messages": []}).encode(), action)
    _, wrong = path.ask(json.dumps({"model": "small"}).encode(), action)
    path.journal.commit()
    found = [json.loads(client.body) for client in (unknown, wrong)]
    assert [said["type"] for said in found] == ["error", "error"]
    assert [said["error"]["type"] for said in found] == ["not_found_error", "invalid_request_error"]
    assert [unknown.status, wrong.status] == [404, 400]
    assert "messages" in found[1]["error"]["message"]


def test_an_engines_refusal_is_put_into_anthropics_envelope() -> None:
    path = Path()
    _, client = path.ask(body("messages"), "messages")
    path.call.answer(b'{"error":{"code":400,"message":"no max_tokens","type":"invalid_request_error"}}', 400, JSON)
    path.journal.commit()
    said = json.loads(client.body)
    assert client.status == 400
    assert (said["type"], said["error"]["message"]) == ("error", "no max_tokens")


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("messages.tokens", b'{"input_tokens":37}'),
        ("responses.tokens", b'{"input_tokens":37,"object":"response.input_tokens"}'),
        ("tokenize", b'{"count":2,"tokens":[1,2]}'),
    ],
)
def test_counting_is_a_request_like_any_other_and_uses_no_tokens(action: str, answer: bytes) -> None:
    path = Path()
    field = {"messages.tokens": "messages", "responses.tokens": "input", "tokenize": "prompt"}[action]
    _, client = path.ask(json.dumps({"model": "small", field: "hi", "stream": True}).encode(), action)
    path.call.answer(answer)
    path.journal.commit()
    assert (client.status, client.body) == (200, answer)
    assert path.journal.one("admission")["stream"] is False
    assert set(path.journal.one("completion")["usage"].values()) == {0}


def test_tokenize_takes_a_prompt_or_messages() -> None:
    path = Path()
    path.ask(b'{"model":"small","messages":[]}', "tokenize")
    assert path.call.request.path == "/tokenize"
    _, client = path.ask(b'{"model":"small"}', "tokenize")
    path.journal.commit()
    assert client.status == 400

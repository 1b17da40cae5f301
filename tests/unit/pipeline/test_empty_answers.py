"""Nobody is sent a 200 that says nothing; what is short for a reason is an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.request_path import DONE, Client, Path, chat, chunk, usage_chunk
from tests.support.worlds import replica

from daulat.core.snapshot import ReplicaRow
from daulat.pipeline import empty
from daulat.pipeline.actions import PATHS
from daulat.pipeline.empty import MOST_UNSAID, is_empty, speaks
from daulat.pipeline.usage import Usage


def answer(message: dict[str, Any] | None, reason: str | None = "stop", tokens: int | None = 0) -> bytes:
    choices = [] if message is None else [{"index": 0, "message": message, "finish_reason": reason}]
    usage = {} if tokens is None else {"usage": {"prompt_tokens": 5, "completion_tokens": tokens}}
    return json.dumps({"choices": choices, **usage}).encode()


EMPTY = {
    "no byte": ("chat.completions", b""),
    "no choice": ("chat.completions", answer(None, tokens=7)),
    "no choices": ("chat.completions", b'{"usage":{"completion_tokens":3}}'),
    "no content": ("chat.completions", answer({"role": "assistant", "content": ""})),
    "null content": ("chat.completions", answer({"role": "assistant", "content": None, "tool_calls": []})),
    "no usage either": ("chat.completions", answer({"content": ""}, tokens=None)),
    "no text": ("completions", b'{"choices":[{"text":"","finish_reason":"stop"}],"usage":{"completion_tokens":0}}'),
    "no embedding": ("embeddings", b'{"data":[],"usage":{"prompt_tokens":3}}'),
    "no block": ("messages", b'{"content":[],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":0}}'),
    "empty block": ("messages", b'{"content":[{"type":"text","text":""}],"stop_reason":"end_turn"}'),
    "no item": ("responses", b'{"status":"completed","output":[],"usage":{"input_tokens":3,"output_tokens":0}}'),
    "empty item": (
        "responses",
        b'{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":""}]}]}',
    ),
}
SHORT = {
    "stopped after one token": ("chat.completions", answer({"content": ""}, tokens=1)),
    "out of tokens": ("chat.completions", answer({"content": ""}, "length")),
    "filtered": ("chat.completions", answer({"content": None}, "content_filter")),
    "a tool call": ("chat.completions", answer({"content": None, "tool_calls": [{"id": "1"}]})),
    "reasoning only": ("chat.completions", answer({"content": None, "reasoning_content": "hm"}, tokens=None)),
    "reasoning, as vLLM says it": ("chat.completions", answer({"content": None, "reasoning": "hm"}, tokens=None)),
    "a tool use": ("messages", b'{"content":[{"type":"tool_use","name":"f"}],"stop_reason":"tool_use"}'),
    "thinking": ("messages", b'{"content":[{"type":"thinking","thinking":"hm"}],"stop_reason":"end_turn"}'),
    "max_tokens": ("messages", b'{"content":[],"stop_reason":"max_tokens","usage":{"output_tokens":0}}'),
    "a call": ("responses", b'{"status":"completed","output":[{"type":"function_call","name":"f"}]}'),
    "incomplete": ("responses", b'{"status":"incomplete","output":[]}'),
}


def ask(path: Path, action: str, **fields: Any) -> Client:
    body = {
        "chat.completions": chat(**fields),
        "completions": b'{"model":"small","prompt":"hi"}',
        "embeddings": b'{"model":"embedder","input":"hi"}',
        "messages": json.dumps({"model": "small", "messages": [], **fields}).encode(),
        "responses": json.dumps({"model": "small", "input": "hi", **fields}).encode(),
    }[action]
    return path.ask(body, action)[1]


@pytest.mark.parametrize(("action", "body"), EMPTY.values(), ids=EMPTY)
def test_an_empty_answer_is_an_error(action: str, body: bytes) -> None:
    path = Path()
    client = ask(path, action)
    path.call.answer(body)
    path.journal.commit()
    assert client.status == 502
    completion = path.journal.one("completion")
    assert completion["outcome"] == "failed"
    if body:
        assert completion["error"] == "empty_answer"
        assert [attempt["outcome"] for attempt in completion["attempts"]] == ["empty"]
    assert path.at_rest()


@pytest.mark.parametrize(("action", "body"), SHORT.values(), ids=SHORT)
def test_what_is_short_for_a_reason_is_an_answer(action: str, body: bytes) -> None:
    path = Path()
    client = ask(path, action)
    path.call.answer(body)
    path.journal.commit()
    assert (client.status, client.body) == (200, body)
    assert path.journal.one("completion")["outcome"] == "ok"


parts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["stop", "text", "end_turn"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "finish_reason",
                    "output",
                    "type",
                    "text",
                    "status",
                    "usage",
                    "stop_reason",
                    "delta",
                    "data",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.sampled_from(["choices", "output", "content", "usage", "stop_reason", "status"]), parts))
def test_whatever_an_engine_answers_is_judged_without_a_defect(answer_: dict[str, Any]) -> None:
    body = json.dumps(answer_).encode()
    for action in PATHS:
        for usage in (None, Usage(1, 0, 0), Usage(1, 0, 1)):
            assert is_empty(action, body, usage) in {True, False}


def test_an_answer_that_python_cannot_read_is_not_judged() -> None:
    assert not is_empty("chat.completions", b'{"choices":[],"x":"\n"}', None)


def two() -> tuple[ReplicaRow, ReplicaRow]:
    return replica(1), replica(2)


def test_another_replica_answers_instead_of_an_empty_one() -> None:
    path = Path(replicas=two())
    client = ask(path, "chat.completions")
    path.call.answer(answer({"content": ""}))
    path.journal.commit()
    assert client.status == 0
    assert len({call.replica.id for call in path.engines.calls}) == 2
    path.call.answer(answer({"content": "hello"}, tokens=2))
    path.journal.commit()
    assert client.status == 200
    assert [attempt["outcome"] for attempt in path.journal.one("completion")["attempts"]] == ["empty", "ok"]


STREAMS = {
    "chat.completions": [
        chunk("", role="assistant"),
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        usage_chunk(completion=0),
        DONE,
    ],
    "messages": [
        b'event: message_start\ndata: {"type":"message_start","message":{"content":[]}}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ],
    "responses": [
        b'event: response.created\ndata: {"type":"response.created","response":{"tools":[{"type":"function"}]}}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed","response":{"output":[]}}\n\n',
    ],
}


@pytest.mark.parametrize(("action", "events"), STREAMS.items(), ids=STREAMS)
def test_a_stream_in_which_nothing_is_said_is_tried_elsewhere(action: str, events: list[bytes]) -> None:
    path = Path(replicas=two())
    client = ask(path, action, stream=True)
    path.journal.commit()
    path.call.begin()
    for event in events:
        path.call.say(event)
    path.journal.commit()
    assert client.status == 0, "nothing was sent"
    assert len(path.engines.calls) == 2
    assert path.engines.calls[0].aborted
    path.call.begin()
    for event in events:
        path.call.say(event)
    path.journal.commit()
    assert client.status == 502
    completion = path.journal.one("completion")
    assert [attempt["outcome"] for attempt in completion["attempts"]] == ["empty", "empty"]
    assert completion["error"] == "empty_answer"
    assert path.at_rest()


def test_a_stream_begins_with_its_first_word_and_loses_nothing() -> None:
    path = Path()
    client = ask(path, "chat.completions", stream=True)
    path.journal.commit()
    path.call.begin()
    path.call.say(chunk("", role="assistant"))
    assert client.status == 0
    path.call.say(chunk("hello"))
    assert client.body == chunk("", role="assistant") + chunk("hello")


def test_a_stream_of_one_stop_token_is_an_answer() -> None:
    path = Path()
    client = ask(path, "chat.completions", stream=True)
    path.journal.commit()
    path.call.begin()
    for event in (*STREAMS["chat.completions"][:2], usage_chunk(completion=1), DONE):
        path.call.say(event)
    path.journal.commit()
    assert client.status == 200
    assert client.body.endswith(DONE)


def test_a_stream_kept_alive_by_comments_and_then_empty_ends_with_an_error_event() -> None:
    path = Path()
    client = ask(path, "chat.completions", stream=True)
    path.journal.commit()
    path.call.begin()
    path.call.say(b": still reading\n\n")
    assert client.body == b": still reading\n\n", "what keeps a connection alive is passed on"
    for event in STREAMS["chat.completions"]:
        path.call.say(event)
    path.journal.commit()
    assert json.loads(client.body.rpartition(b"data: ")[2])["error"]["code"] == "empty_answer"
    assert DONE not in client.body
    assert path.journal.one("completion")["outcome"] == "failed"


def test_what_is_not_understood_is_not_kept_back_for_ever() -> None:
    path = Path()
    client = ask(path, "chat.completions", stream=True)
    path.journal.commit()
    path.call.begin()
    strange = b'data: {"choices":[{"index":0,"delta":{"novel":"words"}}]}\n\n'
    for _ in range(MOST_UNSAID // len(strange) + 2):
        path.call.say(strange)
    assert client.status == 200


def test_a_long_silence_is_searched_once_and_a_word_brings_along_all_that_was_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched: list[int] = []

    def counting(events: bytes, before: int = 0) -> bool:
        searched.append(len(events))
        return speaks(events, before)

    monkeypatch.setattr(empty, "speaks", counting)
    path, silent = Path(), chunk("")
    client = ask(path, "chat.completions", stream=True)
    path.journal.commit()
    path.call.begin()
    for _ in range(100):
        path.call.say(silent[:20])
        path.call.say(silent[20:])
    assert client.status == 0
    assert sum(searched) == 100 * len(silent), "each byte once"
    path.call.say(chunk("hello"))
    assert client.body == silent * 100 + chunk("hello")


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_refusal_of_our_own_key_is_not_the_clients_and_is_not_quoted(status: int) -> None:
    path = Path()
    client = ask(path, "chat.completions")
    path.call.answer(b'{"error":{"message":"Incorrect API key provided: up-secret"}}', status)
    path.journal.commit()
    assert client.status == 502
    assert b"up-secret" not in client.body
    assert f"failed with status {status}" in client.error["message"]

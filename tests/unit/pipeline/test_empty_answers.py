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
    "what looks like a message where the pattern would begin": (
        "chat.completions",
        b'{"messa":{"content":"x"},"choices":[]}',
    ),
    "no content": ("chat.completions", answer({"role": "assistant", "content": ""})),
    "null content": ("chat.completions", answer({"role": "assistant", "content": None, "tool_calls": []})),
    "no usage either": ("chat.completions", answer({"content": ""}, tokens=None)),
    "no text": ("completions", b'{"choices":[{"text":"","finish_reason":"stop"}],"usage":{"completion_tokens":0}}'),
    "no embedding": ("embeddings", b'{"data":[],"usage":{"prompt_tokens":3}}'),
    "no block": ("messages", b'{"content":[],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":0}}'),
    "empty block": ("messages", b'{"content":[{"type":"text","text":""}],"stop_reason":"end_turn"}'),
    "no item": ("responses", b'{"status":"completed","output":[],"usage":{"input_tokens":3,"output_tokens":0}}'),
    "a stop token that is counted": ("chat.completions", answer({"content": ""}, tokens=1)),
    "two hundred tokens without text": ("chat.completions", answer({"content": ""}, "length", tokens=200)),
    "cut, without usage": ("chat.completions", answer({"content": ""}, "length", tokens=None)),
    "no text, but log-probabilities": (
        "chat.completions",
        b'{"choices":[{"message":{"content":""},"logprobs":{"content":[{"token":"</s>"}]},"finish_reason":"stop"}]}',
    ),
    "text parts without text": ("chat.completions", answer({"content": [{"type": "text", "text": ""}]}, tokens=4)),
    "a cut message": ("messages", b'{"content":[],"stop_reason":"max_tokens","usage":{"output_tokens":200}}'),
    "a cut response": ("responses", b'{"status":"incomplete","output":[],"usage":{"output_tokens":200}}'),
    "an empty thought": ("responses", b'{"status":"completed","output":[{"type":"reasoning","summary":[]}]}'),
    "empty item": (
        "responses",
        b'{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":""}]}]}',
    ),
}
SHORT = {
    "a line's end": ("chat.completions", answer({"content": "\n"}, tokens=1)),
    "one of two answers": (
        "chat.completions",
        b'{"choices":[{"message":{"content":""},"finish_reason":"stop"},{"message":{"content":"x"},"finish_reason":"stop"}]}',
    ),
    "the prompt said again": ("completions", b'{"choices":[{"text":"hi","finish_reason":"length"}]}'),
    "filtered": ("chat.completions", answer({"content": None}, "content_filter")),
    "a tool call": ("chat.completions", answer({"content": None, "tool_calls": [{"id": "1"}]})),
    "reasoning only": ("chat.completions", answer({"content": None, "reasoning_content": "hm"}, tokens=None)),
    "reasoning, as vLLM says it": ("chat.completions", answer({"content": None, "reasoning": "hm"}, tokens=None)),
    "a tool use": ("messages", b'{"content":[{"type":"tool_use","name":"f"}],"stop_reason":"tool_use"}'),
    "thinking": ("messages", b'{"content":[{"type":"thinking","thinking":"hm"}],"stop_reason":"end_turn"}'),
    "a refusal": ("messages", b'{"content":[],"stop_reason":"refusal","usage":{"output_tokens":0}}'),
    "a call": ("responses", b'{"status":"completed","output":[{"type":"function_call","name":"f"}]}'),
    "filtered, too": (
        "responses",
        b'{"status":"incomplete","incomplete_details":{"reason":"content_filter"},"output":[]}',
    ),
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


EXCUSED: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "one token": ("chat.completions", {"max_tokens": 1}, answer({"content": ""}, "stop", tokens=1)),
    "no token": ("chat.completions", {"max_completion_tokens": 0}, answer({"content": ""}, "length", tokens=0)),
    "a part of a character": ("chat.completions", {"max_tokens": 3}, answer({"content": ""}, "length", tokens=3)),
    "a full context": (
        "chat.completions",
        {},
        b'{"choices":[{"message":{"content":""},"finish_reason":"length"}],'
        b'"usage":{"prompt_tokens":%d,"completion_tokens":1}}' % (2**30),
    ),
    "its own stop, untold": ("chat.completions", {"stop": ["."]}, answer({"content": ""}, "stop", tokens=1)),
    "its own stop, as vLLM tells": (
        "chat.completions",
        {"stop": "."},
        b'{"choices":[{"message":{"content":""},"finish_reason":"stop","stop_reason":"."}]}',
    ),
    "its own stop token": (
        "chat.completions",
        {"stop_token_ids": [7]},
        b'{"choices":[{"message":{"content":""},"finish_reason":"stop","stop_reason":7}]}',
    ),
    "its own stop sequence": (
        "messages",
        {"stop_sequences": ["."]},
        b'{"content":[],"stop_reason":"stop_sequence","usage":{"output_tokens":1}}',
    ),
    "a short message": ("messages", {"max_tokens": 1}, b'{"content":[],"stop_reason":"max_tokens"}'),
    "a short response": ("responses", {"max_output_tokens": 1}, b'{"status":"incomplete","output":[]}'),
}
UNEXCUSED: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "two tokens, ended by itself": ("chat.completions", {"max_tokens": 2}, answer({"content": ""}, "stop", tokens=1)),
    "four tokens": ("chat.completions", {"max_tokens": 4}, answer({"content": ""}, "length", tokens=4)),
    "no stop of its own": ("chat.completions", {"stop": []}, answer({"content": ""}, "stop", tokens=1)),
    "a stop of its own that was not met": (
        "chat.completions",
        {"stop": ["."]},
        b'{"choices":[{"message":{"content":""},"finish_reason":"stop","stop_reason":null}]}',
    ),
    "SGLang's ending token": (
        "chat.completions",
        {"stop": ["."]},
        b'{"choices":[{"message":{"content":""},"finish_reason":"stop","matched_stop":151645}]}',
    ),
    "a stop does not cut": ("chat.completions", {"stop": ["."]}, answer({"content": ""}, "length", tokens=200)),
    "a stop sequence that nobody asked for": ("messages", {}, b'{"content":[],"stop_reason":"stop_sequence"}'),
}


@pytest.mark.parametrize(("action", "fields", "body"), EXCUSED.values(), ids=EXCUSED)
def test_what_the_request_itself_explains_is_an_answer(action: str, fields: dict[str, Any], body: bytes) -> None:
    path = Path()
    client = ask(path, action, **fields)
    path.call.answer(body)
    path.journal.commit()
    assert (client.status, client.body) == (200, body)


@pytest.mark.parametrize(("action", "fields", "body"), UNEXCUSED.values(), ids=UNEXCUSED)
def test_what_the_request_does_not_explain_is_an_error(action: str, fields: dict[str, Any], body: bytes) -> None:
    path = Path()
    client = ask(path, action, **fields)
    path.call.answer(body)
    path.journal.commit()
    assert client.status == 502


def ended(reason: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": reason, **more}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def streamed(events: list[bytes], action: str = "chat.completions", **fields: Any) -> Client:
    """The client of a stream, where one replica says these events and there is no other."""
    path = Path()
    client = ask(path, action, stream=True, **fields)
    path.journal.commit()
    path.call.begin()
    for event in events:
        path.call.say(event)
    path.journal.commit()
    assert path.at_rest()
    return client


@pytest.mark.parametrize(
    ("fields", "end", "status"),
    [
        ({}, ended("stop"), 502),
        ({}, ended("length"), 502),
        ({"max_tokens": 200}, ended("length"), 502),
        ({"max_tokens": 1}, ended("length"), 200),
        ({"max_tokens": 1}, ended("stop"), 200),
        ({"stop": ["."]}, ended("stop"), 200),
        ({"stop": ["."]}, ended("stop", stop_reason="."), 200),
        ({"stop": ["."]}, ended("stop", stop_reason=None), 502),
        ({"stop": ["."]}, ended("length"), 502),
        ({}, ended("content_filter"), 200),
        ({}, ended("stop", logprobs={"content": [{"token": "</s>", "logprob": 0}]}), 502),
    ],
)
def test_a_stream_that_says_nothing_is_judged_as_a_whole_answer_is(
    fields: dict[str, Any], end: bytes, status: int
) -> None:
    client = streamed([chunk("", role="assistant"), end, usage_chunk(completion=200), DONE], **fields)
    assert client.status == status
    assert client.body.endswith(DONE) == (status == 200)


def test_streams_of_the_other_wires_are_judged_alike() -> None:
    start, _, stop = STREAMS["messages"]
    cut = b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens"}}\n\n'
    assert streamed([start, cut, stop], "messages").status == 502
    assert streamed([start, cut, stop], "messages", max_tokens=1).status == 200
    end = b'event: response.incomplete\ndata: {"type":"response.incomplete","response":{"status":"incomplete"}}\n\n'
    assert streamed([STREAMS["responses"][0], end], "responses").status == 502
    assert streamed([STREAMS["responses"][0], end], "responses", max_output_tokens=1).status == 200
    whole = b'{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"x"}]}]}'
    end = b'event: response.completed\ndata: {"type":"response.completed","response":' + whole + b"}\n\n"
    assert streamed([STREAMS["responses"][0], end], "responses").status == 200, "it is all in the end"


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

"""What `store` asks for, and what a request and its answer amount to, whole or streamed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletion

from daulat.errors import InvalidRequest
from daulat.pipeline import stored

REQUEST = {
    "model": "m",
    "store": True,
    "metadata": {"case": "7"},
    "temperature": 0.5,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    ],
}
WHOLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 5,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def members(**values: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in values.items()}


@pytest.mark.parametrize(("said", "wanted"), [({}, False), ({"store": False}, False), ({"store": None}, False)])
def test_nothing_is_kept_unasked(said: dict[str, Any], wanted: bool) -> None:
    assert stored.asked(members(**said, metadata=5)) is wanted


def test_kept_with_metadata_that_can_be_kept() -> None:
    assert stored.asked(members(store=True))
    assert stored.asked(members(store=True, metadata={"a": "b"}))
    for wrong in (
        {"a": 1},
        {"a" * 65: "b"},
        {"a": "b" * 513},
        {str(n): "" for n in range(17)},
        [],
        "x",
        3,
        {"a": None},
    ):
        with pytest.raises(InvalidRequest, match="metadata"):
            stored.asked(members(store=True, metadata=wrong))
    for wrong in ("yes", 1, {}):
        with pytest.raises(InvalidRequest, match="store"):
            stored.asked(members(store=wrong))


def test_a_whole_answer_is_kept_as_it_was_with_its_messages() -> None:
    said, messages = stored.completion(json.dumps(REQUEST).encode(), json.dumps(WHOLE).encode(), stream=False)
    ChatCompletion.model_validate(said)
    assert said["choices"] == WHOLE["choices"]
    assert (said["metadata"], said["temperature"]) == ({"case": "7"}, 0.5)
    assert [message["id"] for message in messages] == ["chatcmpl-1-0", "chatcmpl-1-1"]
    assert messages[0]["content"] == "Be brief."
    assert (messages[1]["content"], messages[1]["content_parts"]) == (None, [{"type": "text", "text": "Hello"}])


def event(delta: dict[str, Any], index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    value = {"id": "chatcmpl-2", "created": 5, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def test_a_streams_events_add_up_to_the_same_shape() -> None:
    function = {"index": 0, "id": "call_1", "function": {"name": "now", "arguments": '{"a'}}
    answer = b"".join(
        [
            b": waiting\n\n",
            event({"role": "assistant", "content": ""}),
            event({"content": "Good "}),
            event({"reasoning_content": "hm"}),
            event({"content": "day"}, logprobs=None),
            event({"content": "other"}, index=1),
            event({"tool_calls": [function]}),
            event({"tool_calls": [{"index": 0, "function": {"arguments": '": 1}'}}]}, finish="tool_calls"),
            event({}, index=1, finish="stop"),
            b'data: {"id":"chatcmpl-2","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
            b"data: [DONE]\n\n",
        ]
    )
    said, _ = stored.completion(json.dumps(REQUEST).encode(), answer, stream=True)
    first, second = said["choices"]
    assert (first["message"]["content"], first["message"]["reasoning_content"]) == ("Good day", "hm")
    assert first["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"a": 1}'}}
    ]
    assert (first["finish_reason"], second["finish_reason"], second["message"]["content"]) == (
        "tool_calls", "stop", "other",
    )  # fmt: skip
    assert said["usage"]["completion_tokens"] == 2
    assert said["object"] == "chat.completion"


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[]", b'{"id":"x","choices":[]}', b'{"id":4,"choices":[1]}', b"<html>"]
)
def test_what_is_no_completion_is_refused(answer: bytes) -> None:
    for stream in (True, False):
        with pytest.raises(ValueError):  # noqa: PT011  json's is one too
            stored.completion(json.dumps(REQUEST).encode(), answer, stream=stream)

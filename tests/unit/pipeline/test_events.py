"""Event streams on their way through, however an engine or the network cuts them."""

from __future__ import annotations

import json

import pytest

from daulat.pipeline.events import MAX_EVENT, EventStream
from daulat.pipeline.usage import Usage

WORD = b'data: {"choices":[{"index":0,"delta":{"content":"hi [DONE]"}}]}'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}'
BOTH = b'data: {"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":1}}'
DONE = b"data: [DONE]"


def through(data: bytes, size: int, *, show_usage: bool = False) -> tuple[bytes, EventStream]:
    events = EventStream(show_usage=show_usage)
    passed = b"".join(events.feed(data[at : at + size]) for at in range(0, len(data), size))
    return passed, events


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n"])
@pytest.mark.parametrize("done", [b"data: [DONE]", b"data:[DONE]", b"id: 9\ndata: [DONE]"])
def test_however_it_is_cut_the_same_bytes_pass_and_the_end_is_held(end: bytes, done: bytes) -> None:
    data = b"".join(part + end for part in (b": hello", WORD, WORD, USAGE, BOTH, done))
    for size in range(1, len(data) + 1):
        passed, events = through(data, size)
        assert passed == b"".join(part + end for part in (b": hello", WORD, WORD, BOTH)), size
        assert events.final == done + end
        assert events.usage == Usage(4, 0, 1), "the last that was said counts"


def test_usage_is_found_behind_other_fields_of_an_event() -> None:
    data = b"event: message\nid: 7\n" + USAGE + b"\n\n"
    passed, events = through(data, len(data))
    assert passed == b""
    assert events.usage == Usage(4, 0, 2)
    assert through(data, len(data), show_usage=True)[0] == data


def test_words_that_look_like_an_end_are_words() -> None:
    said = json.dumps({"choices": [{"delta": {"content": '\ndata: [DONE]\n\n"usage":{"prompt_tokens":99}'}}]}).encode()
    for event in (
        b"data: " + said + b"\n\n",
        b"data: [DONE] and more\n\n",
        b"data: x[DONE]\n\n",
        b": data: [DONE]\n\n",
    ):
        passed, events = through(event, len(event))
        assert passed == event
        assert events.final is None
        assert events.usage is None


def test_nothing_follows_the_end() -> None:
    data = WORD + b"\n\n" + DONE + b"\n\n" + WORD + b"\n\n"
    passed, events = through(data, len(data))
    assert (passed, events.final) == (WORD + b"\n\n", DONE + b"\n\n")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_events_are_counted_one_by_one_or_many_at_once(end: bytes) -> None:
    for size in (1, 7, len(WORD + end), 10_000):
        _, events = through((WORD + end) * 20, size)
        assert events.events == 20


def test_an_error_in_a_stream_has_all_four_fields_of_openais_envelope() -> None:
    said = b'event: error\ndata: {"error":{"code":500,"message":"out of memory","type":"server_error"}}\n\n'
    error = {"message": "out of memory", "type": "server_error", "param": None, "code": None}
    passed = EventStream(show_usage=False).feed(said)
    assert passed.startswith(b"event: error\ndata: ")
    assert passed.endswith(b"}\n\n")
    assert json.loads(passed.partition(b"data: ")[2]) == {"error": error}
    assert EventStream(show_usage=False).feed(passed) == passed, "which is left as it is"
    untyped = EventStream(show_usage=False).feed(b'data: {"error":{"message":"gone"}}\r\n\r\n')
    assert json.loads(untyped[6:])["error"]["type"] == "engine_error"
    for other in (b'data: {"choices":[],"error":null}\n\n', b'data: {"type":"error"}\n\n', b'data: "error"\n\n'):
        assert EventStream(show_usage=False).feed(other) == other


@pytest.mark.parametrize(
    "broken", [b"{", b"[]", b"\xff", b"[" * 3000, b'{"usage":', b'{"usage":"many"}', b'{"usage":[]}']
)
def test_usage_that_cannot_be_read_is_no_usage_and_passes(broken: bytes) -> None:
    event = b'data: {"usage":1}' + broken + b"\n\n"
    passed, events = through(event, len(event))
    assert passed == event
    assert events.usage is None


def test_an_event_has_a_largest_size() -> None:
    events = EventStream(show_usage=False)
    assert events.feed(b"data: " + bytes(MAX_EVENT - 6)) == b""
    with pytest.raises(ValueError, match="too large"):
        events.feed(b"x")


def test_blank_lines_alone_are_no_events() -> None:
    passed, events = through(b"\n\n\n\n\n" + WORD + b"\n\n", 1)
    assert passed.strip() == WORD
    assert events.events == 1

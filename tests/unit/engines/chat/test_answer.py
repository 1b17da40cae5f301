"""Whatever the engine calls it, clients see `reasoning_content` and `tool_calls`, in streams as in whole answers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.engines.chat.answer import Answer
from daulat.engines.chat.reasoning import renamed

V31 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DONE = b"data: [DONE]\n\n"


def event(delta: dict[str, Any], reason: str | None = None, index: int = 0, **members: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"id": "c", "choices": [choice], **members}).encode() + b"\n\n"


def whole(
    message: dict[str, Any], reason: str = "stop", *, tools: bool = True, thinks: bool = True, opened: bool = False
) -> dict[str, Any]:
    """The only choice of a whole answer, rewritten."""
    answer = Answer(tools=tools, thinks=thinks, opened=opened)
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": {}}).encode()
    assert answer.hold(body[:9]) == answer.hold(body[9:]) == b""
    value = json.loads(answer.finish())
    assert value["usage"] == {}
    (choice,) = value["choices"]
    return dict(choice)


def streamed(
    *chunks: bytes, tools: bool = True, thinks: bool = True, opened: bool = False
) -> dict[int, dict[str, Any]]:
    """Each choice of a stream as a client puts it together."""
    answer = Answer(tools=tools, thinks=thinks, opened=opened)
    data = b"".join(answer.feed(chunk) for chunk in chunks) + answer.finish()
    choices: dict[int, dict[str, Any]] = {}
    for part in data.split(b"\n\n")[:-1]:
        if part == DONE.strip() or not part.startswith(b"data:"):
            continue
        for choice in json.loads(part.removeprefix(b"data: "))["choices"]:
            made = choices.setdefault(choice["index"], {"calls": [], "reason": None})
            delta = choice["delta"]
            for name in ("content", "reasoning_content", "reasoning", "role"):
                if delta.get(name):
                    made[name] = made.get(name, "") + delta[name]
            made["calls"] += [(call["index"], call["function"]["name"]) for call in delta.get("tool_calls", ())]
            assert made["reason"] is None, "nothing follows a choice's end"
            made["reason"] = choice["finish_reason"]
    return choices


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_has_one_name_in_whole_answers(name: str) -> None:
    message = whole({"role": "assistant", "content": "four", name: "2 + 2"})["message"]
    assert message == {"role": "assistant", "content": "four", "reasoning_content": "2 + 2"}


def test_an_engine_that_says_it_twice_is_heard_once() -> None:
    both = {"content": "four", "reasoning": "2 + 2", "reasoning_content": "2 + 2"}
    assert whole(both)["message"] == {"content": "four", "reasoning_content": "2 + 2"}
    (choice,) = streamed(event(both), event({}, "stop")).values()
    assert (choice["reasoning_content"], choice.get("reasoning")) == ("2 + 2", None)
    assert whole({"content": "x", "reasoning": "r", "reasoning_content": None})["message"]["reasoning_content"] == "r"


def test_reasoning_has_one_name_in_streams() -> None:
    chunks = [event({"role": "assistant", "content": ""}), event({"reasoning": "2 "}), event({"reasoning": "+ 2"})]
    (choice,) = streamed(*chunks, event({"content": "four"}), event({}, "stop"), DONE).values()
    assert choice == {
        "role": "assistant",
        "reasoning_content": "2 + 2",
        "content": "four",
        "calls": [],
        "reason": "stop",
    }


def test_a_thought_left_in_the_text_is_reasoning() -> None:
    message = whole({"content": "<think>\n2 + 2\n</think>\n\nfour"})["message"]
    assert message == {"content": "four", "reasoning_content": "\n2 + 2\n"}
    assert whole({"content": "<think>endless"}, "length")["message"] == {"content": "", "reasoning_content": "endless"}
    assert whole({"content": "see <think>"})["message"] == {"content": "see <think>"}
    assert whole({"content": "<think>a</think>b"}, thinks=False)["message"] == {"content": "<think>a</think>b"}


THOUGHT = ["2 ", "+ 2", "</thi", "nk>\n\n", "fo", "ur"]


def test_a_thought_that_the_template_began_is_reasoning_up_to_its_end() -> None:
    said = {"content": "".join(THOUGHT)}
    message = whole(said, opened=True)["message"]
    assert message == {"content": "four", "reasoning_content": "2 + 2"}
    (choice,) = streamed(*(event({"content": text}) for text in THOUGHT), event({}, "stop"), opened=True).values()
    assert (choice["reasoning_content"], choice["content"]) == ("2 + 2", "four")
    assert whole(said)["message"] == said, "of an engine that tells reasoning apart, or a template that begins none"
    block = {"content": "<think>2 + 2</think>four"}
    assert whole(block, opened=True)["message"] == message, "a block of its own is one, too"


def test_of_an_engine_that_tells_reasoning_apart_no_text_is_a_thought() -> None:
    apart = {"reasoning": "2 + 2", "content": "four, </think> he said"}
    assert whole(apart, opened=True)["message"]["content"] == apart["content"]
    chunks = [event({"reasoning": "2 + 2"}), event({"content": "four, "}), event({"content": "</think> he said"})]
    (choice,) = streamed(*chunks, event({}, "stop"), opened=True).values()
    assert (choice["reasoning_content"], choice["content"]) == ("2 + 2", "four, </think> he said")


def test_a_thought_that_never_ends_is_one_where_it_was_cut_and_text_where_the_model_stopped() -> None:
    chunks = [event({"content": "fo"}), event({"content": "ur"})]
    assert whole({"content": "four"}, "length", opened=True)["message"] == {"content": "", "reasoning_content": "four"}
    assert whole({"content": "four"}, "stop", opened=True)["message"] == {"content": "four"}
    (cut,) = streamed(*chunks, event({}, "length"), opened=True).values()
    assert (cut["reasoning_content"], cut.get("content")) == ("four", None)
    (stopped,) = streamed(*chunks, event({}, "stop"), opened=True).values()
    assert stopped["content"] == "four", "never an answer without its text"


def test_every_choice_is_looked_at_from_its_first_text_on() -> None:
    answer = Answer(tools=False, thinks=True, choices=2)
    first = event({"content": "zero"}) + event({"content": "one"}, index=1)
    late = event({"content": "<think>"}, index=1)
    parts = [event({"content": "zero"}), event({"content": "one"}, index=1), late]
    assert b"".join(map(answer.feed, parts)) == first + late


def test_events_may_end_in_two_characters_each() -> None:
    answer = Answer(tools=True, thinks=True)
    events = [event({"content": text}).replace(b"\n", b"\r\n") for text in ("a", "b", "<", "c")]
    assert [answer.feed(part) for part in events[:2]] == events[:2], "as soon as they come"
    assert b'"content":"<c"' in b"".join(map(answer.feed, events[2:]))


def test_calls_are_found_in_whole_answers() -> None:
    choice = whole({"role": "assistant", "content": f"Wait.\n\n{V31}"})
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Wait."
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["f", "g"]
    assert len({call["id"] for call in choice["message"]["tool_calls"]}) == 2
    assert whole({"content": V31})["message"]["content"] is None
    assert whole({"content": V31}, tools=False)["message"] == {"content": V31}, "nobody asked for tools"


def test_what_needs_nothing_passes_to_the_byte() -> None:
    answer = Answer(tools=True, thinks=True)
    plain = [
        event({"role": "assistant", "content": "a"}),
        event({"content": " b"}),
        event({}, "stop"),
        DONE,
        b": ping\n\n",
    ]
    assert [answer.feed(part) for part in plain] == plain
    assert answer.finish() == b""
    body = b'{"choices": [ {"message": {"content": "a"}, "finish_reason":"stop"} ]}'
    answer = Answer(tools=True, thinks=True)
    answer.hold(body)
    assert answer.finish() == body


SAID = [
    *("<think>", "2 + 2", "</think>", "\n\n", "Let me look.", "\n\n", *V31),
]


def test_a_stream_says_the_same_as_a_whole_answer() -> None:
    chunks = [event({"content": text}) for text in SAID]
    (choice,) = streamed(*chunks, event({}, "stop", usage={"completion_tokens": 3}), DONE).values()
    message = whole({"content": "".join(SAID)})["message"]
    assert choice["content"] == message["content"] == "Let me look."
    assert choice["reasoning_content"] == message["reasoning_content"] == "2 + 2"
    assert choice["calls"] == [(0, "f"), (1, "g")]
    assert choice["reason"] == "tool_calls"


def test_usage_beside_a_choice_is_kept_once() -> None:
    answer = Answer(tools=True, thinks=False)
    answer.feed(event({"content": V31}))
    data = answer.feed(event({}, "stop", usage={"completion_tokens": 3}))
    assert data.count(b'"usage"') == 1
    assert data.count(b'"tool_calls"') == 1


def test_choices_are_kept_apart_and_cut_answers_stay_cut() -> None:
    chunks = [event({"content": V31[:60]}, index=1), event({"content": "plain"}), event({"content": V31[60:]}, index=1)]
    found = streamed(*chunks, event({}, "stop"), event({}, "length", index=1))
    assert (found[0]["content"], found[0]["calls"], found[0]["reason"]) == ("plain", [], "stop")
    assert (found[1]["calls"], found[1]["reason"]) == ([(0, "f"), (1, "g")], "length")


def test_the_engines_own_calls_pass_and_what_was_kept_back_comes_before_them() -> None:
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "own", "arguments": "{}"}}
    (choice,) = streamed(event({"content": "one <"}), event({"tool_calls": [call]}), event({}, "tool_calls")).values()
    assert (choice["content"], choice["calls"], choice["reason"]) == ("one <", [(0, "own")], "tool_calls")


def test_a_stream_that_breaks_off_loses_no_text() -> None:
    assert streamed(event({"content": "cut <｜tool"}))[0]["content"] == "cut <｜tool"
    answer = Answer(tools=True, thinks=True)
    assert answer.feed(b"data: half") + answer.finish() == b"data: half"


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "a", "<", "\n", '"', "\\", V31, V31[:31], "é", "\ud800"]), max_size=8
    ),
    st.data(),
)
def test_any_split_of_texts_and_bytes_says_the_same(texts: list[str], data: st.DataObject) -> None:
    ascii_ = data.draw(st.booleans())

    def made(text: str) -> bytes:
        value = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        return b"data: " + json.dumps(value, ensure_ascii=ascii_ or "\ud800" in text).encode() + b"\n\n"

    stream = b"".join(map(made, texts)) + event({}, "stop")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = streamed(made("".join(texts)), event({}, "stop"))
    assert streamed(*parts) == expected


TEXTS = ["<think>", "</think>", "plain", "<", "\n", "\n\n", V31, V31[:40], V31[40:], "é<｜", None]
DELTAS = st.sampled_from(TEXTS).map(lambda text: {"content": text}) | st.sampled_from(
    [{"reasoning": "r"}, {"role": "assistant"}, {"reasoning_content": ""}, {"tool_calls": [{"index": 0}]}]
)
EVENTS = st.lists(
    st.builds(event, DELTAS, st.sampled_from([None, None, None, "stop", "length"]), index=st.integers(0, 1))
    | st.sampled_from(
        [DONE, b": ping\n\n", b'data: {"choices":[],"usage":{}}\n\n', b'data: {"error":{"message":"<"}}\n\n']
    ),
    max_size=9,
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(EVENTS, st.booleans(), st.booleans(), st.booleans(), st.data())
def test_any_split_of_the_engines_bytes_gives_the_same_bytes(
    events: list[bytes],
    opened: bool,
    wide: bool,
    broken: bool,
    data: st.DataObject,
) -> None:
    stream = b"".join(events)
    stream = stream.replace(b"\n", b"\r\n") if wide else stream
    stream = stream[: data.draw(st.integers(0, len(stream)))] if broken else stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    def sent(parts: list[bytes]) -> bytes:
        answer = Answer(tools=True, thinks=True, opened=opened, choices=2)
        made = b"".join(map(answer.feed, parts)) + answer.finish()
        return re.sub(rb'"id":"call_[0-9a-f]{24}"', b'"id":"call"', made)

    assert sent(parts) == sent([bytes([byte]) for byte in stream])


@settings(derandomize=True, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"data: ", b"{", b'"choices":[', b"\n\n", b"null", b"<"])))
def test_whatever_comes_is_no_defect_here(chunks: list[bytes]) -> None:
    answer = Answer(tools=True, thinks=True)
    out = b"".join(map(answer.feed, chunks)) + answer.finish()
    assert out == b"".join(chunks)
    answer = Answer(tools=True, thinks=True)
    for chunk in chunks:
        answer.hold(chunk)
    answer.finish()


def test_histories_name_reasoning_as_engines_take_it() -> None:
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a", "reasoning": "r"},
        {"role": "assistant", "content": "b", "reasoning": "x", "reasoning_content": "y"},
        {"role": "assistant", "content": "c", "reasoning": None, "reasoning_content": "z"},
    ]
    found = renamed(json.dumps(history).encode())
    assert found is not None
    assert [message.get("reasoning_content") for message in json.loads(found)] == [None, "r", "y", "z"]
    assert b'"reasoning"' not in found
    assert renamed(b'[{"role":"user","content":"hi"}]') is None
    assert renamed(b'["reasoning", 3]') is None

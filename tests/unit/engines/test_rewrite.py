"""Calls that a model wrote as text come out as OpenAI's `tool_calls`, however the bytes are cut; all else passes."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.engines.llamacpp.rewrite import ToolCalls, calls_in, may_be_call

NAMES = frozenset({"weather", "time"})
CALL = '{"name": "weather", "arguments": {"city": "Ipoh"}}'
ONE = [("weather", '{"city":"Ipoh"}')]
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (CALL, ONE),
        (f"\n {CALL} \n", ONE),
        ('{"name": "weather", "parameters": {"city": "Ipoh"}}', ONE),
        ('{"name": "weather", "arguments": "{\\"city\\": \\"Ipoh\\"}"}', ONE),
        (f'{{"type": "function", "function": {CALL}}}', ONE),
        (f'{{"tool_call": {CALL}}}', ONE),
        (f'{{"tool_calls": [{CALL}]}}', ONE),
        (f"```json\n{CALL}\n```", ONE),
        (f"```\n{CALL}\n```", ONE),
        (f"```json\n{CALL}", ONE),
        (f"<tool_call>\n{CALL}\n</tool_call>", ONE),
        (f"[{CALL}]", ONE),
        (f'[{CALL}, {{"name": "time", "arguments": {{}}}}]', [*ONE, ("time", "{}")]),
        (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", ONE * 2),
        (f'{{"tool_calls": [{CALL}, {{"function": {CALL}}}]}}', ONE * 2),
        ('{"name": "weather", "arguments": {"city": "Ipoh 🇲🇾"}}', [("weather", '{"city":"Ipoh 🇲🇾"}')]),
        ('{"name": "weather", "arguments": {"city": "\\ud83c"}}', [("weather", '{"city":"\\ud83c"}')]),
        ("", None),
        ("It rains in Ipoh.", None),
        (f"Here it is: {CALL}", None),
        (f"<tool_call>{CALL}</tool_call> I called it.", None),
        (f"[{CALL}, 7]", None),
        ('{"name": "nuke", "arguments": {}}', None),
        ('{"name": "weather"}', None),
        ('{"name": "weather", "arguments": [1]}', None),
        ('{"name": "weather", "arguments": "Ipoh"}', None),
        ('{"name": "weather", "arguments": {"t": NaN}}', None),
        ('{"name": ["weather"], "arguments": {}}', None),
        ('{"tool_calls": []}', None),
        ('{"city": "Ipoh"}', None),
        ("[" * 100_000, None),
        ('{"name": "weather", "arguments": {"n": ' + "1" * 5000 + "}}", None),
    ],
)
def test_text_that_is_nothing_but_calls_of_known_functions(text: str, found: list[tuple[str, str]] | None) -> None:
    assert calls_in(text, NAMES) == found


@settings(derandomize=True, deadline=None)
@given(
    st.sampled_from([CALL, f"```json\n{CALL}\n```", f"[{CALL},{CALL}]", f"<tool_call>{CALL}</tool_call>"]), st.data()
)
def test_every_beginning_of_a_call_may_still_become_one(text: str, data: st.DataObject) -> None:
    assert may_be_call(text[: data.draw(st.integers(0, len(text)))])


@pytest.mark.parametrize("text", ["It", "```python\nprint", "<tool_x", '{"city', '{"city"', "{7", '"name', "<b>", "{x"])
def test_other_text_is_let_go_as_soon_as_it_is_known(text: str) -> None:
    sure = text if text != '{"city' else '{"city":'
    assert not may_be_call(sure)


def test_nothing_is_kept_back_for_ever() -> None:
    assert not may_be_call('{"name": "' + "x" * 2_000_000)
    assert not may_be_call("<tool_call>" + "x" * 2_000_000)


# Whole answers.


def whole(*contents: str | None, **message: Any) -> bytes:
    choices = [
        {"index": at, "finish_reason": "stop", "message": {"role": "assistant", "content": content, **message}}
        for at, content in enumerate(contents)
    ]
    return json.dumps({"id": "x", "choices": choices, "usage": {"completion_tokens": 3}}).encode()


def held(body: bytes, pieces: int = 3) -> bytes:
    rewriter = ToolCalls(NAMES)
    size = max(1, len(body) // pieces)
    assert b"".join(rewriter.hold(body[at : at + size]) for at in range(0, len(body), size)) == b""
    return rewriter.finish()


def test_a_whole_answer_that_is_a_call_becomes_one() -> None:
    answer = json.loads(held(whole(CALL)))
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]) == ("function", {"name": "weather", "arguments": '{"city":"Ipoh"}'})
    assert call["id"].startswith("call_")
    assert answer["usage"] == {"completion_tokens": 3}


def test_parallel_calls_have_ids_of_their_own() -> None:
    answer = json.loads(held(whole(f"[{CALL},{CALL}]")))
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == 2
    assert not any("index" in call for call in calls), "an index is for streams"


@pytest.mark.parametrize(
    "body",
    [
        whole("It rains."),
        whole(None),
        whole("", tool_calls=[{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]),
        b'{"error": {"message": "no"}}',
        b'{"choices": 7}',
        b"not JSON",
        b"[" * 100_000,
    ],
)
def test_any_other_whole_answer_passes_byte_for_byte(body: bytes) -> None:
    assert held(body) == body


def test_of_several_choices_only_the_calls_are_rewritten() -> None:
    first, second = json.loads(held(whole("It rains.", CALL)))["choices"]
    assert (first["finish_reason"], first["message"]["content"]) == ("stop", "It rains.")
    assert second["finish_reason"] == "tool_calls"


# Streams.


def event(index: int = 0, finish: str | None = None, **delta: Any) -> bytes:
    value = {"id": "x", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def stream(*texts: str, index: int = 0) -> bytes:
    begin = event(index, role="assistant", content=None)
    return begin + b"".join(event(index, content=text) for text in texts) + event(index, "stop")


def fed(data: bytes, cuts: list[int]) -> bytes:
    """What comes out when the bytes come in these pieces."""
    rewriter = ToolCalls(NAMES)
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    out = b"".join(rewriter.feed(data[start:end]) for start, end in itertools.pairwise(edges))
    return out + rewriter.finish()


def values(data: bytes) -> list[Any]:
    return [json.loads(item.removeprefix(b"data: ")) for item in data.split(b"\n\n") if item.startswith(b"data: {")]


CUTS = st.lists(st.integers(0, 10_000), max_size=40)
TALK = stream("It ", "rains", ".") + DONE
SPOKEN = stream(*CALL) + event(0) + b'data: {"choices":[],"usage":{"completion_tokens":9}}\n\n' + DONE


@settings(derandomize=True, deadline=None)
@given(CUTS)
def test_talk_passes_byte_for_byte_at_every_cut(cuts: list[int]) -> None:
    assert fed(TALK, cuts) == TALK


@settings(derandomize=True, deadline=None)
@given(CUTS)
def test_a_call_becomes_deltas_at_every_cut(cuts: list[int]) -> None:
    out = fed(SPOKEN, cuts)
    begin, spoken, ended, _, usage = values(out)
    assert begin["choices"][0]["delta"] == {"role": "assistant", "content": None}
    (call,) = spoken["choices"][0]["delta"]["tool_calls"]
    assert (call["index"], call["function"]["name"]) == (0, "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Ipoh"}
    assert spoken["choices"][0]["finish_reason"] is None
    assert (ended["choices"][0]["finish_reason"], ended["choices"][0]["delta"]) == ("tool_calls", {})
    assert usage["usage"] == {"completion_tokens": 9}
    assert out.endswith(DONE)
    contents = [choice["delta"].get("content") for value in values(out) for choice in value["choices"]]
    assert contents == [None] * 4, "nothing of the call is left in the text"


def test_every_single_split_gives_the_same_answer() -> None:
    plain = values(fed(SPOKEN, []))
    for cut in range(len(SPOKEN)):
        found = values(fed(SPOKEN, [cut]))
        for value in (*plain, *found):
            for choice in value["choices"]:
                for call in choice["delta"].get("tool_calls", ()):
                    call["id"] = "ours"
        assert found == plain, cut


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=30), st.integers(1, 4), CUTS)
def test_no_text_is_lost_or_changed_when_it_is_no_call(text: str, size: int, cuts: list[int]) -> None:
    data = stream(*[text[at : at + size] for at in range(0, len(text), size)]) + DONE
    assert fed(data, cuts) == data


def test_what_looked_like_a_call_and_is_none_comes_at_the_end_in_order() -> None:
    data = stream('{"name": ', '"nuke", ', '"arguments": {}}')
    rewriter = ToolCalls(NAMES)
    kept = b"".join(rewriter.feed(piece + b"\n\n") for piece in data.split(b"\n\n")[:-2])
    assert values(kept) == values(event(0, role="assistant", content=None)), "kept back while it may be a call"
    assert fed(data, []) == data


def test_a_stream_that_breaks_off_gives_what_was_kept_back() -> None:
    rewriter = ToolCalls(NAMES)
    begun = event(0, content='{"name": "wea')
    assert rewriter.feed(begun + b"data: {half") == b""
    assert rewriter.finish() == begun + b"data: {half"


def test_choices_are_judged_apart() -> None:
    call, talk = stream(CALL, index=0).split(b"\n\n"), stream("It rains.", index=1).split(b"\n\n")
    mixed = b"".join(piece + b"\n\n" for pair in zip(call, talk, strict=True) for piece in pair if piece)
    found = [choice for value in values(fed(mixed, [])) for choice in value["choices"]]
    assert [choice["delta"].get("content") for choice in found if choice["index"] == 1] == [None, "It rains.", None]
    assert {choice["finish_reason"] for choice in found if choice["index"] == 0} == {None, "tool_calls"}
    assert {choice["finish_reason"] for choice in found if choice["index"] == 1} == {None, "stop"}


def test_the_engines_own_tool_calls_pass_byte_for_byte() -> None:
    native = {"index": 0, "id": "1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    data = event(0, role="assistant", content=None) + event(0, tool_calls=[native]) + event(0, "tool_calls") + DONE
    assert fed(data, [50, 100]) == data


def test_text_that_ends_in_the_event_of_its_last_delta_is_a_call_too() -> None:
    (spoken, ended) = values(fed(event(0, "stop", content=CALL), []))
    assert spoken["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "weather"
    assert ended["choices"][0]["finish_reason"] == "tool_calls"


# Calls that had to be, and were cut at the most tokens.

CUT = {
    '{"name": "weather", "arguments": {"ci': [("weather", '{"ci')],
    '{"name":"weather","arguments":{"city":"Ipoh "': [("weather", '{"city":"Ipoh "')],
    ' { "name" : "time" , "arguments" : {"a": "\\"}"}': [("time", '{"a": "\\"}"}')],
    '{"name": "weather", "argum': [("weather", "")],
    '{"name": "weather"': [("weather", "")],
    '{"name": "wea': [],
    "{": [],
}


@pytest.mark.parametrize("text", CUT)
def test_a_forced_call_that_was_cut_is_one_with_the_arguments_as_far_as_they_came(text: str) -> None:
    rewriter = ToolCalls(NAMES, forced=True)
    rewriter.hold(whole(text).replace(b'"stop"', b'"length"'))
    (choice,) = json.loads(rewriter.finish())["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", None)
    calls = [call["function"] for call in choice["message"].get("tool_calls", ())]
    assert [(call["name"], call["arguments"]) for call in calls] == CUT[text]


@pytest.mark.parametrize("text", CUT)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_in_a_stream_as_well(text: str, size: int) -> None:
    rewriter = ToolCalls(NAMES, forced=True)
    parts = stream(*[text[at : at + size] for at in range(0, len(text), size)]).replace(b'"stop"', b'"length"')
    found = [choice for value in values(rewriter.feed(parts) + rewriter.finish()) for choice in value["choices"]]
    calls = [call for choice in found for call in choice["delta"].get("tool_calls", ())]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == CUT[text]
    assert [choice["finish_reason"] for choice in found] == [None] * (len(found) - 1) + ["length"]
    assert not any(choice["delta"].get("content") for choice in found)


def test_of_one_function_alone_a_call_is_known_from_its_first_character() -> None:
    rewriter = ToolCalls(frozenset({"time"}), forced=True)
    rewriter.hold(whole('{"na').replace(b'"stop"', b'"length"'))
    (call,) = json.loads(rewriter.finish())["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "time", "arguments": ""}


@pytest.mark.parametrize("forced", [False, True])
def test_what_was_cut_and_was_no_call_or_need_not_be_passes_as_it_came(forced: bool) -> None:
    for text in ("", " ", "Hm") if forced else ('{"name": "weather", "arguments": {"ci',):
        rewriter = ToolCalls(NAMES, forced=forced)
        body = whole(text).replace(b'"stop"', b'"length"')
        rewriter.hold(body)
        assert rewriter.finish() == body


@pytest.mark.parametrize(
    "odd", [b": ping\n\n", b'data: {"error":{"code":500}}\n\n', b"data: null\n\n", b"data: [7]\n\n"]
)
def test_events_that_are_not_ours_pass(odd: bytes) -> None:
    assert fed(odd + TALK, []) == odd + TALK

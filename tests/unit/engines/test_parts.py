"""Several answers are asked one by one, and put into one that states what OpenAI's would, however the bytes are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.engines.dialect import EngineRequest, Merger, Parts
from daulat.engines.llamacpp.parts import MOST, split
from daulat.errors import EngineDead, EngineRequestFailed, InvalidRequest
from daulat.pipeline.body import peek

DONE = b"data: [DONE]\n\n"


def request(action: str = "chat.completions", *, raw: bytes | None = None, **fields: Any) -> EngineRequest:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]} if action == "chat.completions" else {}
    body = raw or json.dumps({"model": "m", **asked, **fields}).encode()
    return EngineRequest(action, "/v1", body, stream=bool(fields.get("stream")), fields=peek(body, action, 64).members)


def parts(*arguments: Any, **fields: Any) -> Parts:
    found = split(request(*arguments, **fields))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(n=1),
        request(n=None),
        request(n=True),
        request(n="2"),  # the engine refuses these itself
        request(n=0),
        request(n=-3),
        request(n=[2]),
        request(n=2, n_cmpl=1),  # llama.cpp's own name wins there
        request("completions", prompt="x"),
        request("completions", prompt=["x"]),
        request("completions", prompt=[1, 2, 3]),
        request("completions", prompt=[1, "x", 3]),  # llama.cpp's mixture
        request("completions", prompt=[]),
        request("embeddings", input=["a", "b"]),
    ],
)
def test_one_answer_is_asked_for_as_it_came(asked: EngineRequest) -> None:
    assert split(asked) is None


@pytest.mark.parametrize("fields", [{"n": 3}, {"n": 3.0}, {"n_cmpl": 3}, {"n": 1, "n_cmpl": 3}])
def test_each_of_n_answers_is_a_request_for_one(fields: dict[str, Any]) -> None:
    asked = request(temperature=1, **fields)
    found = split(asked)
    assert found is not None
    bodies = [json.loads(part.body) for part in found.requests]
    assert [(body["n"], body["n_cmpl"]) for body in bodies] == [(1, 1)] * 3
    assert all(part.body.startswith(asked.body[:-1]) for part in found.requests), "the rest is as it came"
    assert [part.leads for part in found.requests] == [True, False, False]


def test_a_key_written_with_escapes_is_still_seen() -> None:
    raw = b'{"model":"m","messages":[],"\\u006e":2}'
    assert len(parts(raw=raw).requests) == 2


@pytest.mark.parametrize(("seed", "seeds"), [(7, [7, 8, 9]), (None, [None] * 3), (-1, [-1] * 3), ("x", ["x"] * 3)])
def test_the_same_seed_gives_other_answers_and_the_same_again(seed: Any, seeds: list[Any]) -> None:
    assert [json.loads(part.body).get("seed") for part in parts(n=3, seed=seed).requests] == seeds


def test_every_prompt_of_a_list_is_asked_n_times_in_openais_order() -> None:
    found = parts("completions", prompt=["a", [1, 2]], n=2).requests
    assert [json.loads(part.body)["prompt"] for part in found] == ["a", "a", [1, 2], [1, 2]]
    assert [part.raw("prompt") for part in found] == [b'"a"', b'"a"', b"[1, 2]", b"[1, 2]"]


def test_there_is_a_most() -> None:
    assert len(parts(n=MOST).requests) == MOST
    for asked in (request(n=MOST + 1), request("completions", prompt=["a", "b"], n=MOST), request(n=1e18)):
        with pytest.raises(InvalidRequest) as refused:
            split(asked)
        assert refused.value.param == "n"


# Whole answers.


def usage(prompt: int, cached: int, completion: int) -> dict[str, Any]:
    details = {"cached_tokens": cached}
    total = prompt + completion
    return {"completion_tokens": completion, "prompt_tokens": prompt, "total_tokens": total} | {
        "prompt_tokens_details": details
    }


def answer(text: str, spent: dict[str, Any], **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": text, "choices": [choice], "usage": spent, "timings": {}, **more}).encode()


def whole(merger: Merger, answers: list[bytes]) -> dict[str, Any]:
    for number, body in enumerate(answers):
        assert merger.hold(number, body[:9]) == merger.hold(number, body[9:]) == b""
    rests = [merger.finish(number) for number in reversed(range(len(answers)))]
    assert rests[:-1] == [b""] * (len(answers) - 1)
    return dict(json.loads(rests[-1]))


def test_n_answers_become_one_whose_prompt_is_stated_once() -> None:
    merger = parts(n=3).merger
    found = whole(merger, [answer("a", usage(30, 5, 4)), answer("b", usage(30, 0, 6)), answer("c", usage(30, 30, 8))])
    assert [(choice["index"], choice["message"]["content"]) for choice in found["choices"]] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]
    assert found["usage"] == usage(30, 5, 18)
    assert found["id"] == "a"
    assert "timings" not in found
    assert merger.overhead == 30, "the further readings of the prompt are accounted for"


def test_answers_to_several_prompts_add_up() -> None:
    merger = parts("completions", prompt=["a", "b"], n=2).merger
    found = whole(merger, [answer(name, usage(10 + at, at, 1)) for at, name in enumerate("abcd")])
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert found["usage"] == usage(10 + 12, 0 + 2, 4)
    assert merger.overhead == (11 - 1) + (13 - 3)


@pytest.mark.parametrize(
    "odd", [b"", b"7", b"{}", b'{"choices":[]}', b'{"choices":[{}]}', b'{"choices":[{}],"usage":7}']
)
def test_answers_that_cannot_be_put_together_are_the_engines_failure(odd: bytes) -> None:
    merger = parts(n=2).merger
    merger.hold(0, answer("a", usage(1, 0, 1)))
    merger.hold(1, odd)
    merger.finish(0)
    with pytest.raises(EngineRequestFailed):
        merger.finish(1)


# Streams.


def event(**value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def stream(name: str, text: str, spent: dict[str, Any], *, asked: bool = True) -> bytes:
    deltas = [event(id=name, choices=[{"index": 0, "delta": {"content": letter}}]) for letter in text]
    end = event(id=name, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    last = event(id=name, choices=[], usage=spent, timings={}) if asked else b""
    return b"".join(deltas) + end + last + DONE


def values(data: bytes) -> list[Any]:
    return [json.loads(item.removeprefix(b"data: ")) for item in data.split(b"\n\n") if item.startswith(b"data: {")]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 90)), max_size=60))
def test_streams_become_one_at_every_cut_and_in_every_order(turns: list[tuple[int, int]]) -> None:
    left = [stream("a", "Selamat", usage(30, 0, 7)), stream("b", "Hi", usage(30, 30, 2))]
    merger = parts(n=2, stream=True).merger
    out, open_ = b"", {0, 1}
    for part, size in [*turns, (0, 10_000), (1, 10_000)]:
        data, left[part] = left[part][:size], left[part][size:]
        out += merger.feed(part, data)
        if not left[part] and part in open_:
            open_.remove(part)
            out += merger.finish(part)
    assert out.count(DONE) == 1
    assert out.endswith(DONE)
    *events, last = values(out)
    assert {value["id"] for value in (*events, last)} <= {"a", "b"}
    assert len({value["id"] for value in (*events, last)}) == 1
    for index, text in enumerate(("Selamat", "Hi")):
        mine = [choice for value in events for choice in value["choices"] if choice["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == text
        assert mine[-1]["finish_reason"] == "stop"
    assert not any("usage" in value for value in events)
    assert (last["choices"], last["usage"]) == ([], usage(30, 0, 9))
    assert merger.overhead == 0


def test_usage_that_stands_in_the_last_choices_event_is_counted_too() -> None:
    merger = parts("completions", prompt=["a", "b"], stream=True).merger
    text = [{"index": 0, "text": "x", "finish_reason": "stop"}]
    for number in range(2):
        assert b"usage" not in merger.feed(number, event(id="a", choices=text, usage=usage(3, 1, 2)) + DONE)
    merger.finish(0)
    assert values(merger.finish(1))[-1]["usage"] == usage(6, 2, 4)


def test_a_part_that_ends_without_its_end_breaks_the_answer() -> None:
    merger = parts(n=2, stream=True).merger
    merger.feed(0, event(id="a", choices=[{"index": 0, "delta": {"content": "x"}}]))
    with pytest.raises(EngineDead):
        merger.finish(0)


@pytest.mark.parametrize("odd", [b": ping\n\n", b'data: {"error":{"code":500}}\n\n', b"data: null\n\n"])
def test_what_is_no_delta_passes(odd: bytes) -> None:
    assert parts(n=2, stream=True).merger.feed(1, odd) == odd

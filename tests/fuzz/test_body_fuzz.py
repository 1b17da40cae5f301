"""Bodies: whatever is let through means one thing to every parser, and only what must change is changed."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.mutants import mutant

from daulat.errors import InvalidRequest
from daulat.pipeline.actions import NEEDS
from daulat.pipeline.body import asks_for_usage, peek, with_usage
from daulat.pipeline.events import EventStream

DEPTH = 16
ACTIONS = {action: field for action, field in NEEDS.items() if action != "tokenize"}  # which takes either of two
READ = ("model", "stream", "stream_options", "messages", "prompt", "input", "tools", "tool_choice", "thinking")

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=20,
)
names = st.one_of(st.sampled_from([*READ, "seed", "n", "include_usage"]), st.text(max_size=10))
members = st.lists(st.tuples(names, values), max_size=8)


def spelled(text: str, rng: random.Random) -> str:
    """A JSON string, some characters escaped as they need not be."""
    parts = [f"\\u{ord(char):04{rng.choice('xX')}}" if char < "\x80" and rng.random() < 0.2 else char for char in text]
    plain = json.dumps("".join(char if len(char) == 1 else "\0" for char in parts), ensure_ascii=rng.random() < 0.5)
    for part in parts:
        if len(part) > 1:
            plain = plain.replace("\\u0000", part, 1)
    return plain


def read(body: bytes, *, first: bool) -> dict[str, Any]:
    """A body as a parser reads it that takes the first, or the last, of two fields of one name.

    Objects inside stay lists of pairs: what stands twice in there is nobody's business here.
    """
    pairs = json.loads(body, object_pairs_hook=list, parse_int=str, parse_float=str)
    return dict(reversed(pairs)) if first else dict(pairs)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


def check(body: bytes, action: str) -> bool:
    """Whether a body is let through; if so, what must hold of it does."""
    try:
        found = peek(body, action, DEPTH)
        asked = asks_for_usage(found)
    except InvalidRequest as error:
        error.message.encode()
        return False
    body.decode()
    first, last = read(body, first=True), read(body, first=False)
    for name in READ:
        assert first.get(name) == last.get(name), (name, body)
    assert found.model == last["model"]
    assert found.stream == bool(last.get("stream"))
    for name in set(READ) - {"model", "stream"}:
        raw = bytes(found.members.get(name, b""))
        value = json.loads(raw, object_pairs_hook=list, parse_int=str, parse_float=str) if raw else None
        assert value == last.get(name)
    assert last[ACTIONS[action]] is not None
    options = dict(last.get("stream_options") or ())
    assert asked == (options.get("include_usage") is True)
    assert depth(json.loads(body, parse_int=str)) <= DEPTH
    changed = read(with_usage(body, found), first=True)
    assert changed == read(with_usage(body, found), first=False) or len(changed) < 2 or _twice(body)
    assert dict(changed.pop("stream_options")) == {**options, "include_usage": True}
    last.pop("stream_options", None)
    assert changed == last or _twice(body)
    return True


def _twice(body: bytes) -> bool:
    """Whether some name that nobody here reads stands twice: then two readers may differ, and that is the engine's."""
    return read(body, first=True) != read(body, first=False)


@settings(max_examples=600, derandomize=True, deadline=None)
@given(members=members, seed=st.integers(0, 2**32), action=st.sampled_from(sorted(ACTIONS)))
def test_bodies_made_of_fields_given_once_twice_and_oddly_spelled(
    members: list[tuple[str, Any]], seed: int, action: str
) -> None:
    rng = random.Random(seed)  # noqa: S311  reproducible, not secret
    pairs: list[tuple[str, Any]] = [("model", "small"), (ACTIONS[action], "x"), *members]
    rng.shuffle(pairs)
    space = rng.choice(["", " ", "\n\t"])
    inside = f"{space},{space}".join(
        f"{spelled(name, rng)}{space}:{space}{json.dumps(value, ensure_ascii=rng.random() < 0.5)}"
        for name, value in pairs
    )
    body = f"{space}{{{inside}}}{space}".encode(errors="surrogatepass")
    given_twice = {name for name in READ if [other for other, _ in pairs].count(name) > 1}
    assert not (check(body, action) and given_twice)


GOOD = (
    b'{"model":"small","messages":[{"role":"user","content":"hi \\u00e9 \\n"}],"stream":true}',
    b'{"model":"small","prompt":["a","b"],"stream":true,"stream_options":{"include_usage":false,"x":1}}',
    b'{"model":"small","messages":[],"tools":[{"function":{"name":"f","parameters":{"model":{}}}}],"tool_choice":"auto"}',
    '{"input":"\u4f60\u597d","model":"embedder","dimensions":3.5e2}'.encode(),
)


def mutants(first: int, count: int) -> int:
    through = 0
    for seed in range(first, first + count):
        rng = random.Random(seed)  # noqa: S311  reproducible, not secret
        through += check(mutant(rng, GOOD), rng.choice(sorted(ACTIONS)))
    return through


def test_mutants_of_good_bodies() -> None:
    assert mutants(0, 5000) > 100, "else the mutants are too wild to show anything"


@pytest.mark.slow
def test_two_hundred_thousand_mutants_of_bodies() -> None:
    mutants(1_000_000, 200_000)


def said(data: bytes | None) -> list[bytes]:
    """Without blank lines, of which one ends an event and more mean nothing."""
    return [line for line in (data or b"").splitlines() if line]


@settings(max_examples=500, derandomize=True, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(
            [
                b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',
                b'data: {"choices":[],"usage":{"prompt_tokens":1}}\r\n\r\n',
                b": ping\n\n",
                b"data: [DONE]\n\n",
                b"data:[DONE]\r\n\r\n",
                b"\n",
                b"\r\n",
                b"data: [DONE]",
                b'"usage":',
                b"event: x\n",
            ]
        ),
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    show=st.booleans(),
)
def test_an_event_stream_means_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int], show: bool) -> None:
    data = b"".join(parts)
    ends = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
    whole, pieces = EventStream(show_usage=show), EventStream(show_usage=show)

    def fed(stream: EventStream, data: bytes) -> bytes:
        return b"" if stream.final is not None else stream.feed(data)  # nobody feeds it beyond its end

    one = fed(whole, data)
    many = b"".join(fed(pieces, data[start:end]) for start, end in pairwise(ends))
    assert said(one) == said(many)
    assert said(whole.final) == said(pieces.final)
    assert whole.usage == pieces.usage

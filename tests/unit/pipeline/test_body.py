"""What is read of a body, and the few bytes of it that are changed."""

from __future__ import annotations

import json

import pytest

from daulat.errors import InvalidRequest
from daulat.pipeline import body as bodies
from daulat.pipeline.body import asks_for_usage, peek, with_usage

GOOD = b'{"model":"m","messages":[{"role":"user","content":"hi"}]'


def test_only_the_fields_that_matter_are_read() -> None:
    found = peek(GOOD + b',"stream":true,"unknown":{"deep":[1e400]},"temperature":-0.0}', "chat.completions", 64)
    assert (found.model, found.stream) == ("m", True)
    assert bytes(found.members["messages"]) == b'[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(("action", "field"), [("chat.completions", "messages"), ("completions", "prompt")])
def test_what_an_endpoint_needs_must_be_there(action: str, field: str) -> None:
    for body in ({"model": "m"}, {"model": "m", field: None}):
        with pytest.raises(InvalidRequest, match=field) as refused:
            peek(json.dumps(body).encode(), action, 64)
        assert refused.value.param == field
    assert peek(json.dumps({"model": "m", field: ""}).encode(), action, 64)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"model"',
        b"\xef\xbb\xbf" + GOOD + b"}",
        GOOD + b"} x",
        GOOD + b"}\0",
        GOOD + b",}",
        GOOD + b',"x":NaN}',
        GOOD + b',"x":Infinity}',
        GOOD + b',"x":01}',
        GOOD + b',"x":+1}',
        GOOD + b',"x":.5}',
        GOOD + b',"x":0x5}',
        GOOD + b",'x':1}",
        GOOD + b',"x":"\\x"}',
        GOOD + b',"x":"\n"}',
        GOOD + b',"x":"\xff"}',
        GOOD + b',"x":"\xc0\xaf"}',
        GOOD + b',"\xff":1}',
        GOOD + b',"x":"\xed\xa0\x80"}',
        GOOD + b',"x":"\\ud800"}',
        GOOD + b'/**/,"x":1}',
        GOOD[:-3] + b"}",
        GOOD.decode().encode("utf-16"),
        b'{"model":1,"messages":[]}',
        b'{"model":null,"messages":[]}',
        b'{"messages":[]}',
        b'{"model":"\\ud800","messages":[]}',
        b'{"model":"\\udc00","messages":[]}',
    ],
)
def test_what_is_not_json_with_these_fields_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        peek(body, "chat.completions", 64)


@pytest.mark.parametrize(
    "twice",
    [
        b'"model":"n"',
        b'"model":"m"',
        b'"mod\\u0065l":"n"',
        b'"\\u006d\\u006F\\u0064\\u0065\\u006c":"n"',
        b'"messages":[]',
        b'"messages":null',
        b'"tools":[],"tools":[]',
        b'"tool_choice":"none","tool\\u005fchoice":"required"',
        b'"stream":false,"stream":true',
        b'"stream_options":{},"stream_options":{"include_usage":true}',
        b'"prompt":"a","prompt":"b"',
    ],
)
def test_a_field_that_two_parsers_could_read_differently_is_refused(twice: bytes) -> None:
    with pytest.raises(InvalidRequest, match="more than once"):
        peek(GOOD + b"," + twice + b"}", "chat.completions", 64)


def test_the_same_name_deeper_down_is_another_field() -> None:
    tools = b'"tools":[{"function":{"parameters":{"properties":{"model":{},"stream":{},"input":{},"messages":{}}}}}]'
    text = json.dumps({"content": '{"model":"x","model":"y"}'}).encode()
    assert peek(GOOD + b"," + tools + b',"metadata":' + text + b"}", "chat.completions", 64).model == "m"


def test_a_field_that_nobody_here_reads_is_the_engines_business() -> None:
    assert peek(GOOD + b',"seed":1,"seed":2}', "chat.completions", 64)


def test_stream_options_that_contradict_themselves_are_refused() -> None:
    found = peek(GOOD + b',"stream_options":{"include_usage":true,"include_usage":false}}', "chat.completions", 64)
    with pytest.raises(InvalidRequest, match="include_usage"):
        asks_for_usage(found)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth_is_bounded_exactly(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"

    def nested(levels: int) -> bytes:
        inner = opening * (levels - 2) + b"[]" + closing * (levels - 2)
        return b'{"model":"m","messages":"[[[[{{{{\\"[[","x":' + inner + b"}"

    assert peek(nested(64), "chat.completions", 64)
    for levels in (65, 66, 500, 5000, 100_000):
        with pytest.raises(InvalidRequest, match="deep"):
            peek(nested(levels), "chat.completions", 64)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert peek(b'{"model":"m","messages":[' + b",".join([b'[{"[":"{"}]'] * 5000) + b"]}", "chat.completions", 64)


def test_a_body_of_nothing_but_names_is_refused_quickly() -> None:
    names = b",".join(b'"n%d":1' % number for number in range(100_000))
    with pytest.raises(InvalidRequest, match="fields"):
        peek(GOOD + b"," + names + b"}", "chat.completions", 64)


# Usage.


def changed(options: bytes | None) -> bytes:
    body = GOOD + (b"" if options is None else b' , "stream_options" : ' + options) + b' ,"x" : [1e400, -0.0]}'
    found = peek(body, "chat.completions", 64)
    assert not asks_for_usage(found)
    return with_usage(body, found)


def test_usage_is_added_in_front_and_every_other_byte_stays() -> None:
    assert changed(None) == b'{"stream_options":{"include_usage":true},' + GOOD[1:] + b' ,"x" : [1e400, -0.0]}'
    assert with_usage(b' \n{"model":"m"}', peek(b'{"model":"m","prompt":""}', "completions", 64)).startswith(b" \n{")


@pytest.mark.parametrize("options", [b"null", b"{}", b'{"include_usage":false}', b'{"include_usage":null}'])
def test_options_of_the_clients_own_are_kept_and_given_once(options: bytes) -> None:
    body = changed(options)
    assert body.count(b'"stream_options"') == 1, "some engines refuse a field that is given twice"
    assert json.loads(body)["stream_options"] == {"include_usage": True}
    assert b"[1e400, -0.0]" in body, "values pass as they were written"


def test_other_options_pass_as_they_were_written() -> None:
    assert b'{"x":1e400,"include_usage":true}' in changed(b'{"x":1e400,"include_usage":false}')


@pytest.mark.parametrize("options", [b"[]", b"1", b'"x"', b"true", b'{"include_usage":1}', b'{"include_usage":"x"}'])
def test_options_of_the_wrong_kind_are_refused(options: bytes) -> None:
    found = peek(GOOD + b',"stream_options":' + options + b"}", "chat.completions", 64)
    with pytest.raises(InvalidRequest) as refused:
        asks_for_usage(found)
    assert refused.value.param == "stream_options"


def test_who_asks_for_usage_is_known() -> None:
    for options, asked in ((b'{"include_usage":true}', True), (b'{"include_us\\u0061ge":true}', True), (b"{}", False)):
        assert asks_for_usage(peek(GOOD + b',"stream_options":' + options + b"}", "chat.completions", 64)) is asked


def _prefix(action: str = "chat.completions", **fields: object) -> int:
    return bodies.prefix(bodies.peek(json.dumps({"model": "m", **fields}).encode(), action, 64))


def test_prompts_share_a_prefix_by_tools_and_first_message() -> None:
    system, other = ({"role": "system", "content": f"{who} " * 600} for who in ("clerk", "judge"))
    ask = [{"role": "user", "content": "one"}]
    again = [{"role": "user", "content": "two"}]
    assert _prefix(messages=[system, *ask]) == _prefix(messages=[system, *again]) != 0
    assert _prefix(messages=[system, *ask]) != _prefix(messages=[other, *ask])
    assert _prefix(messages=[system, *ask], tools=[{"type": "function"}]) != _prefix(messages=[system, *ask])
    assert _prefix("completions", prompt="a" * 3000) == _prefix("completions", prompt="a" * 4000) != 0


@pytest.mark.parametrize("messages", [[], [1], "x" * 2000, {"role": "x" * 2000}, [{"role": "user", "content": "hi"}]])
def test_what_is_short_or_no_conversation_has_no_prefix(messages: object) -> None:
    assert _prefix(messages=messages) == 0

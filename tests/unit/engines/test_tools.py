"""A binding tool choice becomes a JSON schema; a free one leaves the request as it came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.engines.dialect import EngineRequest
from daulat.engines.llamacpp import tools
from daulat.errors import InvalidRequest
from daulat.pipeline.body import peek


def function(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


WEATHER = function("weather", properties={"city": {"type": "string"}}, required=["city"])
TIME = function("time")
ASK = [{"role": "user", "content": "Weather in Ipoh?"}]


def request(action: str = "chat.completions", **fields: Any) -> EngineRequest:
    body = json.dumps({"model": "m", "messages": ASK, "temperature": 0, **fields}).encode()
    fields = peek(body, "chat.completions", 64).members
    return EngineRequest(action, "/v1/chat/completions", body, stream=False, fields=fields)


def forced(**fields: Any) -> dict[str, Any]:
    changed = tools.change(request(**fields))
    assert changed is not None
    assert json.loads(changed.messages or b"null") == json.loads(changed.body)["messages"]
    return dict(json.loads(changed.body))


def schema(body: dict[str, Any]) -> dict[str, Any]:
    assert body["response_format"]["type"] == "json_schema"
    return dict(body["response_format"]["json_schema"]["schema"])


@pytest.mark.parametrize(
    "fields",
    [{}, {"tools": None}, {"tools": [WEATHER], "tool_choice": "none"}, {"tools": []}, {"tools": [{"type": "x"}]}],
)
def test_requests_without_a_choice_of_tools_are_left_alone(fields: dict[str, Any]) -> None:
    assert tools.change(request(**fields)) is None


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}, {"tool_choice": None}])
def test_a_free_choice_goes_byte_for_byte_and_only_the_answer_is_looked_at(choice: dict[str, Any]) -> None:
    asked = request(tools=[WEATHER], **choice)
    changed = tools.change(asked)
    assert changed is not None
    assert changed.body is asked.body
    assert changed.messages is None
    said = b'data: {"choices":[{"index":0,"delta":{"content":"Rain."},"finish_reason":null}]}\n\n'
    assert changed.rewriter.feed(said) == said


def test_a_required_call_is_asked_for_by_a_schema_of_all_tools() -> None:
    body = forced(tools=[WEATHER, TIME], tool_choice="required", parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)
    assert body["temperature"] == 0
    assert body["messages"][-1] == ASK[0]
    assert "weather" in body["messages"][0]["content"]
    first, second = schema(body)["anyOf"]
    assert first["properties"]["name"] == {"const": "weather"}
    assert first["properties"]["arguments"] == WEATHER["function"]["parameters"]
    assert first["required"] == ["name", "arguments"]
    assert first["additionalProperties"] is False
    assert second["properties"]["name"] == {"const": "time"}


@pytest.mark.parametrize(
    "choice", [{"type": "function", "function": {"name": "time"}}, {"type": "function", "name": "time"}]
)
def test_a_named_tool_is_the_only_one(choice: dict[str, Any]) -> None:
    found = schema(forced(tools=[WEATHER, TIME], tool_choice=choice))
    assert found["properties"]["name"] == {"const": "time"}


def allowed(mode: Any, *names: str, flat: bool = False) -> dict[str, Any]:
    """OpenAI's object, as chat completions have it; `flat`: as responses do."""
    if flat:
        return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name} for name in names]}
    listed = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": listed}}


@pytest.mark.parametrize("flat", [False, True])
def test_allowed_tools_are_those_of_them_of_which_one_is_required(flat: bool) -> None:
    given_tools = [WEATHER, function("nuke"), TIME]
    found = schema(forced(tools=given_tools, tool_choice=allowed("required", "time", "weather", flat=flat)))
    assert [call["properties"]["name"]["const"] for call in found["anyOf"]] == ["weather", "time"]
    found = schema(forced(tools=given_tools, tool_choice=allowed("required", "time", flat=flat)))
    assert found["properties"]["name"] == {"const": "time"}


@pytest.mark.parametrize("flat", [False, True])
def test_allowed_tools_are_all_the_model_is_told_of_where_it_chooses(flat: bool) -> None:
    changed = tools.change(request(tools=[WEATHER, TIME], tool_choice=allowed("auto", "time", flat=flat)))
    assert changed is not None
    body = json.loads(changed.body)
    assert (body["tools"], body["tool_choice"], body["messages"]) == ([TIME], "auto", ASK)
    assert json.loads(changed.tools or b"") == [TIME]
    assert changed.messages is None
    for name, calls in (("time", 1), ("weather", 0)):
        call = json.dumps({"name": name, "arguments": {}})
        answer = {"choices": [{"index": 0, "message": {"content": call}, "finish_reason": "stop"}]}
        changed.rewriter.hold(json.dumps(answer).encode())
        message = json.loads(changed.rewriter.finish())["choices"][0]["message"]
        assert len(message.get("tool_calls", ())) == calls
        changed.rewriter._whole.clear()


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "system", "content": "Be terse."}, *ASK], "Be terse.\n\nCall one"),
        ([{"role": "developer", "content": "Be terse."}, *ASK], "Be terse.\n\nCall one"),
        (ASK, "Call one"),
    ],
)
def test_the_instruction_joins_the_system_message(messages: list[Any], said: str) -> None:
    found = forced(messages=messages, tools=[WEATHER], tool_choice="required")["messages"]
    assert found[0]["content"].startswith(said)
    assert found[1:] == ASK


def test_the_instruction_joins_a_system_message_of_parts() -> None:
    part = {"type": "text", "text": "Be terse."}
    found = forced(messages=[{"role": "system", "content": [part]}, *ASK], tools=[WEATHER], tool_choice="required")[
        "messages"
    ]
    assert found[0]["content"][0] == part
    assert found[0]["content"][1]["text"].startswith("Call one")


def test_definitions_move_to_the_root_and_references_follow() -> None:
    place = {"type": "object", "properties": {"next": {"$ref": "#/$defs/place"}, "to": {"$ref": "#/definitions/to"}}}
    one = function("a", properties={"p": {"$ref": "#/$defs/place"}}, **{"$defs": {"place": place}})
    two = function("b", properties={"p": {"$ref": "#/$defs/place"}}, definitions={"place": {"type": "string"}})
    found = schema(forced(tools=[one, two], tool_choice="required"))
    first, second = (call["properties"]["arguments"] for call in found["anyOf"])
    assert first["properties"]["p"] == {"$ref": "#/$defs/0_place"}
    assert second["properties"]["p"] == {"$ref": "#/$defs/1_place"}
    assert found["$defs"]["0_place"]["properties"]["next"] == {"$ref": "#/$defs/0_place"}
    assert found["$defs"]["0_place"]["properties"]["to"] == {"$ref": "#/$defs/0_to"}
    assert found["$defs"]["1_place"] == {"type": "string"}
    assert "$defs" not in first


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "nuke"}},
        {"type": "function", "function": {}},
        {"type": "function", "function": {"name": ["weather"]}},
        {"type": "function", "function": 7},
        {"type": "function"},
        {"type": "allowed_tools"},
        allowed("none", "weather"),
        allowed(["auto"], "weather"),
        allowed("auto"),
        allowed("required", "weather", "nuke"),
        {"type": "allowed_tools", "mode": "required", "tools": [7]},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
        {"type": "allowed_tools", "mode": "required", "tools": "weather"},
    ],
)
def test_a_choice_that_no_tool_fulfils_is_refused_with_the_field(choice: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tools.change(request(tools=[WEATHER], tool_choice=choice))
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("given_tools", [[], [{"type": "web_search"}], [7], "weather", {"a": 1}])
def test_a_required_call_without_function_tools_is_refused(given_tools: Any) -> None:
    with pytest.raises(InvalidRequest, match="no function tools"):
        tools.change(request(tools=given_tools, tool_choice="required"))


def test_numbers_that_python_will_not_read_are_refused_and_not_a_defect() -> None:
    asked = request(tools=[WEATHER], tool_choice="required")
    body = asked.body.replace(b'"temperature": 0', b'"temperature": ' + b"1" * 5000)
    fields = peek(body, "chat.completions", 64).members
    with pytest.raises(InvalidRequest):
        tools.change(EngineRequest(asked.action, asked.path, body, stream=False, fields=fields))


KEYS = st.sampled_from(["type", "function", "name", "parameters", "$defs", "definitions", "$ref", "properties", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)

ALLOWED = st.fixed_dictionaries({"type": st.just("allowed_tools")}, optional={"allowed_tools": JSON, "tools": JSON})


@settings(derandomize=True, deadline=None)
@given(JSON, JSON | st.sampled_from(["required", "auto"]) | ALLOWED, JSON)
def test_no_tools_choice_or_messages_make_it_fail_otherwise(given_tools: Any, choice: Any, messages: Any) -> None:
    asked = request(tools=given_tools, tool_choice=choice)
    if messages is not None:
        asked = request(tools=given_tools, tool_choice=choice, messages=messages)
    try:
        changed = tools.change(asked)
    except InvalidRequest:
        return
    if changed is not None:
        assert msgspec.json.decode(changed.body), "still JSON"

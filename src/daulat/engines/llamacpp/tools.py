"""Tool choice, made binding: llama.cpp takes `tool_choice: "required"` and lets the model answer as it likes.

A required call is asked for as an answer that must fit a JSON schema made from the tools, which llama.cpp enforces
token by token, and is put back into OpenAI's `tool_calls` (`rewrite`). Where the choice is the model's, the request
goes unchanged and only the answer is looked at, for the forms in which models write a call as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.engines.dialect import EngineRequest
from daulat.engines.llamacpp.rewrite import ToolCalls
from daulat.errors import InvalidRequest

_DEFINITIONS: Final = ("$defs", "definitions")


@dataclass(frozen=True, slots=True)
class Changed:
    """The request as it goes to the engine. Raw, `tools`: these instead; `messages`: with no tools, and these."""

    body: bytes
    rewriter: ToolCalls
    messages: bytes | None = None
    tools: bytes | None = None


def change(request: EngineRequest) -> Changed | None:
    """What tools make of a request; None where it goes as it is and comes back as it is.

    Raises:
        InvalidRequest: a call is required, or a choice among some, and there is no such tool.
    """
    raw = request.raw("tools")
    if request.action != "chat.completions" or raw is None:
        return None
    try:
        return _change(request.body, _functions(raw), json.loads(request.raw("tool_choice") or b'"auto"'))
    except (ValueError, RecursionError):
        raise InvalidRequest("the tools cannot be read", param="tools") from None


def _change(body: bytes, tools: dict[str, Mapping[str, Any]], choice: Any) -> Changed | None:
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind == "allowed_tools":
        mode, tools = _allowed(choice, tools)
        if mode == "auto":
            return _narrowed(body, tools)
    elif kind == "function":
        tools = _named([choice], tools)
    elif kind != "required":
        return Changed(body, ToolCalls(frozenset(tools))) if choice == "auto" and tools else None
    if not tools:
        raise InvalidRequest("tool_choice requires a call, and there are no function tools", param="tool_choice")
    return _forced(body, tools)


def _allowed(choice: Mapping[str, Any], tools: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The mode and the tools of an `allowed_tools`, nested as chat completions have it or flat as responses do."""
    nested = choice.get("allowed_tools")
    said = nested if isinstance(nested, dict) else choice
    mode, listed = said.get("mode"), said.get("tools")
    if mode not in ("auto", "required"):  # in a tuple: a client's value may have no hash
        raise InvalidRequest("the mode of allowed_tools is 'auto' or 'required'", param="tool_choice")
    if not isinstance(listed, list) or not listed:
        raise InvalidRequest("allowed_tools lists the tools that may be called, in 'tools'", param="tool_choice")
    return mode, _named(listed, tools)


def _named(chosen: list[Any], tools: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Those of the tools that are chosen, in their own order."""
    names = set()
    for item in chosen:
        function = item.get("function") if isinstance(item, dict) else None
        holder = function if isinstance(function, dict) else item
        name = holder.get("name") if isinstance(holder, dict) else None
        if not isinstance(name, str) or name not in tools:
            raise InvalidRequest(
                f"tool_choice names {str(name)[:64]!r}, which is none of the tools", param="tool_choice"
            )
        names.add(name)
    return {name: function for name, function in tools.items() if name in names}


def _narrowed(body: bytes, tools: Mapping[str, Mapping[str, Any]]) -> Changed:
    """The model chooses, among these alone: of others it is not told."""
    value = json.loads(body)
    value["tools"] = [{"type": "function", "function": function} for function in tools.values()]
    value["tool_choice"] = "auto"
    raw = json.dumps(value["tools"]).encode()
    return Changed(json.dumps(value).encode(), ToolCalls(frozenset(tools)), tools=raw)


def _functions(raw: bytes) -> dict[str, Mapping[str, Any]]:
    """The function tools by name. Others are the engine's to refuse."""
    tools = json.loads(raw)
    found: dict[str, Mapping[str, Any]] = {}
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            found[function["name"]] = function
    return found


def _forced(body: bytes, tools: Mapping[str, Mapping[str, Any]]) -> Changed:
    value = json.loads(body)
    for name in ("tools", "tool_choice", "parallel_tool_calls"):
        value.pop(name, None)
    value["messages"] = _instructed(value.get("messages"), tools)
    schema = {"name": "tool_call", "strict": True, "schema": call_schema(tools)}
    value["response_format"] = {"type": "json_schema", "json_schema": schema}
    messages = json.dumps(value["messages"]).encode()
    return Changed(json.dumps(value).encode(), ToolCalls(frozenset(tools), forced=True), messages)


def _instructed(messages: Any, tools: Mapping[str, Mapping[str, Any]]) -> Any:
    """The conversation, with what may be called said at the end of the system message."""
    listed = json.dumps(list(tools.values()), ensure_ascii=False)
    text = (
        "Call one of these functions to answer the user. Write only a JSON object "
        f'{{"name": <function>, "arguments": <object>}}. Functions: {listed}'
    )
    if not isinstance(messages, list):
        return messages
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    content = first.get("content")
    if first.get("role") in {"system", "developer"} and isinstance(content, str):
        return [{**first, "content": f"{content}\n\n{text}"}, *messages[1:]]
    if first.get("role") in {"system", "developer"} and isinstance(content, list):
        return [{**first, "content": [*content, {"type": "text", "text": text}]}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def call_schema(tools: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A JSON schema of one call of one of the tools. Definitions move to the root, where references look for them."""
    definitions: dict[str, Any] = {}
    calls = []
    for number, (name, function) in enumerate(tools.items()):
        parameters = function.get("parameters")
        if not isinstance(parameters, dict):
            parameters = {"type": "object", "properties": {}}
        groups = [parameters.get(group) for group in _DEFINITIONS]
        own = {f"{number}_{key}": value for group in groups if isinstance(group, dict) for key, value in group.items()}
        definitions.update({key: _moved(value, number) for key, value in own.items()})
        plain = {key: _moved(value, number) for key, value in parameters.items() if key not in _DEFINITIONS}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": plain},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": definitions} if definitions else schema


def _moved(value: Any, number: int) -> Any:
    if isinstance(value, list):
        return [_moved(item, number) for item in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(item, number) for key, item in value.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str):
        for group in _DEFINITIONS:
            if reference.startswith(f"#/{group}/"):
                moved["$ref"] = f"#/$defs/{number}_{reference.removeprefix(f'#/{group}/')}"
    return moved

"""Switching a model's thinking, however the client asks: put into the words that this model's template takes.

| asked in | as |
|---|---|
| `thinking` | `{"type": "enabled"}` or `{"type": "disabled"}`: DeepSeek's API; Anthropic's, too |
| `chat_template_kwargs` | `{"thinking": true}` or `{"enable_thinking": true}`: vLLM's, SGLang's, llama.cpp's |
| `reasoning_effort` | `none` switches it off, any other on where nothing else is asked |
| Responses' `reasoning.effort`, Messages' `output_config.effort` | the same |

A model that always thinks, or never, cannot be asked otherwise: that is said, not ignored. Efforts that a model has not
become those it has, as DeepSeek's API maps them (https://api-docs.deepseek.com/guides/thinking_mode).
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from daulat.catalog.models import Thinking
from daulat.engines.dialect import EngineRequest
from daulat.errors import InvalidRequest

ACTIONS: Final = frozenset({"chat.completions", "messages", "responses", "messages.tokens", "tokenize"})
_TYPES: Final = {"enabled": True, "adaptive": True, "disabled": False}
_PLAIN: Final = "reasoning_effort"
_OBJECTS: Final = {"responses": "reasoning", "messages": "output_config", "messages.tokens": "output_config"}
_SWITCHES: Final = ("thinking", "enable_thinking")
_EFFORTS: Final = {
    "minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "high", "max": "max", "ultra": "max"
}  # fmt: skip


def switched(request: EngineRequest, rules: Thinking, model: str) -> EngineRequest:
    """The request as the engine has to be asked, every other field as it came.

    Raises:
        InvalidRequest: a switch is none, two contradict each other, or the model cannot be switched so.
    """
    template = _object(request, "chat_template_kwargs")
    effort = _effort(request)
    wanted = _wanted(request, template, effort)
    if wanted is None and effort is None:
        return request
    _must_be_possible(wanted, rules, model)
    fields = dict(request.fields)
    for name in _SWITCHES:
        template.pop(name, None)
    if request.action != "messages" or set(_object(request, "thinking")) <= {"type"}:
        fields.pop("thinking", None)  # engines read a budget beside Anthropic's switch, and want one
    if rules.kind == "switch" and wanted is not None:
        template[rules.argument] = msgspec.Raw(b"true" if wanted else b"false")
    fields.pop("chat_template_kwargs", None)
    if template:
        fields["chat_template_kwargs"] = msgspec.Raw(msgspec.json.encode(template))
    told = None if effort is None or wanted is False or not rules.efforts else _nearest(effort, rules)
    _tell(fields, request, told)
    return msgspec.structs.replace(request, body=msgspec.json.encode(fields), fields=fields)


def _wanted(request: EngineRequest, template: dict[str, msgspec.Raw], effort: str | None) -> bool | None:
    """Whether thinking is asked for; None where nothing is said."""
    said: dict[str, bool] = {}
    if request.raw("thinking") is not None:
        type_ = _value(_object(request, "thinking").get("type"))
        if not isinstance(type_, str) or type_ not in _TYPES:
            raise InvalidRequest('thinking is {"type": "enabled"} or {"type": "disabled"}.', param="thinking")
        said["thinking"] = _TYPES[type_]
    for name in _SWITCHES:
        value = _value(template.get(name))
        if isinstance(value, bool):
            said[f"chat_template_kwargs.{name}"] = value
        elif value is not None:
            raise InvalidRequest(f"chat_template_kwargs.{name} is true or false.", param="chat_template_kwargs")
    if effort == "none":
        said["the effort"] = False
    if len(set(said.values())) > 1:
        on, off = ([name for name, value in said.items() if value is way] for way in (True, False))
        raise InvalidRequest(f"{on[0]} asks for thinking, {off[0]} for none: ask for one of them.", param="thinking")
    if said:
        return next(iter(said.values()))
    return None if effort is None else True


def thinks(request: EngineRequest, rules: Thinking) -> bool:
    """Whether the model thinks when it is asked so, as `switched` has left it."""
    if rules.kind != "switch":
        return rules.kind == "always"
    said = _value(_object(request, "chat_template_kwargs").get(rules.argument))
    return said if isinstance(said, bool) else rules.default


def _must_be_possible(wanted: bool | None, rules: Thinking, model: str) -> None:  # noqa: FBT001  a state, not a flag
    if rules.kind == "always" and wanted is False:
        raise InvalidRequest(f"'{model}' always thinks before it answers; it cannot be switched off.", param="thinking")
    if rules.kind == "never" and wanted:
        raise InvalidRequest(f"'{model}' does not think; ask a model that does.", param="thinking")


def _effort(request: EngineRequest) -> str | None:
    value = _value(_object(request, _OBJECTS[request.action]).get("effort")) if request.action in _OBJECTS else None
    if value is None:
        value = _value(msgspec.Raw(request.raw(_PLAIN) or b"null"))
    if value is not None and value != "none" and (not isinstance(value, str) or value not in _EFFORTS):
        raise InvalidRequest(f"The effort is none, {', '.join(_EFFORTS)}.", param=_PLAIN)
    return None if value is None else str(value)


def _tell(fields: dict[str, msgspec.Raw], request: EngineRequest, effort: str | None) -> None:
    """The effort, where this wire has it; None: none is told."""
    fields.pop(_PLAIN, None)
    name = _OBJECTS.get(request.action)
    if name is None:
        if effort is not None:
            fields[_PLAIN] = msgspec.Raw(json.dumps(effort).encode())
        return
    members = _object(request, name)
    members.pop("effort", None)
    fields.pop(name, None)
    if effort is not None:
        members["effort"] = msgspec.Raw(json.dumps(effort).encode())
    if members:
        fields[name] = msgspec.Raw(msgspec.json.encode(members))


def _nearest(effort: str, rules: Thinking) -> str:
    found = effort if effort in rules.efforts else _EFFORTS[effort]
    if found in rules.efforts:
        return found
    return rules.efforts[0 if found == "low" else -1]


_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _object(request: EngineRequest, name: str) -> dict[str, msgspec.Raw]:
    raw = request.raw(name)
    try:
        return {} if raw is None else _members(raw)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest(f"{name} is an object.", param=name) from None


def _value(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else json.loads(bytes(raw))

"""Calls that a model wrote as text, put into OpenAI's `tool_calls`; every other byte passes as it came.

In a stream, text is kept back only while it may still be a call: from its first characters on it is known to be none,
or is held until the choice is finished.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from daulat.engines.rewriting import UNREADABLE, Rewriting, called, framed, written

_TAGGED: Final = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_FENCED: Final = re.compile(r"\A```(?:json)?\s*(.*?)\s*(?:```)?\Z", re.DOTALL)
_FIRST_KEY: Final = re.compile(r'[\[{\s]*"([^"\\]*)"')
_KEYS: Final = frozenset({"name", "arguments", "parameters", "function", "type", "id", "tool_call", "tool_calls"})
_BEGUN: Final = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")(?:\s*,\s*"arguments"\s*:\s*(.*))?', re.DOTALL)
_TAG: Final = "<tool_call>"
_FENCES: Final = ("```json", "```")
_CUT: Final = "length"
_LONGEST: Final = 1_048_576  # characters kept back


def calls_in(text: str, names: frozenset[str]) -> list[tuple[str, str]] | None:
    """(name, arguments as JSON) of each call, when the text is nothing but calls of these functions."""
    text = text.strip()
    if tagged := _TAGGED.findall(text):
        if _TAGGED.sub("", text).strip():
            return None
        parts = tagged
    else:
        fenced = _FENCED.match(text)
        parts = [fenced[1] if fenced else text]
    found: list[tuple[str, str]] = []
    for part in parts:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            return None
        for item in value if isinstance(value, list) else [value]:
            calls = _calls_of(item, names)
            if not calls:
                return None
            found += calls
    return found or None


def _calls_of(value: Any, names: frozenset[str]) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return []
    if isinstance(inner := value.get("tool_calls"), list):
        lists = [_calls_of(item, names) for item in inner]
        return [call for calls in lists for call in calls] if all(lists) else []
    for wrapper in ("tool_call", "function"):
        if isinstance(value.get(wrapper), dict):
            return _calls_of(value[wrapper], names)
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
    try:
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if isinstance(name, str) and name in names and isinstance(arguments, dict):
            return [(name, written(arguments))]
    except (ValueError, RecursionError):
        pass  # no JSON, or NaN, which JSON has not
    return []


def begun(text: str, names: frozenset[str]) -> list[tuple[str, str]]:
    """The call that an answer began which had to be one, and was cut: the arguments as far as they came. None where it
    was cut before the function was named."""
    found = _BEGUN.match(text)
    if found is not None:
        with contextlib.suppress(ValueError):
            name = json.loads(found[1])
            return [(name, found[2] or "")] if name in names else []
    return [(name, "") for name in names] if len(names) == 1 else []


def may_be_call(text: str) -> bool:
    """Whether text that begins like this may still become nothing but calls."""
    short = len(text) <= _LONGEST
    text = text.lstrip()
    if text.startswith(_TAG) or _TAG.startswith(text):
        return short
    for fence in _FENCES:
        if fence.startswith(text):
            return True
        if text.startswith(fence):
            text = text.removeprefix(fence).lstrip()
            break
    if not text:
        return True
    if text[0] not in "{[":
        return False
    if key := _FIRST_KEY.match(text):
        return short and key[1] in _KEYS
    return not text.strip('{[ \t\r\n"') or _FIRST_KEY.match(text + '"') is not None


@dataclass(slots=True)
class _Choice:
    """One choice of a stream. `open`: its text may still be a call."""

    text: str = ""
    held: list[bytes] = field(default_factory=list)
    open: bool = True


class ToolCalls(Rewriting):
    """One answer's rewriter (`engines.dialect.Rewriter`)."""

    def __init__(self, names: frozenset[str], *, forced: bool = False) -> None:
        """`forced`: the answer fits the schema of a call, as far as it goes."""
        super().__init__()
        self._names, self._forced = names, forced
        self._choices: dict[int, _Choice] = {}

    def left(self) -> bytes:
        return b"".join(data for choice in self._choices.values() for data in choice.held)

    def choice(self, choice: dict[str, Any]) -> bool:
        message = choice["message"]
        content = message.get("content")
        if message.get("tool_calls") or not isinstance(content, str):
            return False
        calls, finish = self._calls(content, choice.get("finish_reason"))
        if calls is None:
            return False
        message["content"] = None
        if calls:
            message["tool_calls"] = [called(*call) for call in calls]
        choice["finish_reason"] = finish
        return True

    def _calls(self, text: str, finish: Any) -> tuple[list[tuple[str, str]] | None, Any]:
        """The calls that a choice's whole text is, and how it ended then; None where it is none."""
        calls = calls_in(text, self._names) if text else None
        if calls is None and self._forced and finish == _CUT and text.lstrip().startswith("{"):
            return begun(text, self._names), finish
        return calls, "tool_calls"

    def event(self, event: bytes) -> bytes:
        try:
            value = json.loads(event.removeprefix(b"data:"))
            choice = value["choices"][0]
            index, delta = int(choice["index"]), choice["delta"]
            text, native = delta.get("content") or "", bool(delta.get("tool_calls"))
        except UNREADABLE:
            return event  # [DONE], usage, an error: not ours
        state = self._choices.setdefault(index, _Choice())
        if not state.open or native:
            return self._let_go(state, event)
        if isinstance(text, str) and text:
            state.text += text
            state.held.append(event)
            if not may_be_call(state.text):
                return self._let_go(state, b"")
            event = b""
        if choice.get("finish_reason") is None:
            return event
        calls, finish = self._calls(state.text, choice["finish_reason"])
        if calls is None:
            return self._let_go(state, event)
        state.held, state.open = [], False
        return self._called(value, index, calls, finish)

    def _let_go(self, state: _Choice, event: bytes) -> bytes:
        held, state.held, state.open = b"".join(state.held), [], False
        return held + event

    def _called(self, value: dict[str, Any], index: int, calls: list[tuple[str, str]], finish: str) -> bytes:
        """Two events in place of what was held: the calls, and the end of the choice."""
        delta = {"tool_calls": [called(*call, number) for number, call in enumerate(calls)]}
        spoken = {**value, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
        spoken.pop("usage", None)
        ended = {**value, "choices": [{**value["choices"][0], "delta": {}, "finish_reason": finish}]}
        return (framed(spoken) if calls else b"") + framed(ended)

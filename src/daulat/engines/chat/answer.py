"""A chat answer put into the one form in which clients get it, whatever the engine made of the model's words.

Reasoning is called `reasoning_content`; a `<think>` block that stands at the beginning of the text becomes reasoning;
tool calls in one of DeepSeek's formats become `tool_calls`. Every other byte passes as it came.
"""

from __future__ import annotations

import json
from typing import Any, Final

from daulat.engines.chat import reasoning
from daulat.engines.chat.calls import Call, Calls
from daulat.engines.chat.reasoning import Thought
from daulat.engines.rewriting import UNREADABLE, Rewriting, called, framed

_REASONING: Final = (b'"reasoning"',)
_TAGS: Final = (b"<", rb"\u003c", rb"\u003C", rb'\n"', *_REASONING)
_STOP: Final = "stop"
_EVENT_ENDS: Final = (b"\n\n", b"\n\r\n")


class _Choice:
    """One choice of an answer. `called`: how many calls were found in its text."""

    __slots__ = ("_calls", "_thought", "called", "frame")

    def __init__(self, *, tools: bool, thinks: bool, opened: bool) -> None:
        self._thought = Thought(opened=opened) if thinks else None
        self._calls = Calls() if tools else None
        self.called = 0
        self.frame: dict[str, Any] = {}  # the newest event, without its choice

    @property
    def idle(self) -> bool:
        """Whether what comes can pass as it is, the choice's end included."""
        return (
            not self.called
            and (self._thought is None or self._thought.idle)
            and (self._calls is None or self._calls.idle)
        )

    def reasoned(self) -> None:
        """The engine tells this choice's reasoning apart."""
        if self._thought is not None:
            self._thought.told()

    def take(self, text: str, *, last: bool = False, stopped: bool = False) -> tuple[str, list[str | Call]]:
        """The reasoning in a piece of text, and the text and calls behind it. `stopped`: the model ended by itself."""
        thought = ""
        if self._thought is not None:
            thought, text = self._thought.feed(text, last=last, stopped=stopped)
        if self._calls is None:
            return thought, [text] if text else []
        pieces = self._calls.feed(text)
        return thought, [*pieces, *self._calls.finish()] if last else pieces

    def call(self, call: Call, *, streamed: bool) -> dict[str, Any]:
        """OpenAI's object for a call."""
        number, self.called = self.called, self.called + 1
        return called(call.name, call.arguments, number if streamed else None)


class Answer(Rewriting):
    """One answer's rewriter (`engines.dialect.Rewriter`)."""

    def __init__(self, *, tools: bool, thinks: bool, opened: bool = False, choices: int = 1) -> None:
        """`tools`: the request has some, so calls may come. `opened`: an answer may begin inside a thought (`Thought`).
        `choices`: so many answers were asked for."""
        super().__init__()
        self._tools, self._thinks, self._opened, self._asked = tools, thinks, opened, choices
        self._choices: dict[int, _Choice] = {}
        self._tags = _TAGS if tools or thinks else _REASONING
        self._busy = thinks  # the first text of every choice must be looked at

    # A whole answer.

    def choice(self, choice: dict[str, Any]) -> bool:
        message = choice["message"]
        changed = reasoning.rename(message)
        content = message.get("content")
        if not isinstance(content, str) or not content:
            return changed
        state = self._choice()
        if message.get(reasoning.OURS):
            state.reasoned()
        thought, pieces = state.take(content, last=True, stopped=choice.get("finish_reason") == _STOP)
        calls = [state.call(piece, streamed=False) for piece in pieces if isinstance(piece, Call)]
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        if text == content:
            return changed
        message["content"] = text or (None if calls else "")
        if thought:
            message[reasoning.OURS] = (message.get(reasoning.OURS) or "") + thought
        if calls:
            message["tool_calls"] = [*(message.get("tool_calls") or []), *calls]
            choice["finish_reason"] = _reason(choice.get("finish_reason"))
        return True

    # A stream.

    def feed(self, data: bytes) -> bytes:
        if not (self._busy or self._rest) and data.endswith(_EVENT_ENDS) and not any(tag in data for tag in self._tags):
            return data
        passed = super().feed(data)
        unseen = self._thinks and len(self._choices) < self._asked
        self._busy = unseen or any(not choice.idle for choice in self._choices.values())
        return passed

    def left(self) -> bytes:
        return b"".join([part for index, choice in self._choices.items() for part in self._flushed(index, choice)])

    def event(self, event: bytes) -> bytes:
        try:
            value = json.loads(event.removeprefix(b"data:"))
            choices = value["choices"]
            parts = [self._part(value, choice) for choice in choices]
        except UNREADABLE:
            return event  # [DONE], usage, a comment, an error: not ours
        if len(parts) == 1 and parts[0] is None:
            return event
        usage = value.pop("usage", None)
        events = [
            {**value, "choices": [made]}
            for choice, part in zip(choices, parts, strict=True)
            for made in ([choice] if part is None else part)
        ]
        if usage is not None:
            events.append({**value, "choices": [], "usage": usage})
        return b"".join(map(framed, events))

    def _part(self, value: dict[str, Any], choice: dict[str, Any]) -> list[dict[str, Any]] | None:
        """What a choice of an event becomes; None: it stays as it is."""
        delta, index, ended = choice["delta"], int(choice["index"]), choice.get("finish_reason") is not None
        state = self._choices.setdefault(index, self._choice())
        state.frame = {name: member for name, member in value.items() if name not in {"choices", "usage"}}
        renamed = reasoning.rename(delta)
        if delta.get(reasoning.OURS):
            state.reasoned()
        content = delta.get("content")
        text = content if isinstance(content, str) else ""
        native = bool(delta.get("tool_calls"))
        if not text and not ended and not native:
            return [choice] if renamed else None
        thought, pieces = state.take(text, last=ended or native, stopped=choice.get("finish_reason") == _STOP)
        if not thought and pieces == ([text] if text else []) and not (ended and state.called):
            return [choice] if renamed else None
        made = self._deltas(index, state, thought, pieces)
        rest = {name: member for name, member in delta.items() if name != "content"}
        if made and rest:
            made[0]["delta"] = {**rest, **made[0]["delta"]} if not native else made[0]["delta"]
        if native:
            made.append({**choice, "delta": rest})
        elif ended:
            made.append({**choice, "delta": {} if made else rest})
        elif not made and rest:
            made.append({**choice, "delta": rest})
        if ended and state.called:
            made[-1]["finish_reason"] = _reason(choice["finish_reason"])
        return made

    def _choice(self) -> _Choice:
        return _Choice(tools=self._tools, thinks=self._thinks, opened=self._opened)

    def _flushed(self, index: int, choice: _Choice) -> list[bytes]:
        """What is left of a choice whose stream ended without an end."""
        thought, pieces = choice.take("", last=True)
        return [framed({**choice.frame, "choices": [made]}) for made in self._deltas(index, choice, thought, pieces)]

    @staticmethod
    def _deltas(index: int, state: _Choice, thought: str, pieces: list[str | Call]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = [{reasoning.OURS: thought}] if thought else []
        for piece in pieces:
            if isinstance(piece, str):
                deltas.append({"content": piece})
            else:
                deltas.append({"tool_calls": [state.call(piece, streamed=True)]})
        return [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]


def _reason(engines: Any) -> Any:
    """A choice with calls ends because of them, unless it was cut."""
    return "tool_calls" if engines in {_STOP, None} else engines

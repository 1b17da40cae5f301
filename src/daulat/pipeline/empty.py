"""Answers that say 200 and nothing else. Engines on new silicon are known to give them; nobody must be sent one.

An answer is judged by its content alone, not by the tokens that its usage counts: an engine counts the token that ends
an answer, and one that computes nonsense counts hundreds of tokens that leave no text. Nothing was said where no choice
has content, reasoning, a tool call or a refusal; whitespace is content. Lawfully empty is what ended

- for a reason that says so: `content_filter`, `tool_calls`, a refusal;
- where the request had room for nothing: one token at most, or, cut by `length`, so few that they may be a part of one
  character; or where the model's context was full;
- at a stop sequence of the request's own, at once. Where the engine tells which (vLLM, SGLang), it is held to that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from daulat.errors import EngineRequestFailed
from daulat.pipeline.actions import COUNTING
from daulat.pipeline.usage import Usage

MOST_UNSAID: Final = 65_536
"""Bytes of a stream that may be kept back while nothing is said in it."""

_WORDS: Final = ("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal", "audio", "text")
_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict")
_STOPS: Final = ("stop", "stop_token_ids", "stop_sequences")
_NO_STOP: Final = frozenset({b"null", b"[]", b'""'})
_ONE: Final = 1  # token, which may be the one that ends an answer
_FEW: Final = 3  # tokens, which may be the first bytes of one character: engines hold such back
_DIGITS: Final = 10
_SAYS: Final = re.compile(
    rb'"error"\s*:\s*[{"]'
    rb'|"(?:content|reasoning_content|reasoning|text|thinking|partial_json|delta|refusal|arguments|data)"\s*:'
    rb'\s*(?:"[^"]|\[\s*\{(?!\s*"token"))'  # log-probabilities stand in a `content`, too, of the ending token as well
    rb'|"(?:tool_calls|function_call|audio)"\s*:\s*(?:\[\s*\{|\{)|"type"\s*:\s*"(?:tool_use|function_call)"'
)
# What nearly all answers have near their beginning, so that they need not be read: a name, and how it goes on.
_SAID: Final = {
    "chat.completions": (
        b'"message"',
        re.compile(
            rb'\s*:\s*\{\s*(?:"role"\s*:\s*"assistant"\s*,\s*)?'
            rb'"(?:content|reasoning_content|reasoning)"\s*:\s*"[^"]'
        ),
    ),
    "completions": (b'"text"', re.compile(rb'\s*:\s*"[^"]')),
}
_DATA: Final = re.compile(rb"^data:(.*)$", re.MULTILINE)


class Asked(NamedTuple):
    """What of a request may excuse an empty answer: its `members`, as they came, and the model's context in tokens."""

    members: Mapping[str, msgspec.Raw]
    context: int = 0

    def excuses(self, reason: str, usage: Usage | None, told: Mapping[str, Any]) -> bool:
        """Whether an answer may be empty that ended by `stop` or `length`; `told`: what the engine says of the end."""
        room = self._room()
        if room is not None and room <= (_FEW if reason == "length" else _ONE):
            return True
        if reason == "length":
            return usage is not None and 0 < self.context <= usage.prompt_tokens + usage.completion_tokens
        return self._stops(told)

    def _room(self) -> int | None:
        """Tokens that the answer may have; None: as many as the engine gives it."""
        texts = [bytes(self.members[name]) for name in _LIMITS if name in self.members]
        return min((int(text) for text in texts if text.isdigit() and len(text) < _DIGITS), default=None)

    def _stops(self, told: Mapping[str, Any]) -> bool:
        """Whether a stop sequence of the request may have ended it."""
        own = {name for name in _STOPS if bytes(self.members.get(name, b"null")) not in _NO_STOP}
        if not own:
            return False
        for name in ("stop_reason", "matched_stop"):  # vLLM: null at the model's own end; SGLang: that token's number
            if name in told:
                at = told[name]
                return isinstance(at, str) or (isinstance(at, int) and "stop_token_ids" in own)
        return True


def anything() -> Asked:
    """A request that excuses nothing."""
    return Asked(MappingProxyType({}))


def is_empty(action: str, answer: bytes, usage: Usage | None, asking: Callable[[], Asked] = anything) -> bool:
    """Whether a whole answer, a JSON object, says nothing without an excuse. What cannot be understood is not judged.

    `asking` tells of the request, where that matters: hardly ever.
    """
    if action in COUNTING or _says_at_once(action, answer):
        return False
    if action == "embeddings":
        return b'"embedding"' not in answer
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False  # stricter than who has looked at it before: it is something, at least
    asked = asking()
    if action == "responses":
        return _response_silent(value, usage, asked)
    if action == "messages":
        return _message_silent(value, usage, asked)
    choices = value.get("choices")
    return not choices or not _any(choices, lambda choice: _choice_says(choice) or _excused(choice, usage, asked))


def _says_at_once(action: str, answer: bytes) -> bool:
    if action not in _SAID:
        return False
    name, goes_on = _SAID[action]
    at = answer.find(name)  # quicker than a pattern that begins with it
    return at >= 0 and goes_on.match(answer, at + len(name)) is not None


def speaks(events: bytes, before: int = 0) -> bool:
    """Whether something is said in a stream's first events, of whichever wire; or more than may be kept back has come
    with them and the `before` bytes that said nothing."""
    return before + len(events) > MOST_UNSAID or _SAYS.search(events) is not None


def ended_empty(action: str, events: bytes, final: bytes, usage: Usage | None, asked: Asked) -> bool:
    """Whether a stream has no excuse in which nothing was said: `events` are all of it but the `final` one."""
    if action == "responses":
        for value in _values(final):
            end, status = value.get("response"), str(value.get("type")).removeprefix("response.")
            return not isinstance(end, dict) or _response_silent({"status": status, **end}, usage, asked)
        return True
    if action == "messages":
        deltas = [delta for value in _values(events) if isinstance(delta := value.get("delta"), dict)]
        return _message_silent(next((delta for delta in deltas if delta.get("stop_reason")), {}), usage, asked)
    for value in _values(events):
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if _choice_says(choice) or (choice.get("finish_reason") and _excused(choice, usage, asked)):
                return False
    return True


def failure() -> EngineRequestFailed:
    """What becomes of an attempt whose answer was empty."""
    return EngineRequestFailed("The engine's answer is empty.", status=502, code="empty_answer")


def _values(events: bytes) -> Iterator[dict[str, Any]]:
    for data in _DATA.findall(events):
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _any(parts: Any, says: Any) -> bool:
    return isinstance(parts, list) and any(says(part) for part in parts)


# Reasons are compared in tuples: an engine's value may have no hash.


def _choice_says(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return True  # not for us to judge
    if choice.get("finish_reason") not in ("stop", "length", None):
        return True
    message = choice.get("message", choice.get("delta", choice))
    if not isinstance(message, dict):
        return True
    return any(_any(said, _block_says) if isinstance(said, list) else said for said in map(message.get, _WORDS))


def _excused(choice: Mapping[str, Any], usage: Usage | None, asked: Asked) -> bool:
    return asked.excuses("length" if choice.get("finish_reason") == "length" else "stop", usage, choice)


def _response_silent(value: Mapping[str, Any], usage: Usage | None, asked: Asked) -> bool:
    details = value.get("incomplete_details")
    cut = value.get("status") == "incomplete"
    why = details.get("reason") if isinstance(details, dict) else None
    if (value.get("status") != "completed" and not cut) or (cut and why not in (None, "max_output_tokens")):
        return False
    return not _any(value.get("output"), _item_says) and not asked.excuses("length" if cut else "stop", usage, {})


def _message_silent(value: Mapping[str, Any], usage: Usage | None, asked: Asked) -> bool:
    reason = value.get("stop_reason")
    if reason not in ("end_turn", "stop_sequence", "max_tokens", None) or _any(value.get("content"), _block_says):
        return False
    told = {"stop_reason": ""} if reason == "stop_sequence" else {}  # vLLM says `end_turn` of any stop
    return not asked.excuses("length" if reason == "max_tokens" else "stop", usage, told)


def _item_says(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type") not in ("message", "reasoning"):
        return True
    return bool(item.get("encrypted_content")) or any(
        _any(item.get(name), _block_says) for name in ("content", "summary")
    )


def _block_says(block: Any) -> bool:
    if not isinstance(block, dict):
        return True
    type_ = block.get("type")
    if type_ in ("text", "output_text", "reasoning_text", "summary_text"):
        return bool(block.get("text"))
    return type_ != "thinking" or bool(block.get("thinking"))

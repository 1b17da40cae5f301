"""Answers that say 200 and nothing else. Engines on new silicon are known to give them; nobody must be sent one.

Nothing was said where no choice has content, reasoning, a tool call or a refusal, the engine claims to have ended by
itself, and it counts no token. What ended for another reason (`length` after a single stop token, `tool_calls`,
`content_filter`), or did generate tokens that leave no text, is an answer.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from daulat.errors import EngineRequestFailed
from daulat.pipeline.actions import COUNTING
from daulat.pipeline.events import EventStream
from daulat.pipeline.typed import TypedStream
from daulat.pipeline.usage import Usage

MOST_UNSAID: Final = 65_536
"""Bytes of a stream that may be kept back while nothing is said in it."""

_CHOICES: Final = b'"choices":[{'
_WORDS: Final = ("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal", "audio", "text")
_SAYS: Final = re.compile(
    rb'"error"\s*:\s*[{"]'
    rb'|"(?:content|reasoning_content|reasoning|text|thinking|partial_json|delta|refusal|arguments|data)"\s*:'
    rb'\s*(?:"[^"]|\[\s*\{)'
    rb'|"(?:tool_calls|function_call|audio)"\s*:\s*(?:\[\s*\{|\{)|"type"\s*:\s*"(?:tool_use|function_call)"'
    rb'|"finish_reason"\s*:\s*"(?!stop")|"stop_reason"\s*:\s*"(?!end_turn")|"status"\s*:\s*"incomplete"'
)


def is_empty(action: str, answer: bytes, usage: Usage | None) -> bool:
    """Whether a whole answer, a JSON object, says nothing. What cannot be understood is not judged."""
    generated = usage is not None and usage.completion_tokens > 0
    if (generated and _CHOICES in answer) or action in COUNTING:
        return False
    if action == "embeddings":
        return b'"embedding"' not in answer
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False  # stricter than who has looked at it before: it is something, at least
    if action == "responses":
        return not generated and value.get("status") == "completed" and not _any(value.get("output"), _item_says)
    if action == "messages":
        ended = value.get("stop_reason") in ("end_turn", None)  # in a tuple: an engine's value may have no hash
        return not generated and ended and not _any(value.get("content"), _block_says)
    choices = value.get("choices")
    return not choices or (not generated and not _any(choices, _choice_says))


def speaks(events: bytes, before: int = 0) -> bool:
    """Whether something is said in a stream's first events, of whichever wire; or more than may be kept back has come
    with them and the `before` bytes that said nothing."""
    return before + len(events) > MOST_UNSAID or _SAYS.search(events) is not None


def counted(events: EventStream | TypedStream | None) -> bool:
    """Whether a stream's usage counts tokens that were generated."""
    usage = events.usage if events is not None else None
    return usage is not None and usage.completion_tokens > 0


def failure() -> EngineRequestFailed:
    """What becomes of an attempt whose answer was empty."""
    return EngineRequestFailed("The engine's answer is empty.", status=502, code="empty_answer")


def _any(parts: Any, says: Any) -> bool:
    return isinstance(parts, list) and any(says(part) for part in parts)


def _choice_says(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return True  # not for us to judge
    if choice.get("finish_reason") not in ("stop", None):
        return True
    message = choice.get("message", choice)
    return not isinstance(message, dict) or any(message.get(word) for word in _WORDS)


def _item_says(item: Any) -> bool:
    return not isinstance(item, dict) or item.get("type") != "message" or _any(item.get("content"), _block_says)


def _block_says(block: Any) -> bool:
    if not isinstance(block, dict):
        return True
    type_ = block.get("type")
    if type_ in ("text", "output_text"):
        return bool(block.get("text"))
    return type_ != "thinking" or bool(block.get("thinking"))

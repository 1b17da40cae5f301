"""Does an engine answer at all, and to what it was asked? For those that do not tell likelihoods (`engines.answers`).

A few common words, drawn anew each time, are to be said again: over `/v1/chat/completions`, as clients ask, greedily
and with a seed. Any model that was trained on text does that more or less, and no noise does by chance. An answer is
wrong where it is empty, no UTF-8, one token over and over, or has fewer than two of four words. It takes four wrong
ones in a row, since a small model misses one in ten (SmolLM2-135M). What a model thinks counts as well: a thinking one
says the words there first, and may be cut.

This sees a dead or babbling engine. It does not see what likelihoods show: a cache that is a little wrong, a batch that
differs, weights that are spoilt in part.
"""

from __future__ import annotations

import json
import random
from typing import Any, Final

from daulat.engines.answers import Report
from daulat.engines.passage import WORDS
from daulat.engines.port import Fetch
from daulat.errors import EngineError, EngineRequestFailed

COUNT: Final = 4  # words
LEAST: Final = 2  # of them, in an answer that makes sense
MOST_TOKENS: Final = 64  # of an answer
DRAWS: Final = 4
MOST_PROMPT: Final = 512  # tokens that a template puts around so short a question, system prompt and all
_REPEATED: Final = 4
_OK: Final = 200
_BUSY: Final = frozenset({429, 503, 504})
_NO_CHAT: Final = frozenset({400, 404, 405, 422, 501})  # a model without a chat template, a server without that address
_MOST_SAID: Final = 200  # characters of an engine's own words


async def check(fetch: Fetch, model: str, report: Report, *, seed: int) -> None:
    """One round, into `report`, kept true throughout as `engines.answers.check` does.

    Raises:
        EngineError: the engine gave no answer, or is busy; nothing is known of its answers then.
    """
    fault = ""
    for draw in range(DRAWS):
        words = random.Random(seed + draw).sample(WORDS, COUNT)  # noqa: S311  no secret: a seed gives its words again
        try:
            said = await _asked(fetch, model, report, words, seed + draw)
        except EngineRequestFailed as error:
            report.faults.append(error.message)
            return
        copied = sum(word in said.lower() for word in words)
        report.measured["copied"] = copied / COUNT
        fault = _fault(said, copied)
        if not fault:
            return
    report.faults.append(fault)


def _fault(said: str, copied: int) -> str:
    """What is wrong with an answer; "" where it makes sense."""
    letters = "".join(said.split())
    if not letters:
        return "an empty answer"
    if not letters.strip("\ufffd"):
        return "an answer that is not UTF-8"
    for parts in (letters, said.split()):
        if len(parts) >= _REPEATED and len({*parts}) == 1:
            return f"one token, {len(parts)} times"
    return "" if copied >= LEAST else f"{copied} of {COUNT} words that it was to repeat"


async def _asked(fetch: Fetch, model: str, report: Report, words: list[str], seed: int) -> str:
    """The text of one answer, thoughts before it; a model that knows no conversation goes on with a list."""
    line = " ".join(words)
    asked = {"model": model, "temperature": 0, "seed": seed % 2**31 or 1, "max_tokens": MOST_TOKENS}
    chat = {**asked, "messages": [{"role": "user", "content": f"Repeat these words: {line}"}]}
    status, said = await _posted(fetch, "/v1/chat/completions", chat, report)
    if status in _NO_CHAT:
        going_on = {**asked, "prompt": f"{line}\n{line}\n{line}\n"}
        status, said = await _posted(fetch, "/v1/completions", going_on, report)
    words_of_its_own = said[:_MOST_SAID].decode(errors="replace")
    if status in _BUSY:
        raise EngineError(f"it answered {status}: {words_of_its_own}")
    if status != _OK:
        raise EngineRequestFailed(f"it answered {status}: {words_of_its_own}", status=status)
    return _text(_read(said))


async def _posted(fetch: Fetch, path: str, body: dict[str, Any], report: Report) -> tuple[int, bytes]:
    """What came; it counts with the most that it may spend, until the engine says what it was."""
    report.prompt_tokens += MOST_PROMPT
    report.completion_tokens += MOST_TOKENS
    status, said = await fetch("POST", path, json.dumps(body).encode())
    if status in _NO_CHAT:
        spent: tuple[int, int] | None = (0, 0)
    else:
        spent = _spent(said) if status == _OK else None
    if spent is not None:
        report.prompt_tokens += spent[0] - MOST_PROMPT
        report.completion_tokens += spent[1] - MOST_TOKENS
    return status, said


def _read(said: bytes) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        raise EngineRequestFailed("it answered with what is not JSON in UTF-8", status=_OK) from None


def _spent(said: bytes) -> tuple[int, int] | None:
    """Prompt tokens that were computed, and those that were written; None where it does not say."""
    try:
        usage = json.loads(said)["usage"]
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        return max(0, int(usage["prompt_tokens"]) - cached), max(0, int(usage["completion_tokens"]))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _text(said: Any) -> str:
    try:
        choice = said["choices"][0]
        message = choice.get("message", choice)
        parts = (message.get(name) for name in ("reasoning_content", "reasoning", "content", "text"))
        return " ".join(part for part in parts if isinstance(part, str))
    except (KeyError, TypeError, IndexError, AttributeError):
        raise EngineRequestFailed("its answer has no choice that can be read", status=_OK) from None

"""Does an engine answer sense? Engines on new silicon are known to answer gibberish without an error. Pure.

The checks hold for any language model, however small, because they rest on the engine's arithmetic more than on what a
model knows. The engine says how likely it takes each token of a given text to be, and of what it writes by itself:

1. It writes at all: in UTF-8, with finite log-probabilities, and not one token over and over.
2. A plain text costs it fewer bits a byte than knowing no more than how often each letter occurs. Spoilt weights, int32
   overflow and wrong kernels cost far more.
3. The same text, beside others in one batch, costs the same as alone.
4. After a long list of words, begun a second time, what comes next is as likely when it is decoded from the KV cache as
   when everything before it is read anew. A garbled cache differs, the more so the better a model copies.

What a check spends is added up, so that the audit can tell it from use behind the gateway's back (audit/counters.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from daulat.engines.passage import BEGINNING, CONTINUATION, WORDS
from daulat.errors import EngineRequestFailed

MOST_BITS: Final = 4.0  # a byte: single letters of English have 4.1 (Shannon, 1951); SmolLM2-135M needs 2.3
TOLERANCE: Final = 0.25  # nats a token: batches differ in rounding, by hundredths
CACHE_TOLERANCE: Final = 0.3  # nats: other kernels decode than read prompts, and 4-bit weights differ by a tenth
FREE_TOKENS: Final = 12
DECODED_TOKENS: Final = 8
BATCH: Final = 2
TOP: Final = 20  # likeliest tokens that an engine is asked for
_COMPARED: Final = 10  # of them
_WORDS: Final = 64  # of the long prompt
_TOKENS_A_WORD: Final = 3  # more than any tokenizer makes of one, on average
_SAID_AGAIN: Final = 10


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `prompt`: text, or token ids. `text`: what must follow; "": `most` tokens of the engine's own."""

    prompt: str | tuple[int, ...]
    text: str = ""
    most: int = 1

    @property
    def bounds(self) -> tuple[int, int]:
        """The most prompt and completion tokens it may take: a token is a byte at least, one more begins or ends."""
        prompt = len(self.prompt.encode()) + 1 if isinstance(self.prompt, str) else len(self.prompt)
        return prompt + len(self.text.encode()), len(self.text.encode()) + 1 if self.text else self.most


@dataclass(frozen=True, slots=True)
class Token:
    """One that was written. Log-probabilities in nats, before any sampling: its own, and those of the likeliest.

    `top` names tokens as the engine does: its own answers only are compared.
    """

    id: int
    logprob: float
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came. Prompt tokens are those that were computed, so without cached ones."""

    text: str
    tokens: tuple[Token, ...]
    prompt_tokens: int
    completion_tokens: int


class Asker(Protocol):
    """Port: one engine, asked by its supervisor."""

    async def ask(self, ask: Ask) -> Answer:
        """Greedily, without reading a cached prompt, and not ending before `most` tokens.

        Raises:
            EngineRequestFailed: the engine refused, or what it said cannot be read.
            EngineError: no answer came.
        """
        ...

    async def tokens(self, text: str) -> tuple[int, ...]:
        """The ids of a prompt's text, as `ask` would read it. Raises as `ask` does."""
        ...


@dataclass(slots=True)
class Report:
    """One round. `faults`: what was wrong, fit for the log; none means sense. `measured`: what a person may look at."""

    faults: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Checks:
    """What the rounds of one engine's life have spent. `running`: one is under way."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    running: bool = False

    @contextlib.contextmanager
    def round(self) -> Iterator[Report]:
        """One round's report; however it ends, what it spent is added."""
        report, self.running = Report(), True
        try:
            yield report
        finally:
            self.running = False
            self.prompt_tokens += report.prompt_tokens
            self.completion_tokens += report.completion_tokens

    def as_dict(self) -> dict[str, int]:
        """For an entry's `counters`."""
        return {"checked_prompt_tokens": self.prompt_tokens, "checked_completion_tokens": self.completion_tokens}


async def check(asker: Asker, report: Report, *, slots: int, context: int, seed: int) -> None:
    """One round against an engine with that many slots, of `context` tokens each. `seed` makes the long prompt.

    `report` is kept true throughout: what is asked counts with the most that it may spend until its answer is there, so
    that a round which is cut off has not spent less than it says.

    Raises:
        EngineError: the engine gave no answer; nothing is known of its answers then.
    """
    try:
        alone = await _asked(asker, report, Ask(BEGINNING, CONTINUATION))
        if faults := list(_forced(alone, CONTINUATION)):
            report.faults += faults
            return
        report.faults += _free(await _asked(asker, report, Ask(BEGINNING, most=FREE_TOKENS)))
        if report.faults:
            return
        report.measured["bits_per_byte"] = cost = bits_per_byte(alone, CONTINUATION)
        if cost > MOST_BITS:
            report.faults.append(f"plain text costs {cost:.1f} bits a byte, at most {MOST_BITS:g} make sense")
            return
        if slots > 1:
            report.faults += await _batched(asker, report, alone, min(slots, BATCH))
        if await _cached(asker, report, long_prompt(seed, context)):  # one odd prompt is no fault; two are
            report.faults += await _cached(asker, report, long_prompt(seed + 1, context))
    except EngineRequestFailed as error:
        report.faults.append(error.message)


async def one_token(asker: Asker, report: Report) -> None:
    """Have it write one, as a sign of life. `report` is kept true as in `check`.

    Raises:
        EngineError: none came.
    """
    await _asked(asker, report, Ask("a"))


async def _asked(asker: Asker, report: Report, ask: Ask) -> Answer:
    prompt, completion = ask.bounds
    report.prompt_tokens += prompt
    report.completion_tokens += completion
    answer = await asker.ask(ask)
    report.prompt_tokens += answer.prompt_tokens - prompt
    report.completion_tokens += answer.completion_tokens - completion
    return answer


def long_prompt(seed: int, context: int) -> str:
    """Words in an order that no cache holds, and the first of them again; half of the context has room for all."""
    order = random.Random(seed)  # noqa: S311  no secret: the same seed must give the same prompt
    words = [order.choice(WORDS) for _ in range(min(_WORDS, context // 2 // _TOKENS_A_WORD))]
    return " ".join(words) + "\n" + " ".join(words[:_SAID_AGAIN])


def bits_per_byte(answer: Answer, text: str) -> float:
    """What `text` cost: the mean over its bytes."""
    return -sum(token.logprob for token in answer.tokens) / math.log(2) / len(text.encode())


def _forced(answer: Answer, text: str) -> Iterator[str]:
    if answer.text != text:
        yield "an empty answer" if not answer.text else "not the text whose likelihood was asked for"
    elif not answer.tokens:
        yield "an answer without log-probabilities"
    elif not all(math.isfinite(token.logprob) for token in answer.tokens):
        yield "log-probabilities that are not finite"


def _free(answer: Answer) -> Iterator[str]:
    if not answer.text:
        yield "an empty answer"
    elif len(answer.tokens) > 1 and len({token.id for token in answer.tokens}) == 1:
        yield f"one token, {len(answer.tokens)} times"
    elif answer.text.strip("\ufffd") == "":
        yield "an answer that is not UTF-8"


async def _batched(asker: Asker, report: Report, alone: Answer, count: int) -> list[str]:
    """`count` at once must each be what one alone was."""
    asks = (_asked(asker, report, Ask(BEGINNING, CONTINUATION)) for _ in range(count))
    ended = await asyncio.gather(*asks, return_exceptions=True)
    if errors := [end for end in ended if isinstance(end, BaseException)]:
        raise errors[0]
    together = [end for end in ended if isinstance(end, Answer)]
    faults = [fault for answer in together for fault in _forced(answer, CONTINUATION)]
    if faults:
        return [f"in a batch: {fault}" for fault in faults[:1]]
    report.measured["batch_nats"] = worst = max(difference(alone, answer) for answer in together)
    if worst > TOLERANCE:
        return [f"{count} answers in one batch differ from one alone by {worst:.2f} nats a token"]
    return []


def difference(one: Answer, other: Answer) -> float:
    """How far two answers of the same text are apart: nats a token; infinite where their tokens are not the same."""
    if [token.id for token in one.tokens] != [token.id for token in other.tokens]:
        return abs(_nats(one) - _nats(other)) / min(len(one.tokens), len(other.tokens))
    pairs = zip(one.tokens, other.tokens, strict=True)
    return sum(abs(first.logprob - second.logprob) for first, second in pairs) / len(one.tokens)


def distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """How far two predictions of a token are apart: nats, the mean over the likeliest of `one`.

    A token that `other` does not list is less likely there than all that it lists.
    """
    floor = min(other.values())
    compared = sorted(one, key=lambda token: one[token], reverse=True)[:_COMPARED]
    apart = (abs(one[token] - other.get(token, min(floor, one[token]))) for token in compared)
    return sum(apart) / len(compared)


def _nats(answer: Answer) -> float:
    return sum(token.logprob for token in answer.tokens)


async def _cached(asker: Asker, report: Report, prompt: str) -> list[str]:
    """What may come after some decoded tokens must be as likely after the same prompt, read anew."""
    ids = await asker.tokens(prompt)
    decoded = await _asked(asker, report, Ask(ids, most=DECODED_TOKENS))
    if not decoded.text:  # repeating itself is what a small model may do with a list of words
        return ["after a long prompt: an empty answer"]
    before = tuple(token.id for token in decoded.tokens[:-1])
    anew = await _asked(asker, report, Ask((*ids, *before)))
    ends = [answer.tokens[-1].top for answer in (decoded, anew) if answer.tokens]
    if len(ends) < len((decoded, anew)) or not all(top and all(map(math.isfinite, top.values())) for top in ends):
        return ["after a long prompt: an answer without finite log-probabilities"]
    report.measured["cache_nats"] = apart = distance(*ends)
    if apart > CACHE_TOLERANCE:
        return [f"after {len(ids)} tokens its KV cache and a prompt read anew differ by {apart:.2f} nats"]
    return []

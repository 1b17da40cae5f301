"""Answer checks against engines that answer as a sound one does, but for one fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daulat.audit.counters import MOST_CHECKED
from daulat.engines.answers import (
    BATCH,
    DECODED_TOKENS,
    FREE_TOKENS,
    TOP,
    Answer,
    Ask,
    Checks,
    Report,
    Token,
    check,
    distance,
    long_prompt,
)
from daulat.engines.llamacpp.asking import LlamaCppAsker
from daulat.engines.passage import CONTINUATION
from daulat.errors import EngineRequestFailed, EngineTimeout

Fault = Callable[[Ask, Answer], Answer]
PROMPT_TOKENS = 10
BITS = 1.5  # what a byte of the plain text costs


class Sound:
    """Tokens are bytes; what follows a prompt depends on its length alone, so that every right answer is known."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault, self.asked, self.inside = fault, [], 0
        self.together = 0  # the most requests at once

    async def ask(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        self.inside += 1
        self.together = max(self.together, self.inside)
        await asyncio.sleep(0)
        self.inside -= 1
        length = len(ask.prompt)
        if ask.text:
            tokens = [Token(byte, -BITS * math.log(2), {str(byte): -0.5}) for byte in ask.text.encode()]
            answer = Answer(ask.text, tuple(tokens), PROMPT_TOKENS, len(tokens))
        else:
            ids = [97 + (length + step) % 26 for step in range(ask.most)]
            tokens = [
                Token(id_, -id_ / 100, {str(id_ + rank): -id_ / 100 - rank for rank in range(TOP)}) for id_ in ids
            ]
            answer = Answer("".join(map(chr, ids)), tuple(tokens), PROMPT_TOKENS, len(tokens))
        return self.fault(ask, answer) if self.fault else answer

    async def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())


def checked(engine: Any, slots: int = 4, context: int = 2048) -> Report:
    report = Report()
    asyncio.run(check(engine, report, slots=slots, context=context, seed=1))
    return report


def shifted(answer: Answer, nats: float) -> Answer:
    def moved(token: Token) -> Token:
        return Token(token.id, token.logprob - nats, {id_: logprob - nats for id_, logprob in token.top.items()})

    return replace(answer, tokens=tuple(map(moved, answer.tokens)))


def test_a_sound_engine_has_no_faults_and_its_tokens_are_counted() -> None:
    engine = Sound()
    report = checked(engine)
    assert report.faults == []
    assert report.measured == {
        "bits_per_byte": pytest.approx(BITS),
        "batch_nats": pytest.approx(0),
        "cache_nats": pytest.approx(0),
    }
    assert engine.together == BATCH
    assert report.prompt_tokens == PROMPT_TOKENS * len(engine.asked)
    assert report.completion_tokens == sum(len(ask.text) or ask.most for ask in engine.asked)


def test_an_engine_of_one_slot_is_asked_one_thing_at_a_time() -> None:
    engine = Sound()
    assert checked(engine, slots=1).faults == []
    assert engine.together == 1


def forced(change: Callable[[Answer], Answer]) -> Fault:
    return lambda ask, answer: change(answer) if ask.text else answer


def free(change: Callable[[Answer], Answer]) -> Fault:
    return lambda ask, answer: answer if ask.text or ask.most == 1 else change(answer)


FAULTS: dict[str, tuple[Fault, str]] = {
    "says nothing": (lambda _, answer: replace(answer, text="", tokens=()), "an empty answer"),
    "says nothing of its own": (free(lambda answer: replace(answer, text="", tokens=())), "an empty answer"),
    "writes something else": (forced(lambda answer: replace(answer, text="!")), "not the text"),
    "gives no log-probabilities": (forced(lambda answer: replace(answer, tokens=())), "without log-probabilities"),
    "gives NaN": (forced(lambda answer: shifted(answer, math.nan)), "not finite"),
    "gives minus infinity": (forced(lambda answer: shifted(answer, math.inf)), "not finite"),
    "has spoilt weights": (forced(lambda answer: shifted(answer, 6.0)), "bits a byte, at most 4 make sense"),
    "repeats one token": (
        free(lambda answer: replace(answer, tokens=tuple(replace(token, id=7) for token in answer.tokens))),
        f"one token, {FREE_TOKENS} times",
    ),
    "writes what is not UTF-8": (free(lambda answer: replace(answer, text="\ufffd" * 9)), "not UTF-8"),
    "garbles its cache": (
        lambda ask, answer: shifted(answer, 0.75) if ask.most == DECODED_TOKENS else answer,
        "its KV cache and a prompt read anew differ by 0.75 nats",
    ),
    "loses a long prompt's numbers": (
        lambda ask, answer: shifted(answer, math.nan) if ask.most == DECODED_TOKENS else answer,
        "after a long prompt: an answer without finite",
    ),
    "is silent after a long prompt": (
        lambda ask, answer: replace(answer, text="", tokens=()) if ask.most == DECODED_TOKENS else answer,
        "after a long prompt: an empty answer",
    ),
}


def test_a_small_model_may_repeat_itself_after_a_list_of_words() -> None:
    def loop(ask: Ask, answer: Answer) -> Answer:
        same = tuple(replace(token, id=7) for token in answer.tokens)
        return replace(answer, tokens=same) if ask.most == DECODED_TOKENS else answer

    assert checked(Sound(loop)).faults == []


def test_one_odd_prompt_is_no_fault() -> None:
    engine = Sound()

    def odd(ask: Ask, answer: Answer) -> Answer:
        first = sum(earlier.most == DECODED_TOKENS for earlier in engine.asked) == 1
        return shifted(answer, 0.75) if ask.most == DECODED_TOKENS and first else answer

    engine.fault = odd
    assert checked(engine).faults == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(fault: str) -> None:
    spoil, words = FAULTS[fault]
    (found,) = checked(Sound(spoil)).faults
    assert words in found


def test_answers_mixed_up_in_a_batch_are_found() -> None:
    engine = Sound()
    engine.fault = lambda ask, answer: shifted(answer, 1.0) if engine.together > 1 and ask.text else answer
    (found,) = checked(engine).faults
    assert "2 answers in one batch differ from one alone by 1.00 nats a token" in found


def test_rounding_that_differs_between_batches_is_no_fault() -> None:
    engine = Sound()
    engine.fault = lambda ask, answer: shifted(answer, 0.05 * (len(engine.asked) % 2))
    assert checked(engine).faults == []


def test_an_engine_that_refuses_has_that_fault_and_one_that_does_not_answer_has_none() -> None:
    def refuse(_: Ask, __: Answer) -> Answer:
        raise EngineRequestFailed("it answered 500: no", status=500)

    def silent(ask: Ask, answer: Answer) -> Answer:
        if len(silent_engine.asked) == 3:
            raise EngineTimeout("too late")
        return answer

    assert checked(Sound(refuse)).faults == ["it answered 500: no"]
    silent_engine, checks = Sound(silent), Checks()
    with pytest.raises(EngineTimeout), checks.round() as report:
        asyncio.run(check(silent_engine, report, slots=1, context=2048, seed=1))
    assert not checks.running
    ahead = silent_engine.asked[2].bounds
    assert checks.prompt_tokens == 2 * PROMPT_TOKENS + ahead[0], "what may have been spent counts as spent"
    assert checks.completion_tokens == sum(len(ask.text) or ask.most for ask in silent_engine.asked[:2]) + ahead[1]


def test_two_rounds_never_spend_more_than_the_audit_grants_between_two_readings() -> None:
    engine = Sound(FAULTS["garbles its cache"][0])
    checked(engine, context=1_000_000)
    assert sum(ask.most == DECODED_TOKENS for ask in engine.asked) == 2, "a second prompt decides"
    assert 2 * sum(ask.bounds[0] for ask in engine.asked) <= MOST_CHECKED
    assert 2 * sum(ask.bounds[1] for ask in engine.asked) <= MOST_CHECKED


def test_the_long_prompt_is_the_seeds_and_fits_a_small_context() -> None:
    assert long_prompt(1, 4096) == long_prompt(1, 4096) != long_prompt(2, 4096)
    assert len(long_prompt(1, 256)) < len(long_prompt(1, 4096)) < 1000
    assert long_prompt(1, 1) == "\n"


def test_predictions_are_compared_by_their_likeliest_tokens() -> None:
    one = {str(token): -float(token) for token in range(TOP)}
    assert distance(one, one) == 0
    assert distance(one, {token: logprob - 0.5 for token, logprob in one.items()}) == pytest.approx(0.5)
    assert distance(one, {"another": -9.0}) == pytest.approx(sum(9.0 - token for token in range(9)) / 10), (
        "at least so far"
    )


FIELDS = ("content", "completion_probabilities", "timings", "prompt_n", "tokens_predicted", "id", "logprob", "tokens")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=12,
)


@given(st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=60)), st.booleans())
def test_whatever_an_engine_says_is_an_answer_or_a_refusal(said: bytes, tokenise: bool) -> None:
    async def fetch(_method: str, _path: str, _body: bytes) -> tuple[int, bytes]:
        return 200, said

    asker = LlamaCppAsker(fetch, "m")
    with contextlib.suppress(EngineRequestFailed):
        found = asyncio.run(asker.tokens("x") if tokenise else asker.ask(Ask("x", most=1)))
        assert isinstance(found, tuple | Answer)


def test_llama_cpp_is_asked_without_its_cache_and_made_to_write_the_text() -> None:
    asked: list[Any] = []

    async def fetch(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        asked.append((method, path, json.loads(body)))
        token = {"id": 5, "logprob": None, "top_logprobs": [{"id": 6, "logprob": -0.25}]}
        said = {"content": CONTINUATION, "completion_probabilities": [token], "timings": {"prompt_n": 3}}
        return 200, json.dumps({**said, "tokens_predicted": 1}).encode()

    answer = asyncio.run(LlamaCppAsker(fetch, "m").ask(Ask((1, 2, 3), 'say "this"')))
    ((method, path, body),) = asked
    assert (method, path) == ("POST", "/completion")
    assert body["cache_prompt"] is False
    assert body["temperature"] == 0
    assert body["prompt"] == [1, 2, 3]
    assert body["grammar"] == 'root ::= "say \\"this\\""'
    assert math.isnan(answer.tokens[0].logprob), "JSON has no NaN"
    assert (answer.tokens[0].top, answer.prompt_tokens, answer.completion_tokens) == ({"6": -0.25}, 3, 1)

"""Plain answer checks: an engine that says a few words again passes, and one that is silent or babbles does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from daulat.audit.counters import MOST_CHECKED
from daulat.engines import plain
from daulat.engines.answers import Report
from daulat.engines.known import ENGINES
from daulat.engines.passage import WORDS
from daulat.errors import EngineError

Say = Callable[[list[str], int], Any]  # (the words, how often it was asked before) -> what it says


class Server:
    """An OpenAI-compatible server that says what a test wants."""

    def __init__(self, say: Say, *, chat: int = 200, completions: int = 200, usage: bool = True) -> None:
        self.say, self.status, self.usage = say, {"chat/completions": chat, "completions": completions}, usage
        self.asked: list[dict[str, Any]] = []

    async def fetch(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body)
        status = self.status[path.removeprefix("/v1/")]
        if status != 200:
            return status, b'{"error":{"message":"no"}}'
        text = asked["prompt"].splitlines()[0] if "prompt" in asked else asked["messages"][0]["content"]
        said = self.say([word for word in text.split() if word in WORDS], len(self.asked))
        self.asked.append({"method": method, **asked})
        if isinstance(said, bytes):
            return 200, said
        message = said if isinstance(said, dict) else {"content": said}
        choice = {"message": message} if "messages" in asked else {"text": said}
        counted = {
            "usage": {"prompt_tokens": 30, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 20}}
        }
        return 200, json.dumps({"choices": [choice], **(counted if self.usage else {})}, ensure_ascii=False).encode()


def checked(server: Server, seed: int = 7) -> Report:
    report = Report()
    asyncio.run(plain.check(server.fetch, "m", report, seed=seed))
    return report


def copied(words: list[str], _before: int) -> str:
    return " ".join(words)


SENSE: dict[str, Say] = {
    "to the letter": copied,
    "in other letters, with more around it": lambda words, _: f"Sure! {' '.join(words).title()}.",
    "two of four": lambda words, _: f"The {words[0]} is a {words[3]}.",
    "at the second draw": lambda words, before: " ".join(words) if before else "I am here to help.",
    "in its thoughts": lambda words, _: {"content": None, "reasoning_content": f"I am to repeat {words[0]} {words[1]}"},
    "in its thoughts, as vLLM says it": lambda words, _: {"content": "", "reasoning": " ".join(words)},
}
NONSENSE: dict[str, tuple[Say, str]] = {
    "nothing": (lambda *_: "", "an empty answer"),
    "blanks": (lambda *_: " \n ", "an empty answer"),
    "null": (lambda *_: {"content": None}, "an empty answer"),
    "one character": (lambda *_: "!!!!!!!!", "one token, 8 times"),
    "one word": (lambda *_: "the the the the the", "one token, 5 times"),
    "no UTF-8": (lambda *_: "\ufffd\ufffd\ufffd", "not UTF-8"),
    "noise": (lambda *_: "ĠÄ 7#kq zxv 一丁 øø", "0 of 4 words"),
    "the same whatever is asked": (lambda *_: "Kuala Lumpur is the capital.", "of 4 words"),
    "no choice": (lambda *_: b'{"choices":[]}', "no choice"),
    "no JSON": (lambda *_: b"\xff\xfe", "not JSON in UTF-8"),
}


@pytest.mark.parametrize("say", SENSE.values(), ids=SENSE)
def test_an_answer_that_makes_sense_passes(say: Say) -> None:
    report = checked(Server(say))
    assert report.faults == []
    assert report.measured["copied"] >= 0.5


@pytest.mark.parametrize(("say", "fault"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_a_fault_in_words(say: Say, fault: str) -> None:
    server = Server(say)
    (found,) = checked(server).faults
    assert fault in found
    if len(server.asked) > 1:
        assert server.asked[0]["messages"] != server.asked[1]["messages"], "another draw decides"


def test_questions_are_greedy_seeded_and_other_ones_each_time() -> None:
    first, again, other = Server(copied), Server(copied), Server(copied)
    for server, seed in ((first, 1), (again, 1), (other, 2)):
        checked(server, seed)
    assert first.asked == again.asked != other.asked
    (asked,) = first.asked
    assert (asked["temperature"], asked["seed"], asked["model"]) == (0, 1, "m")
    assert len(asked["messages"]) == 1


def test_a_model_that_knows_no_conversation_goes_on_with_a_list() -> None:
    server = Server(copied, chat=400)
    assert checked(server).faults == []
    assert "prompt" in server.asked[0]
    assert checked(Server(copied, chat=400, completions=404)).faults == ['it answered 404: {"error":{"message":"no"}}']


def test_a_crash_is_a_fault_and_a_busy_engine_is_not() -> None:
    (fault,) = checked(Server(copied, chat=500)).faults
    assert fault.startswith("it answered 500")
    for status in (429, 503):
        with pytest.raises(EngineError, match=f"answered {status}"):
            checked(Server(copied, chat=status))


def test_what_it_spends_is_counted_and_never_less_than_it_spent() -> None:
    report = checked(Server(copied))
    assert (report.prompt_tokens, report.completion_tokens) == (10, 8), "what was cached was not computed"
    untold = checked(Server(copied, usage=False))
    assert (untold.prompt_tokens, untold.completion_tokens) == (plain.MOST_PROMPT, plain.MOST_TOKENS)
    most = checked(Server(lambda *_: "", usage=False))
    assert 2 * most.prompt_tokens <= MOST_CHECKED, "two rounds between readings"
    assert 2 * most.completion_tokens <= MOST_CHECKED


def test_a_round_that_is_cut_off_has_not_spent_less_than_it_says() -> None:
    report = Report()

    async def gone(*_: Any) -> tuple[int, bytes]:
        raise EngineError("gone")

    with pytest.raises(EngineError):
        asyncio.run(plain.check(gone, "m", report, seed=1))
    assert (report.prompt_tokens, report.completion_tokens) == (plain.MOST_PROMPT, plain.MOST_TOKENS)


def test_every_engine_that_generates_is_checked_and_says_how() -> None:
    found = {name: engine.checks(embeds=False) for name, engine in ENGINES.items()}
    told, plainly = ("llama.cpp", "vllm", "vllm-ascend"), ("sglang", "mindie", "external")
    assert found == {**dict.fromkeys(told, "likelihoods"), **dict.fromkeys(plainly, "plain")}
    assert {engine.checks(embeds=True) for engine in ENGINES.values()} == {"none"}

"""How vLLM is asked: several answers one by one, and checks whose answers are read with care.

The answers are in the form of vLLM 0.32's.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import msgspec
import pytest

from daulat.engines.answers import Ask, Token
from daulat.engines.dialect import EngineRequest
from daulat.engines.vllm.asking import VllmAsker
from daulat.engines.vllm.dialect import OneByOne
from daulat.errors import EngineRequestFailed


def request(**fields: Any) -> EngineRequest:
    body = json.dumps({"model": "m", "messages": [], **fields}).encode()
    return EngineRequest(
        "chat.completions", "/v1/chat/completions", body, False, msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    )


def test_several_answers_are_asked_one_by_one_and_one_is_asked_as_it_came() -> None:
    dialect = OneByOne()
    parts = dialect.parts(request(n=3))
    assert parts is not None
    assert [json.loads(part.body)["n"] for part in parts.requests] == [1, 1, 1]
    assert dialect.parts(request()) is None
    prepared = asyncio.run(dialect.prepare(request(n=1)))
    assert prepared.body == request(n=1).body
    prepared.release()


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
FREE = {
    "choices": [
        {
            "text": " Kuala",
            "token_ids": [659, 531],
            "logprobs": {
                "tokens": [" K", "ual"],
                "token_logprobs": [-1.5, None],
                "top_logprobs": [{" K": -1.5, " L": -1.0}, {"ual": -0.25}],
            },
        }
    ],
    "usage": USAGE,
}
FORCED = {
    "choices": [
        {
            "text": ".",
            "prompt_token_ids": [1, 2, 3, 4],
            "prompt_logprobs": [
                None,
                {"2": {"logprob": -9.0}},
                {"3": {"logprob": -2.0}, "7": {"logprob": -0.5}},
                {"4": {"logprob": -0.1}},
            ],
        }
    ],
    "usage": {**USAGE, "prompt_tokens_details": None},
}


def asked(ask: Ask, answer: Any, status: int = 200) -> tuple[Any, list[dict[str, Any]]]:
    """The answer as it was read, and what was sent."""
    sent = []

    async def fetch(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        sent.append({"path": path, **json.loads(body)})
        if path == "/tokenize":
            return 200, b'{"tokens": [1, 2]}'
        return status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    return asyncio.run(VllmAsker(fetch, "m").ask(ask)), sent


def test_what_it_writes_is_read_with_ids_and_likelihoods() -> None:
    answer, (sent,) = asked(Ask((1, 2), most=2), FREE)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == (" Kuala", 4, 2)
    assert answer.tokens[0] == Token(659, -1.5, {" K": -1.5, " L": -1.0})
    assert math.isnan(answer.tokens[1].logprob)
    assert (sent["model"], sent["temperature"], sent["ignore_eos"], sent["max_tokens"]) == ("m", 0, True, 2)


def test_a_given_text_is_judged_behind_its_beginning_and_no_cache_is_read() -> None:
    ask = Ask("one two", " three")
    answer, (_, sent) = asked(ask, FORCED)
    _, (_, again) = asked(ask, FORCED)
    assert answer.tokens == (Token(3, -2.0, {"3": -2.0, "7": -0.5}), Token(4, -0.1, {"4": -0.1}))
    assert answer.text == " three"
    assert sent["prompt"] == "one two three"
    assert sent["cache_salt"] != again["cache_salt"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[" * 100_000,
        {},
        {"choices": []},
        {**FREE, "usage": {}},
        {**FREE, "choices": [{**FREE["choices"][0], "token_ids": [1]}]},
        {**FREE, "choices": [{**FREE["choices"][0], "logprobs": None}]},
    ],
)
def test_an_answer_that_cannot_be_read_is_said_to_be_none(answer: Any) -> None:
    with pytest.raises(EngineRequestFailed):
        asked(Ask("a"), answer)


def test_a_refusal_is_said_with_the_engines_words() -> None:
    with pytest.raises(EngineRequestFailed, match="it answered 500: oh no"):
        asked(Ask("a"), b"oh no", 500)

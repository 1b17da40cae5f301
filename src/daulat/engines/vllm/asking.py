"""Answer checks put to vLLM: `/v1/completions` with log-probabilities, token ids and a cache of its own.

A text that must follow is put behind the prompt, and its tokens' log-probabilities are those of prompt tokens: vLLM's
structured outputs would force it as well, but mask the logits before it takes the log-probabilities.
"""

from __future__ import annotations

import json
import math
import secrets
from typing import Any, Final

from daulat.engines.answers import TOP, Answer, Ask, Token
from daulat.engines.port import Fetch
from daulat.errors import EngineRequestFailed

_OK: Final = 200
_MOST_SAID: Final = 200  # characters of an engine's own words


class VllmAsker:
    """One vLLM server (`engines.answers.Asker`)."""

    def __init__(self, fetch: Fetch, model: str) -> None:
        self._fetch, self._model = fetch, model

    async def ask(self, ask: Ask) -> Answer:
        """See `engines.answers.Asker`."""
        asked: dict[str, Any] = {"temperature": 0, "return_token_ids": True, "ignore_eos": True}
        asked["cache_salt"] = secrets.token_hex(16)  # prompts are found in the cache under the same salt alone
        if not ask.text:
            asked |= {"prompt": ask.prompt, "logprobs": TOP, "max_tokens": ask.most}
            return _free(await self._post("/v1/completions", asked))
        if not isinstance(ask.prompt, str):
            raise EngineRequestFailed("a text can follow a text only", status=_OK)
        asked |= {"prompt": ask.prompt + ask.text, "prompt_logprobs": 1, "max_tokens": 1}
        before = await self.tokens(ask.prompt)
        return _forced(await self._post("/v1/completions", asked), before, ask.text)

    async def tokens(self, text: str) -> tuple[int, ...]:
        """See `engines.answers.Asker`."""
        said = await self._post("/tokenize", {"prompt": text})
        try:
            return tuple(int(token) for token in said["tokens"])
        except (KeyError, TypeError, ValueError):
            raise EngineRequestFailed("its tokenizer's answer cannot be read", status=_OK) from None

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        status, said = await self._fetch("POST", path, json.dumps({"model": self._model, **body}).encode())
        if status != _OK:
            words = said[:_MOST_SAID].decode(errors="replace")
            raise EngineRequestFailed(f"it answered {status}: {words}", status=status)
        try:
            return json.loads(said)
        except (ValueError, RecursionError):
            raise EngineRequestFailed("it answered with what is not JSON in UTF-8", status=_OK) from None


def _free(said: Any) -> Answer:
    """What it wrote."""
    try:
        choice = said["choices"][0]
        logprobs = choice["logprobs"]
        each = zip(choice["token_ids"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
        tokens = tuple(
            Token(int(id_), _nats(own), {name: _nats(value) for name, value in top.items()}) for id_, own, top in each
        )
        return Answer(str(choice["text"]), tokens, *_counts(said))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise EngineRequestFailed("its answer lacks text, log-probabilities or counts", status=_OK) from None


def _forced(said: Any, before: tuple[int, ...], text: str) -> Answer:
    """What it thinks of the prompt's tokens behind those that the beginning has in common with it."""
    try:
        choice = said["choices"][0]
        ids, likely = [int(id_) for id_ in choice["prompt_token_ids"]], choice["prompt_logprobs"]
        start = next((at for at, pair in enumerate(zip(ids, before, strict=False)) if len({*pair}) > 1), len(before))
        each = zip(ids[start:], likely[start:], strict=True)
        tokens = tuple(
            Token(id_, _nats(found[str(id_)]["logprob"]), {name: _nats(one["logprob"]) for name, one in found.items()})
            for id_, found in each
        )
        return Answer(text, tokens, *_counts(said))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise EngineRequestFailed("its answer lacks the prompt's log-probabilities or counts", status=_OK) from None


def _counts(said: Any) -> tuple[int, int]:
    """Prompt tokens that were computed, and those that were written."""
    usage = said["usage"]
    cached = int((usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0)
    return int(usage["prompt_tokens"]) - cached, int(usage["completion_tokens"])


def _nats(value: Any) -> float:
    """JSON has no NaN: vLLM writes null."""
    return math.nan if value is None else float(value)

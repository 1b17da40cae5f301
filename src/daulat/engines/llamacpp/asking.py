"""Answer checks put to llama.cpp: `/completion` takes a grammar, and tells what was likely before it."""

from __future__ import annotations

import json
from typing import Any, Final

from daulat.engines.answers import TOP, Answer, Ask, Token
from daulat.engines.port import Fetch
from daulat.errors import EngineRequestFailed

_OK: Final = 200
_MOST_SAID: Final = 200  # characters of an engine's own words


class LlamaCppAsker:
    """One llama.cpp server (`engines.answers.Asker`)."""

    def __init__(self, fetch: Fetch, _model: str) -> None:
        self._fetch = fetch

    async def ask(self, ask: Ask) -> Answer:
        """See `engines.answers.Asker`."""
        return _answer(await self._post("/completion", _body(ask)))

    async def tokens(self, text: str) -> tuple[int, ...]:
        """See `engines.answers.Asker`."""
        said = await self._post("/tokenize", {"content": text, "add_special": True})
        try:
            return tuple(int(token) for token in said["tokens"])
        except (KeyError, TypeError, ValueError):
            raise EngineRequestFailed("its tokenizer's answer cannot be read", status=_OK) from None

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        status, said = await self._fetch("POST", path, json.dumps(body).encode())
        if status != _OK:
            raise EngineRequestFailed(
                f"it answered {status}: {said[:_MOST_SAID].decode(errors='replace')}", status=status
            )
        try:
            return json.loads(said)
        except (ValueError, RecursionError):
            raise EngineRequestFailed("it answered with what is not JSON in UTF-8", status=_OK) from None


def _body(ask: Ask) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": ask.prompt if isinstance(ask.prompt, str) else list(ask.prompt)}
    asked |= {"temperature": 0, "n_probs": TOP, "cache_prompt": False}
    if ask.text:  # a token is a byte at least; the grammar ends it
        return asked | {"grammar": f"root ::= {json.dumps(ask.text)}", "n_predict": len(ask.text.encode()) + 1}
    return asked | {"ignore_eos": True, "n_predict": ask.most}


def _answer(said: Any) -> Answer:
    try:
        tokens = tuple(
            Token(int(token["id"]), _nats(token), {str(top["id"]): _nats(top) for top in token["top_logprobs"]})
            for token in said["completion_probabilities"]
        )
        return Answer(str(said["content"]), tokens, int(said["timings"]["prompt_n"]), int(said["tokens_predicted"]))
    except (KeyError, TypeError, ValueError):
        raise EngineRequestFailed("its answer lacks text, log-probabilities or counts", status=_OK) from None


def _nats(token: Any) -> float:
    """JSON has no NaN: llama.cpp writes null."""
    value = token["logprob"]
    return float("nan") if value is None else float(value)

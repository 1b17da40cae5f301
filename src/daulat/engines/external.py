"""An OpenAI-compatible server that runs already, in the country but outside Daulat: nothing is started, nothing is
sandboxed, no canary goes in. What is known of it is what the operator says, and whether it answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import msgspec

from daulat.engines.dialect import Dialect, EngineRequest, Parts, Prepared
from daulat.engines.port import CHAT, Engine, Launch


def parameters(launch: Launch) -> dict[str, Any]:
    return {"slots": launch.slots, "context": launch.context}


def external(kind: Engine | None) -> Engine:
    """Counted and checked as the engine it is said to be; None: the audit cannot reconcile its use."""
    alike = kind is not None and kind.dialect == "vllm"  # llama.cpp's dialect would need its slots for itself alone
    return Engine(
        name="external",
        dialect="vllm" if alike else "openai",
        metrics=None if kind is None else kind.metrics,
        parameters=parameters,
        asker=None if kind is None else kind.asker,
        actions=CHAT,
        families=(),
        health_path="/v1/models",  # every OpenAI-compatible server has it
    )


EXTERNAL: Final = external(None)


class Named:
    """Asks for the model under the name that the server has for it (`engines.dialect.Dialect`)."""

    def __init__(self, served: str, model: Dialect | None) -> None:
        """`model`: the dialect of the model, where it has one."""
        self._served, self._model = msgspec.Raw(msgspec.json.encode(served)), model

    def parts(self, request: EngineRequest) -> Parts | None:
        """See `engines.dialect.Dialect`."""
        return None if self._model is None else self._model.parts(request)

    async def prepare(self, request: EngineRequest) -> Prepared:
        """See `engines.dialect.Dialect`. The body is read again: what was added to it is not among the fields."""
        prepared = Prepared(request.body, _nothing) if self._model is None else await self._model.prepare(request)
        fields = msgspec.json.decode(prepared.body, type=dict[str, msgspec.Raw])
        return replace(prepared, body=msgspec.json.encode({**fields, "model": self._served}))


def named(served: str, model: Dialect | None) -> Dialect | None:
    """The model's dialect, with the server's name for the model where that is another."""
    return Named(served, model) if served else model


def _nothing() -> None:
    """There is no slot to give back."""

"""How vLLM is asked: as it is, but for several answers (`n`), which it computes several times and counts once.

Its `usage` states the prompt of `n` answers once and what was cached of it for one of them; its own counters have all.
Asked one by one each is counted to the token, and their common prompt is found in vLLM's prefix cache.
"""

from __future__ import annotations

from daulat.engines.dialect import Dialect, EngineRequest, Parts, Prepared
from daulat.engines.llamacpp.parts import split


class OneByOne:
    """`engines.dialect.Dialect`, around that of the model where it has one."""

    def __init__(self, model: Dialect | None = None) -> None:
        self._model = model

    def parts(self, request: EngineRequest) -> Parts | None:
        """See `engines.dialect.Dialect`.

        Raises:
            InvalidRequest: it asks for more than 128 answers.
        """
        return split(request)

    async def prepare(self, request: EngineRequest) -> Prepared:
        """See `engines.dialect.Dialect`. vLLM queues by itself."""
        return Prepared(request.body, _nothing) if self._model is None else await self._model.prepare(request)


def _nothing() -> None:
    """There is no slot to give back."""

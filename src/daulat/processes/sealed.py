"""The model that a replica serves, held to what was admitted: before each start, and again and again while it runs.

The check is slow on purpose. It reads at most a quarter of the time, one file after the other, through the same page
cache that the engine's own mapping of the weights uses, so what is checked is what the engine sees.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from daulat.errors import DaulatError, EngineDead, SealBroken
from daulat.registry.model import ModelFacts

SECONDS: Final = 3600.0  # between the end of one check and the beginning of the next
_REST: Final = 3.0  # times as long as a piece took: a quarter of the time is spent reading


class Store(Protocol):
    """Port: model files (`adapters.models.ModelStore`)."""

    def facts(self, digest: str) -> ModelFacts: ...

    def check(self, digest: str, *, pause: Callable[[], None] | None = None) -> None: ...


class Sealed:
    """One model of the store. `templates`: the SHA-256 of each admitted chat template, by name."""

    def __init__(self, store: Store, digest: str, templates: Mapping[str, str], seconds: float = SECONDS) -> None:
        self._store, self._digest, self._templates, self._seconds = store, digest, dict(templates), seconds
        self._started = False

    async def before_start(self) -> None:
        """What must hold before an engine loads it. The control plane has just hashed it for the first start.

        Raises:
            EngineDead: its files or its templates are not those that were admitted.
        """
        try:
            if self._started:
                await asyncio.to_thread(self._store.check, self._digest)
            await asyncio.to_thread(self._compare)
        except (DaulatError, OSError) as error:
            raise EngineDead(_words(error)) from None
        self._started = True

    async def broken(self) -> str:
        """Check until something is found: what."""
        while True:
            await asyncio.sleep(self._seconds)
            pace = _Pace()
            try:
                await asyncio.to_thread(self._store.check, self._digest, pause=pace.rest)
                await asyncio.to_thread(self._compare)
            except (DaulatError, OSError) as error:
                return _words(error)
            finally:
                pace.over.set()  # the thread ends at its next piece

    def _compare(self) -> None:
        found = {template.name: template.sha256 for template in self._store.facts(self._digest).templates}
        if found != self._templates:
            names = sorted(name for name in {*found, *self._templates} if found.get(name) != self._templates.get(name))
            raise SealBroken(f"chat template {names[0]!r} is not the one that was admitted")


class _Pace:
    """Rests in proportion to the work since the last rest, on the checking thread."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._since = time.monotonic()

    def rest(self) -> None:
        """Raises SealBroken once the check is `over`, for nobody to see."""
        if self.over.wait(_REST * (time.monotonic() - self._since)):
            raise SealBroken("the check was ended")
        self._since = time.monotonic()


def _words(error: DaulatError | OSError) -> str:
    """Fit for the log: no path of this machine."""
    if isinstance(error, SealBroken) and error.message.startswith("chat template"):
        return f"the model changed: {error.message}"
    return "the model changed: its files are not those that were admitted"

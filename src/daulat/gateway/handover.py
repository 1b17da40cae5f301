"""From a worker to the vault: completions that are to be kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from daulat.core.principal import Principal
from daulat.errors import DaulatError, Unavailable

_STALE_SECONDS: Final = 5.0  # of a vault's last sign of being open
_SECONDS: Final = 30.0  # for one to be kept
_MOST: Final = 15 << 20  # bytes of a request and its answer: they cross in one line of JSON
Call = Callable[..., Awaitable[Any]]
"""Port: `call(method, **params)` of the vault's socket."""


class Handover:
    """`pipeline.ports.Vault`. `beat`: the file that the vault touches while it can keep something."""

    def __init__(self, call: Call, beat: Path) -> None:
        self._call, self._beat = call, beat
        self._tasks: set[asyncio.Task[None]] = set()
        self.shortage = ""
        self.tick()

    def tick(self) -> None:
        """About once a second."""
        try:
            age = time.time() - self._beat.stat().st_mtime
        except FileNotFoundError:
            self.shortage = "the vault is closed; `daulat vault status` says why"
        else:
            self.shortage = "" if age < _STALE_SECONDS else "the vault does not answer"

    def keep(
        self,
        principal: Principal,
        request: bytes,
        answer: bytes,
        kept: Callable[[DaulatError | None], None],
        *,
        stream: bool,
    ) -> None:
        """See `pipeline.ports.Vault`."""
        task = asyncio.get_running_loop().create_task(self._keep(principal, request, answer, kept, stream=stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(
        self,
        principal: Principal,
        request: bytes,
        answer: bytes,
        kept: Callable[[DaulatError | None], None],
        *,
        stream: bool,
    ) -> None:
        try:
            if len(request) + len(answer) > _MOST:
                raise Unavailable(f"Request and answer are larger than the {_MOST} bytes that can be stored together.")
            async with asyncio.timeout(_SECONDS):
                await self._call(
                    "keep",
                    tenant=principal.tenant_id,
                    person=principal.person_id,
                    request=request.decode(),
                    answer=answer.decode(),
                    stream=stream,
                )
        except (DaulatError, TimeoutError, UnicodeDecodeError) as error:
            said = error.message if isinstance(error, DaulatError) else "the vault takes too long"
            kept(Unavailable(f"The answer could not be stored, as 'store' asks: {said}", code="store_failed"))
        else:
            kept(None)

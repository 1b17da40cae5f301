"""Retention between two processes: the control process has the rules and the log, the vault deletes and counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from daulat.adapters import rpc
from daulat.core.retention import Rule, counted
from daulat.errors import DaulatError
from daulat.pipeline.operate import Log, Rows
from daulat.pipeline.retain import Kept, Setting
from daulat.settings import Home
from daulat.vault.objects import Objects

SWEEP_SECONDS: Final = 600.0
_AGAIN_SECONDS: Final = 10.0  # after something failed, or while the vault is closed
_log = logging.getLogger(__name__)


class Retaining:
    """The control process's side."""

    def __init__(self, rows: Rows, log: Log, charter_index: int, home: Home) -> None:
        self._vault = home.vault_socket
        self._kept = Kept(rows, log, charter_index)
        self.act = Setting(rows, self._kept, self._wake)

    def handlers(self) -> dict[str, rpc.Handler]:
        """For the vault, and to be looked at. What changes a rule is an act that needs consent."""
        return {"retention.rules": self._rules, "retention.deleted": self._kept.deleted}

    async def _rules(self) -> list[dict[str, Any]]:
        return self._kept.all()

    async def _wake(self) -> None:
        await rpc.once(self._vault, "retain")


class Sweeper:
    """The vault's side: it asks for the rules each time, and deletes by no others."""

    def __init__(self, objects: Callable[[], Objects], control: rpc.Client) -> None:
        """`objects` raises Unavailable while the vault is closed."""
        self._objects, self._control = objects, control
        self._now = asyncio.Event()

    async def wake(self) -> None:
        """Look again at once."""
        self._now.set()

    async def watch(self) -> None:
        """Keep the rules, for as long as the process lives."""
        said = ""
        while True:
            self._now.clear()
            try:
                await self.sweep()
                said, seconds = "", SWEEP_SECONDS
            except DaulatError as error:
                if error.message != said and error.code != "vault_unavailable":  # that it says itself
                    _log.warning("retention waits: %s", error.message)
                said, seconds = error.message, _AGAIN_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._now.wait()

    async def sweep(self) -> None:
        """Delete what the rules keep no longer, and have it written down.

        Raises:
            Unavailable: the vault is closed, a place or the control process does not answer: what is left goes on.
        """
        objects = self._objects()
        for row in await self._control.call("retention.rules"):
            rule = Rule(row["files"], row["completions"])
            while await asyncio.to_thread(objects.retire, row["tenant"], rule):
                pass
        while (batch := await asyncio.to_thread(objects.retired)) is not None:
            await asyncio.to_thread(objects.dispose, batch)
            said = counted(Counter(kind for kind, _ in batch.objects))
            where = {"batch": batch.id, "tenant": batch.tenant, "rule": batch.rule.as_dict()}
            await self._control.call("retention.deleted", **where, deleted=said)
            await asyncio.to_thread(objects.settled, batch)
            _log.info("by rule, %d files and %d completions were deleted", said["files"], said["completions"])

"""What may be, published: one snapshot after another, and whoever waits until every worker works by theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from daulat.adapters import rpc
from daulat.adapters.snapshot_file import SnapshotFile
from daulat.core.snapshot import HEARTBEAT_SECONDS, POLL_SECONDS, Roll, Snapshot
from daulat.pipeline import publish
from daulat.pipeline.enrol import Node
from daulat.processes.children import Child
from daulat.processes.establishing import Established
from daulat.processes.metering import Metering
from daulat.processes.roster import Roster

IN_FORCE_SECONDS: Final = 10.0  # for a worker to look at the snapshot, which it does ten times a second


class Publishing:
    """Owns the snapshot file, and the lock under which everything that goes into it is changed."""

    def __init__(
        self, by: Established, metering: Metering, node: Node, roster: Roster, workers: Sequence[Child]
    ) -> None:
        """`workers`: by their slot."""
        self._by, self._metering, self._node, self._roster, self._workers = by, metering, node, roster, workers
        self._file = SnapshotFile(by.home.snapshot)
        self._roll: Roll | None = None  # as published; None once somebody may have come or gone
        self.changing = asyncio.Lock()
        self.number = 0

    def roll(self) -> Roll | None:
        """Of who may ask, as published; None while it is made anew."""
        return self._roll

    def refusals(self) -> list[str]:
        """Why this node, or something that is wished for, does not serve."""
        return [*self._node.refusals, *self._roster.reasons()]

    def publish(self) -> int:
        """Write the next snapshot, whole or not at all; its number."""
        by, rows = self._by, self._by.rows
        self.number = max(self.number, int(rows.meta("snapshot") or 0)) + 1
        rows.set_meta("snapshot", str(self.number))
        if self._roll is None:
            self._roll = publish.roll(self.number, rows.rows, by.clock.now_ms(), self._metering.prices)
        self._metering.published(self._roll)
        charter, policy = by.references()
        snapshot = Snapshot(
            number=self.number,
            origin=by.book.origin,
            charter=charter,
            policy=policy,
            roll=self._roll,
            models=tuple(self._roster.models()),
            leases=self._node.leases(),
            replicas=tuple(self._node.rows()),
            refusals=tuple(self.refusals()),
        )
        self._file.write(snapshot)
        return self.number

    def changes(self, use_case: Callable[..., Any]) -> rpc.Handler:
        """An administrative act, one at a time, and in force in every worker before it is acknowledged."""

        async def act(**params: Any) -> Any:
            async with self.changing:
                try:
                    result = await use_case(**params)
                finally:
                    self._roll = None
                    number = self.publish()  # a revocation holds even if its entry could not be written
            await self._in_force(number)
            return result

        return act

    def listed(self, rows: Callable[[], list[dict[str, Any]]]) -> rpc.Handler:
        """A list of what serves, given out once every worker works by it: what it calls ready can be asked."""

        async def listed() -> list[dict[str, Any]]:
            found = rows()
            await self.in_force()
            return found

        return listed

    async def in_force(self) -> None:
        """Until every worker works by what is published now."""
        await self._in_force(self.number)

    async def beat(self) -> None:
        """Be seen alive, for as long as the service runs."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._file.touch()

    async def _in_force(self, number: int) -> None:
        """Until every worker works by that snapshot: one that is away reads it when it starts again.

        One that has not looked for as long as this waits at most is stuck, and answers nobody meanwhile.
        """
        end = time.monotonic() + IN_FORCE_SECONDS
        while time.monotonic() < end and any(  # noqa: ASYNC110  it looks at files
            child.ready.is_set() and self._file.confirmed(slot) < number for slot, child in enumerate(self._workers)
        ):
            await asyncio.sleep(POLL_SECONDS / 4)

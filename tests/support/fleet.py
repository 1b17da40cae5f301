"""A fleet without engines: the real reconciler over a real database; what a supervisor would report, a test reports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.installation import FACTS
from tests.support.site import Site

from daulat.adapters.control_db import ControlDatabase
from daulat.core.snapshot import ModelRow
from daulat.errors import NotFound, PermissionDenied
from daulat.pipeline.deploy import Deployment, Deployments
from daulat.placement.place import Budget
from daulat.processes.deploying import Deploying
from daulat.processes.replicas import Replicas, Ways
from daulat.processes.roster import Prepared, Roster
from daulat.registry.model import ModelFacts
from daulat.settings import Home


@dataclass
class FakeChild:
    """`processes.children.Child`, which starts nothing."""

    name: str = "supervisor"
    pid: int = 1
    starts: int = 0
    stopped: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        self.starts += 1

    async def stop(self, _seconds: float) -> None:
        self.stopped = True


class Store:
    """`ModelStore`: every name is a model, of that name as digest."""

    def find(self, wanted: str) -> ModelFacts:
        if wanted == "nowhere":
            raise NotFound("0 models answer to 'nowhere'")
        return replace(FACTS, digest=wanted, name=wanted[:1], size=2**20)

    def verified(self, digest: str) -> Path:
        return Path("/models") / digest


class Fleet:
    """Replicas over a real database and a real node; what a supervisor would report is reported by `up`."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.home.prepare()
        self.site = Site()
        self.database = ControlDatabase(self.home.control_db)
        self.wishes = Deployments(self.database, self._act, self.site.clock)
        self.children: dict[str, FakeChild] = {}
        self.ends: dict[str, Callable[[], None]] = {}
        self.acts: list[str] = []
        self.snapshot, self.refuses, self.failure = 0, False, ""
        ways = Ways(self._admit, self._publish, self._launch, self._fail, asyncio.Lock())  # type: ignore[arg-type]
        roster = Roster(self.home, Budget(6, 8000), self.site.node, self.wishes)
        self.replicas = Replicas(self.home, roster, self.site.node, self.wishes, Store(), ways)
        self.deploying = Deploying(self.wishes, self.replicas, Store(), self.site.node.admits)

    async def _act(self, action: str, _subject: str, _detail: Any) -> None:
        self.acts.append(action)

    async def _admit(self, facts: ModelFacts, name: str) -> ModelRow:
        if self.refuses:
            raise PermissionDenied("model x is refused by models.licence")
        return ModelRow(name, int(facts.digest[0], 16), "{}", 0, False, 4096)

    def _publish(self) -> int:
        self.snapshot += 1
        list(self.replicas.roster.models())
        self.replicas.roster.reasons()
        return self.snapshot

    def _launch(self, id_: str, _wish: Deployment, _prepared: Prepared, _share: Any, _log: Path, end: Any) -> FakeChild:
        self.children[id_], self.ends[id_] = FakeChild(), end
        return self.children[id_]

    def _fail(self, why: str) -> None:
        self.failure = why

    def rows(self, name: str = "m") -> list[dict[str, Any]]:
        return [row for row in self.replicas.roster.replica_rows() if row["deployment"] == name]

    def phases(self, name: str = "m") -> list[str]:
        return [row["phase"] for row in self.rows(name)]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.replicas.look()
                await asyncio.sleep(0.005)
        assert not self.failure

    async def up(self) -> None:
        """Every replica that is starting comes up."""
        for row in self.replicas.roster.replica_rows():
            if row["phase"] in {"starting", "broken"}:
                await self.site.probed(row["id"])
                await self.site.ready(row["id"])

    async def deploy(self, model: str = "a" * 64, **changes: Any) -> None:
        await self.wish(model, "m", changes)

    async def wish(self, model: str, name: str, changes: dict[str, Any]) -> None:
        meant, spec = await self.deploying.resolve(model, name, changes)
        await self.deploying.wish(meant, spec)

    async def serving(self, **changes: Any) -> None:
        await self.deploy(**changes)
        count = changes.get("replicas", 1)
        await self.until(lambda: self.phases() == ["starting"] * count)
        await self.up()
        await self.until(lambda: self.wishes.find("m").good is not None)

    def workers_say(self, number: int, **loads: int) -> None:
        """What the workers' files say: the snapshot they act on, and requests in flight."""
        samples = {
            "daulat_snapshot_number": {"": number},
            "daulat_replica_requests_in_flight": {f'replica="{id_}"': count for id_, count in loads.items()},
        }
        (self.home.run / "metrics-0").write_text(json.dumps(samples))

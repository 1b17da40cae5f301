"""A node and its replica: from the canary's word to a lease, a started replica, and their ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.decision import Decider, lease_question
from daulat.core.snapshot import LeaseRow, ReplicaRow
from daulat.fleet import lease
from daulat.pipeline.book import Book


@dataclass(frozen=True, slots=True)
class Ground:
    """What a lease is granted under: the charter and policy in force."""

    charter: Charter
    charter_index: int
    policy_index: int
    decider: Decider


class Node:
    """This node, its lease and its one replica. Reports come in order; each is written down before it takes effect."""

    def __init__(self, book: Book, clock: Clock, ground: Ground, node: str, model: tuple[str, int]) -> None:
        self._book, self._clock, self._ground, self._node = book, clock, ground, node
        self._model, self._model_index = model
        self._inventory: Mapping[str, Any] = {}
        self._sandbox: Mapping[str, Any] = {"grade": "G1"}
        self._canary: tuple[int, Mapping[str, Any]] | None = None
        self._term: lease.Term | None = None
        self._counters: Mapping[str, int] | None = None
        self.lease: LeaseRow | None = None
        self.replica: ReplicaRow | None = None
        self.refusals: tuple[str, ...] = ("the engine is starting",)
        self.progress = 0.0
        self.stops, self.last_stop = 0, ""  # how many engines have ended, and why the last did

    def inventory(self, found: Mapping[str, Any]) -> None:
        self._inventory = found

    async def report(self, replica: str, event: str, data: Mapping[str, Any]) -> bool:
        """Take one report of the supervisor's; whether a new snapshot is due."""
        if event == "loading":
            self.progress = float(data.get("progress", 0.0))
            return False
        if event in {"contained", "escaped", "silent"}:
            return await self._probed(replica, event, data)
        if event == "ready":
            await self._ready(replica, data)
            return True
        if event == "stopped":
            await self._stopped(replica, data)
            return True
        return False

    async def recover(self) -> None:
        """Close what a control plane that was killed has left open: nobody knows what those engines did since."""
        read = self._book.held("canary/v1", self._node)
        for found in self._book.all_held("replica.started/v1"):
            value, counters = found["value"], found["value"]["counters"]
            if read is not None and read["value"]["started"] == found["position"]:
                counters = read["value"]["counters"] or counters
            await self._stop_entry(value["replica"], found["position"], "the control plane ended", counters, False)

    async def _probed(self, replica: str, outcome: str, data: Mapping[str, Any]) -> bool:
        started = None if self.replica is None else self.replica.index
        fields = {
            "node": self._node,
            "replica": replica,
            "started": started,
            "nonce": data["nonce"],
            "outcome": outcome,
            "probes": data["probes"],
            "counters": data.get("counters"),
        }
        index = await self._book.write("canary/v1", fields, name=self._node)
        self._counters = data.get("counters") or self._counters
        if outcome == "contained":
            self._canary = (index, {**data, "outcome": outcome})
            return self.replica is not None and await self._renew()
        if outcome == "escaped" or data.get("final"):
            await self._revoke(f"canary: {outcome}")
            return True
        return False

    async def _ready(self, replica: str, data: Mapping[str, Any]) -> None:
        self._sandbox = data["sandbox"]
        await self._renew(force=self.lease is None)
        if self.lease is None:
            return
        fields = {
            "replica": replica,
            "node": self._node,
            "lease": self.lease.index,
            "model": self._model_index,
            "engine": data["engine"],
            "device": data["device"],
            "sandbox": data["sandbox"],
            "counters": data["counters"],
        }
        index = await self._book.write("replica.started/v1", fields, name=replica)
        self.replica = ReplicaRow(
            index, replica, self._model, self._node, data["address"], data["dialect"], data["slots"]
        )
        self.refusals = ()

    async def _stopped(self, replica: str, data: Mapping[str, Any]) -> None:
        self.stops, self.last_stop = self.stops + 1, data["reason"]
        self.refusals = (f"the engine stopped ({data['reason']}) and is being started again",)
        held = self._book.held("replica.started/v1", replica)
        self.replica = None
        if held is not None:
            await self._stop_entry(replica, held["position"], data["reason"], data["counters"], data["exact"])

    async def _stop_entry(self, replica: str, started: int, reason: str, counters: Any, exact: bool) -> None:  # noqa: FBT001
        fields = {"replica": replica, "started": started, "reason": reason, "counters": counters, "exact": exact}
        await self._book.write("replica.stopped/v1", fields)
        self._book.end("replica.started/v1", replica)

    async def _renew(self, *, force: bool = False) -> bool:
        """Ask for a lease when one is due; whether there is a new one."""
        now, boot = self._clock.now_ms(), self._clock.boottime()
        if not force and not lease.due(self._term, now, boot):
            return False
        ground = self._ground
        canary = self._canary[1] if self._canary is not None else None
        found = lease.evidence(
            sandbox=self._sandbox, canary=canary, inventory=self._inventory, site=ground.charter.site
        )
        decision = ground.decider.decide(lease_question(ground.charter, self._node, ground.charter.country, found))
        if not decision.allowed:
            self.refusals = (f"no lease is granted by {', '.join(decision.policies)}: {decision.reason}",)
            return self.lease is not None
        held = lease.term(now, boot, ground.charter.lease_seconds)
        fields = {
            "charter": ground.charter_index,
            "policy": ground.policy_index,
            "node": self._node,
            "jurisdiction": ground.charter.country,
            "not_before": held.not_before,
            "expires": held.expires,
            "evidence": found,
            "canary": None if self._canary is None else self._canary[0],
            "decision": {**decision.as_dict(), "attributes": {}},
            "replaces": self._book.index("node.lease/v1", self._node),
        }
        index = await self._book.write("node.lease/v1", fields, name=self._node)
        written = self._book.held("node.lease/v1", self._node)
        if written is None:
            raise AssertionError("the lease was written and is not held")
        self._term = held
        self.lease = LeaseRow(
            index, written["entry"], self._node, ground.charter.country, held.expires, held.expires_boottime
        )
        return True

    async def _revoke(self, reason: str) -> None:
        self._canary, self._term = None, None
        held, self.lease = self.lease, None
        self.refusals = (f"the lease was revoked ({reason})",)
        if held is not None:
            await self._book.write("node.revoked/v1", {"node": self._node, "lease": held.index, "reason": reason})

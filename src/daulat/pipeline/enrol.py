"""A node and its replicas: from the canaries' word to a lease, started replicas, and their ends."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.decision import Decider, Decision, grade, lease_question
from daulat.core.snapshot import LeaseRow, ModelRow, ReplicaRow
from daulat.errors import PermissionDenied
from daulat.fleet import lease
from daulat.fleet.lease import Place
from daulat.pipeline.book import Book


@dataclass(frozen=True, slots=True)
class Ground:
    """What a lease is granted under: the charter and policy in force."""

    charter: Charter
    charter_index: int
    policy_index: int
    decider: Decider


@dataclass(slots=True)
class Tenure:
    """One node's lease. `place`: what is stated of the node where it is not this one."""

    node: str
    place: Place | None = None
    term: lease.Term | None = None
    lease: LeaseRow | None = None
    covered: int = 0  # the grade of the sandbox that the lease rests on
    refusals: tuple[str, ...] = ()  # why there is no lease


@dataclass(slots=True)
class Replica:
    """One replica as its supervisor's reports tell of it. `row` while it may answer; `ends`: of its engine."""

    id: str
    model: ModelRow
    tenure: Tenure
    row: ReplicaRow | None = None
    draining: bool = False
    progress: float = 0.0
    ends: int = 0
    last: str = ""  # why its engine ended last, or why it may not answer
    sandbox: Mapping[str, Any] = field(default_factory=lambda: {"grade": "G1"})
    canary: tuple[int, Mapping[str, Any]] | None = None  # the last one that found it contained, and its entry
    waiting: Mapping[str, Any] | None = None  # the report of an engine that is ready, and not covered by a lease yet


class Node:
    """This node, its lease and its replicas. Reports come in order; each is written down before it takes effect.

    An engine that runs outside Daulat stands on a node of its own: its weaker evidence gets a lease of its own, and
    leaves that of this node as it is.
    """

    def __init__(self, book: Book, clock: Clock, ground: Ground, node: str) -> None:
        self._book, self._clock, self._ground = book, clock, ground
        self._inventory: Mapping[str, Any] = {}
        self._here = Tenure(node)
        self.replicas: dict[str, Replica] = {}

    @property
    def lease(self) -> LeaseRow | None:
        """This node's own."""
        return self._here.lease

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why this node has no lease."""
        return self._here.refusals

    def leases(self) -> tuple[LeaseRow, ...]:
        """Those of this node and of the nodes outside on which replicas stand."""
        elsewhere = {held.tenure.node: held.tenure for held in self.replicas.values()}
        tenures = {self._here.node: self._here, **elsewhere}.values()
        return tuple(tenure.lease for tenure in tenures if tenure.lease is not None)

    def inventory(self, found: Mapping[str, Any]) -> None:
        """What this node has. Where that is no longer what its lease says, the next canary brings a new lease."""
        if found != self._inventory:
            self._inventory, self._here.term = found, None

    def expect(self, replica: str, model: ModelRow, place: Place | None = None) -> None:
        """A supervisor is being started: its reports are about this. `place`: of an engine outside Daulat."""
        tenure = self._here
        if place is not None:
            same = (held.tenure for held in self.replicas.values() if held.tenure.place == place)
            tenure = next(same, Tenure(place.node, place))
        self.replicas[replica] = Replica(replica, model, tenure)

    def admits(self, place: Place) -> None:
        """Whether the rules would let an engine there serve.

        Raises:
            PermissionDenied: they would not; says which, and what would have to change.
        """
        decision = self._ask(place.node, place.jurisdiction, place.evidence())
        if not decision.allowed:
            raise PermissionDenied(
                f"an engine in {place.jurisdiction} on evidence of grade {place.grade} is refused by "
                f"{', '.join(decision.policies)}: {decision.reason}. What may serve is for charter.toml to say "
                "(jurisdiction.country, nodes.external)",
                policies=decision.policies,
            )

    def drain(self, replica: str) -> None:
        """It gets nothing new from the next snapshot on."""
        held = self.replicas[replica]
        held.draining = True
        if held.row is not None:
            held.row = replace(held.row, draining=True)

    async def forget(self, replica: str) -> None:
        """Its supervisor has ended for good."""
        await self.lost(replica, "its supervisor ended")
        self.replicas.pop(replica, None)

    def rows(self) -> Iterator[ReplicaRow]:
        """What may answer, and what still answers."""
        return (held.row for held in self.replicas.values() if held.row is not None)

    async def report(self, replica: str, event: str, data: Mapping[str, Any]) -> bool:
        """Take one report of a supervisor's; whether a new snapshot is due."""
        held = self.replicas.get(replica)
        if held is None:
            return False
        if event == "loading":
            held.progress = float(data.get("progress", 0.0))
            return False
        if event in {"contained", "escaped", "silent"}:
            return await self._probed(held, event, data)
        if event == "alive":  # of an engine that no canary can go to
            return await self._renew_if_due(held)
        if event == "stopped":
            await self._stopped(held, data)
            return True
        return event == "ready" and await self._ready(held, data)

    async def recover(self) -> None:
        """Close what a control plane that was killed has left open: nobody knows what those engines did since."""
        for found in self._book.all_held("replica.started/v1"):
            await self._close(found["value"]["replica"], "the control plane ended")

    async def lost(self, replica: str, reason: str) -> None:
        """Its supervisor is gone, and with it the engine."""
        held = self.replicas.get(replica)
        if held is not None:
            held.ends, held.last = held.ends + 1, reason
            held.row, held.canary, held.waiting = None, None, None
            await self._close(replica, reason)

    async def _close(self, replica: str, reason: str) -> None:
        """The end of one whose supervisor said nothing of it: its counters are those that a canary read last."""
        found = self._book.held("replica.started/v1", replica)
        if found is None:
            return
        counters = found["value"]["counters"]
        read = self._book.held("canary/v1", replica)
        if read is not None and read["value"]["started"] == found["position"]:
            counters = read["value"]["counters"] or counters
        await self._stop_entry(replica, found["position"], reason, counters, exact=False)

    async def _probed(self, held: Replica, outcome: str, data: Mapping[str, Any]) -> bool:
        fields = {
            "node": held.tenure.node,
            "replica": held.id,
            "started": None if held.row is None else held.row.index,
            "nonce": data["nonce"],
            "outcome": outcome,
            "probes": data["probes"],
            "counters": data.get("counters"),
        }
        index = await self._book.write("canary/v1", fields, name=held.id)
        if outcome == "contained":
            held.canary = (index, {**data, "outcome": outcome})
            return await self._renew_if_due(held)
        if outcome == "escaped" or data.get("final"):
            await self._revoke(held.tenure, f"canary: {outcome}")
            return True
        return False

    async def _renew_if_due(self, held: Replica) -> bool:
        """After a contained canary: whether anything has changed."""
        changed = False
        if held.row is not None and self._due(held.tenure):
            held.tenure.refusals = await self._grant(held.tenure, None)
            changed = True
        for other in list(self.replicas.values()):
            if other.waiting is not None:
                changed |= await self._ready(other, other.waiting)
        return changed

    async def _ready(self, held: Replica, data: Mapping[str, Any]) -> bool:
        """An engine may be asked from the next snapshot on, where a lease covers it."""
        held.sandbox, tenure = data["sandbox"], held.tenure
        if self._due(tenure) or grade({"sandbox": held.sandbox}, "sandbox") < tenure.covered:
            refused = await self._grant(tenure, held)
            if refused:
                held.waiting, held.last = data, refused[0]
                tenure.refusals = refused if tenure.lease is None else tenure.refusals
                return True
        tenure.refusals = ()
        if tenure.lease is None:
            raise AssertionError("a lease was granted and is not held")
        fields = {
            "replica": held.id,
            "node": tenure.node,
            "lease": tenure.lease.index,
            "model": held.model.index,
            "engine": data["engine"],
            "device": data["device"],
            "sandbox": data["sandbox"],
            "counters": data["counters"],
        }
        index = await self._book.write("replica.started/v1", fields, name=held.id)
        held.waiting = None
        held.row = _row(held, index, data)
        return True

    async def _stopped(self, held: Replica, data: Mapping[str, Any]) -> None:
        held.ends, held.last = held.ends + 1, data["reason"]
        held.row, held.canary, held.waiting = None, None, None
        reason, counters, exact = data["reason"], data["counters"], bool(data["exact"])
        found = self._book.held("replica.started/v1", held.id)
        if found is not None:
            await self._stop_entry(held.id, found["position"], reason, counters, exact=exact)
        elif data.get("unfit"):  # nothing else in the log would tell of it, nor of which model it was
            reason = f"never routed to, with the model of entry {held.model.index}: {reason}"
            await self._stop_entry(held.id, None, reason, counters, exact=exact)

    async def _stop_entry(self, replica: str, started: int | None, reason: str, counters: Any, *, exact: bool) -> None:
        fields = {"replica": replica, "started": started, "reason": reason, "counters": counters, "exact": exact}
        await self._book.write("replica.stopped/v1", fields)
        self._book.end("replica.started/v1", replica)
        self._book.end("canary/v1", replica)

    def _due(self, tenure: Tenure) -> bool:
        return lease.due(tenure.term, self._clock.now_ms(), self._clock.boottime())

    def _evidence(self, members: Collection[Replica]) -> tuple[dict[str, Any], int | None]:
        """What is known of this node while these replicas answer, and the canary's entry."""
        canary = _weakest(members)
        sandbox = min((held.sandbox for held in members), key=lambda facts: grade({"sandbox": facts}, "sandbox"))
        found = lease.evidence(
            sandbox=sandbox,
            canary=None if canary is None else canary[1],
            inventory=self._inventory,
            site=self._ground.charter.site,
        )
        return found, None if canary is None else canary[0]

    def _ask(self, node: str, jurisdiction: str, found: Mapping[str, Any]) -> Decision:
        return self._ground.decider.decide(lease_question(self._ground.charter, node, jurisdiction, found))

    async def _grant(self, tenure: Tenure, joining: Replica | None) -> tuple[str, ...]:
        """Ask for a lease that covers every replica that may answer, and `joining`; why not, when there is none."""
        ground, place = self._ground, tenure.place
        if place is None:
            mine = (held for held in self.replicas.values() if held.tenure is tenure)
            found, canary = self._evidence([held for held in mine if held.row is not None or held is joining])
            country = ground.charter.country
        else:
            found, canary, country = place.evidence(), None, place.jurisdiction
        decision = self._ask(tenure.node, country, found)
        if not decision.allowed:
            return (f"no lease is granted by {', '.join(decision.policies)}: {decision.reason}",)
        held = lease.term(self._clock.now_ms(), self._clock.boottime(), ground.charter.lease_seconds)
        fields = {
            "charter": ground.charter_index,
            "policy": ground.policy_index,
            "node": tenure.node,
            "jurisdiction": country,
            "not_before": held.not_before,
            "expires": held.expires,
            "evidence": found,
            "canary": canary,
            "decision": {**decision.as_dict(), "attributes": {}},
            "replaces": self._book.index("node.lease/v1", tenure.node),
        }
        index = await self._book.write("node.lease/v1", fields, name=tenure.node)
        written = self._book.held("node.lease/v1", tenure.node)
        if written is None:
            raise AssertionError("the lease was written and is not held")
        tenure.term, tenure.covered = held, grade(found, "sandbox")
        tenure.lease = LeaseRow(index, written["entry"], tenure.node, country, held.expires, held.expires_boottime)
        return ()

    async def _revoke(self, tenure: Tenure, reason: str) -> None:
        """Nothing on this node may answer until every replica has been found contained anew."""
        for replica in self.replicas.values():
            if replica.tenure is tenure:
                replica.canary = None
        tenure.term = None
        held, tenure.lease = tenure.lease, None
        tenure.refusals = (f"the lease was revoked ({reason})",)
        if held is not None:
            await self._book.write("node.revoked/v1", {"node": tenure.node, "lease": held.index, "reason": reason})


def _weakest(members: Collection[Replica]) -> tuple[int, Mapping[str, Any]] | None:
    """The canary that a lease may rest on: the newest, where every replica was found contained, and by the weakest."""
    canaries = [held.canary for held in members]
    found = [canary for canary in canaries if canary is not None]
    if not found or len(found) != len(canaries):
        return None
    return min(found, key=lambda canary: (canary[1].get("sandboxed", True), -canary[0]))


def _row(held: Replica, index: int, data: Mapping[str, Any]) -> ReplicaRow:
    return ReplicaRow(
        index,
        held.id,
        held.model.name,
        held.tenure.node,
        data["address"],
        data["dialect"],
        data["slots"],
        admitted=held.model.index,
        draining=held.draining,
        served=data.get("served", ""),
        key_file=data.get("key_file", ""),
    )

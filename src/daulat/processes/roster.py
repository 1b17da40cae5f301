"""What is wished for, what runs, and what can: one sight of it, for the reconciler's loop and for operators."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daulat.core.deployment import Phase, Share
from daulat.core.snapshot import ModelRow
from daulat.fleet.reconcile import Running, Wanted, conditions
from daulat.gateway import metrics
from daulat.pipeline.deploy import Deployment, Deployments
from daulat.pipeline.enrol import Node
from daulat.placement.devices import Fitness
from daulat.placement.place import Budget, Claim, Refused, memory_needed, place
from daulat.processes.children import Child
from daulat.registry.model import ModelFacts
from daulat.settings import Home

Places = Mapping[str, tuple[Share, ...] | Refused]
"""By deployment: a share of this machine for each replica, or why there is none."""

_EXTERNAL: Final = "external"
_NO_ROOM_FOR_TWO: Final = (
    "its devices are all in use by its own replicas: choose free ones, or deploy with --strategy recreate, which ends "
    "the old replicas first; nothing answers meanwhile"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that was verified and admitted, and so may be started."""

    facts: ModelFacts
    file: Path
    row: ModelRow


@dataclass(slots=True)
class Held:
    """One supervisor, and what is known of it beside its reports. Times in monotonic seconds."""

    wish: str  # the deployment's id
    deployment: str
    revision: int
    share: Share
    child: Child
    since: float
    ready_since: float | None = None
    cordoned: bool = False
    drain_until: float | None = None
    drained_at: int = 0  # the snapshot from which on it gets nothing new
    stopping: bool = False


class Roster:
    """The replicas that are held, by id, and the models that are ready to be started, by deployment and revision."""

    def __init__(self, home: Home, budget: Budget, node: Node, deployments: Deployments) -> None:
        self._home, self._budget, self._node, self._deployments = home, budget, node, deployments
        self.held: dict[str, Held] = {}
        self.prepared: dict[tuple[str, int], Prepared] = {}
        self.refused: dict[tuple[str, int], str] = {}  # why a model is not ready to be started
        self.fitness = Fitness()  # of the devices in use, as last seen

    def models(self) -> Iterator[ModelRow]:
        """The models that clients may ask for: what is aimed at comes after what still runs of an older revision."""
        aimed = [
            found.row for wish in self._deployments.all() if (found := self.prepared.get(key_of(wish))) is not None
        ]
        routed = (held for held in self._node.replicas.values() if held.row is not None and not held.draining)
        older = {held.model.index: held.model for held in routed}
        yield from (row for index, row in sorted(older.items()) if row not in aimed)
        yield from aimed

    def reasons(self) -> list[str]:
        """Why something that is wished for cannot be asked, in words."""
        found, wishes = [], [wish for wish in self._deployments.all() if wish.spec.replicas]
        places = self.place(wishes)
        for wish in wishes:
            if not self.ready(wish.name):
                mine = [self._node.replicas[id_] for id_, held in self.held.items() if held.deployment == wish.name]
                last = next((replica.last for replica in mine if replica.last), "")
                words = f"the engine stopped ({last}) and is being started again" if last else "the engine is starting"
                words = self.blocked(wish, places) or words
                found.append(f"{wish.name}: {words}" if len(wishes) > 1 else words)
        return found

    def children(self) -> list[Child]:
        """The supervisors."""
        return [held.child for held in self.held.values()]

    def ready(self, deployment: str) -> bool:
        """Whether at least one replica of it answers, under a lease."""
        leased = {lease.node for lease in self._node.leases()}
        return any(row.model == deployment and not row.draining and row.node in leased for row in self._node.rows())

    def startup(self, deployment: str) -> tuple[float, int, str]:
        """How far loading is, how often an engine ended, and why the last did, or why none can be started."""
        wish = self._deployments.find(deployment)
        if (why := self.refused.get(key_of(wish), "")) and deployment:
            return 0.0, 1 << 30, why
        mine = [self._node.replicas[id_] for id_, held in self.held.items() if held.deployment == deployment]
        worst = max(mine, key=lambda replica: replica.ends, default=None)
        if worst is None:
            return 0.0, 0, ""
        return max(replica.progress for replica in mine), worst.ends, worst.last

    def deployment_rows(self) -> list[dict[str, Any]]:
        """Spec and status of each deployment."""
        now, found = time.monotonic(), []
        wishes = self._deployments.all()
        places = self.place(wishes)
        for wish in wishes:
            mine = [self.see(id_, now) for id_, held in self.held.items() if held.deployment == wish.name]
            prepared = self.prepared.get(key_of(wish))
            said = conditions(self.wanted(wish, places), mine, wish.failed)
            status = {
                "observed_generation": wish.generation,
                "revision": wish.wanted().target,
                "replicas": len(mine),
                "ready_replicas": sum(replica.phase == "ready" for replica in mine),
                "conditions": [condition.as_dict() for condition in said],
            }
            model = None if prepared is None else prepared.facts.name
            entry = None if prepared is None else prepared.row.index
            found.append(
                {
                    "name": wish.name,
                    "model": model,
                    "admitted": entry,
                    "generation": wish.generation,
                    "spec": wish.spec.as_dict(),
                    "status": status,
                }
            )
        return found

    def replica_rows(self) -> list[dict[str, Any]]:
        """What is known of each replica."""
        now, (_, loads) = time.monotonic(), self.flights()
        found = []
        for id_, held in self.held.items():
            seen, replica = self.see(id_, now), self._node.replicas[id_]
            found.append(
                {
                    "id": id_,
                    "deployment": held.deployment,
                    "revision": held.revision,
                    "phase": seen.phase,
                    "requests": loads.get(id_, 0),
                    "slots": None if replica.row is None else replica.row.slots,
                    "threads": held.share.threads,
                    "memory_mib": held.share.memory_mib,
                    "devices": list(held.share.devices),
                    "entry": None if replica.row is None else replica.row.index,
                    "ends": replica.ends,
                    "last": replica.last,
                    "seconds": round(now - held.since),
                    "pid": held.child.pid,
                }
            )
        return found

    def see(self, id_: str, now: float) -> Running:
        held, replica = self.held[id_], self._node.replicas[id_]
        answers = replica.row is not None
        held.ready_since = (held.ready_since or now) if answers else None
        phase: Phase = "ready" if answers else "broken" if replica.ends else "starting"
        if held.stopping:
            phase = "stopping"
        elif held.drain_until is not None:
            phase = "draining"
        return Running(
            id_,
            held.deployment,
            held.revision,
            phase,
            held.since,
            held.ready_since,
            replica.ends,
            replica.last,
            held.cordoned,
            idle=phase == "draining" and (not answers or self._idle(id_, held.drained_at)),
            drain_until=held.drain_until or 0.0,
        )

    def flights(self) -> tuple[int, Mapping[str, float]]:
        """The oldest snapshot that a worker acts on, and the requests in flight by replica."""
        samples = metrics.merged(self._home.run.glob("metrics-*"))
        loads = {
            labels.removeprefix('replica="').removesuffix('"'): count
            for labels, count in samples.get(metrics.REPLICA_LOAD, {}).items()
        }
        return int(samples.get("daulat_snapshot_number", {}).get("", 0)), loads

    def _idle(self, id_: str, number: int) -> bool:
        """Whether every worker knows that it is being drained, and none waits for an answer of it."""
        snapshot, loads = self.flights()
        return snapshot >= number and not loads.get(id_)

    def place(self, wishes: Sequence[Deployment]) -> Places:
        """What each replica of each gets of this machine."""
        claims = []
        for wish in wishes:
            if wish.target.engine == _EXTERNAL:  # it takes nothing of this machine
                continue
            prepared = self.prepared.get(key_of(wish))
            memory = 0 if prepared is None else memory_needed(prepared.facts.size)
            claims.append(Claim(wish.name, wish.spec.replicas, memory, wish.target.devices))
        elsewhere = {
            wish.name: (Share(1, 0),) * wish.spec.replicas for wish in wishes if wish.target.engine == _EXTERNAL
        }
        return {**place(self._budget, claims), **elsewhere}

    def wanted(self, wish: Deployment, places: Places) -> Wanted:
        """A wish as the reconciler sees it."""
        return wish.wanted(self.blocked(wish, places), prepared=key_of(wish) in self.prepared)

    def blocked(self, wish: Deployment, places: Places) -> str:
        """Why no replica of what is aimed at can be started."""
        if why := self.refused.get(key_of(wish)):
            return why
        shares = places.get(wish.name)
        if isinstance(shares, Refused):
            return shares.reason
        broken = [self.unfit(share) for share in shares or ()]
        if broken and all(broken):
            return f"{broken[0]}: wait until it is well, or choose other devices (deploy --on)"
        if wish.wanted().trying and wish.target.devices and wish.spec.strategy != "recreate":
            taken = {device for held in self.held.values() if held.wish == wish.id for device in held.share.devices}
            fresh = any(held.wish == wish.id and held.revision == wish.revision for held in self.held.values())
            if not fresh and taken >= set(wish.target.devices):
                return _NO_ROOM_FOR_TWO
        return ""

    def unfit(self, share: Share) -> str:
        """Why nothing may run on a share's devices, or an empty string."""
        return next((why for device in share.devices if (why := self.fitness.unfit.get(device))), "")


def key_of(wish: Deployment) -> tuple[str, int]:
    return wish.id, wish.wanted().target

"""One snapshot, indexed for the request path. Replaced whole when the next snapshot comes; never changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.core import charter
from daulat.core.clock import Clock
from daulat.core.decision import Decision, inference_question, seen_of_lease
from daulat.core.principal import Principal
from daulat.core.snapshot import STRICT_SECONDS, LeaseRow, ModelRow, ReplicaRow, Snapshot
from daulat.engines import address as addresses
from daulat.errors import Unavailable
from daulat.identity.directory import Directory
from daulat.metering.purse import Limited
from daulat.policy.cache import CachedDecider


@dataclass(frozen=True, slots=True)
class Route:
    """A replica, and the lease under which it may answer."""

    replica: ReplicaRow
    lease: LeaseRow
    model: ModelRow  # what it serves: during a rollout, replicas of one name may differ in that
    attempt: str  # the beginning of its object in an entry's `attempts`, up to the outcome
    room: int  # so many requests of this worker it takes at once; more wait for their turn
    local: bool  # on this machine; nothing goes to another before its admission is durable


@dataclass(frozen=True, slots=True)
class Grant:
    """A decision, and the part of the admission record that is the same for every request it covers."""

    decision: Decision
    who: str  # from "action" to "key"
    under: str  # from "attributes" to "worker", for this route; one text for all of whom the same is said
    allowed: bool  # as `decision` says,
    limited: Limited  # what it counts against,
    bounded: bool  # and whether that is anything: of ten thousand keys each step further is memory to be found
    weight: int = 1  # of its tenant, where the engines are full
    priority: int = 0


_Reach = tuple[tuple[Route, ...], int, float]  # all routes of a model, and until when all of their leases live
_ELSEWHERE: Final = "external"  # evidence about an engine that Daulat does not run
_BOUNDLESS: Final = 1 << 31
_NOWHERE: Final[_Reach] = ((), 0, 0.0)


class World:
    """What may happen now. Built in one go from a snapshot; `heartbeat` is the only thing that moves."""

    def __init__(
        self,
        snapshot: Snapshot,
        directory: Directory,
        decider: CachedDecider,
        clock: Clock,
        worker: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """`directory`: over the snapshot's roll; it outlives the world where the roll stays the same.

        `share`: which of how many workers this is, from 0 on.
        """
        self.snapshot = snapshot
        self.directory = directory
        self.models: Mapping[str, ModelRow] = {row.name: row for row in snapshot.models}
        self.quoted = {name: json.dumps(name, ensure_ascii=False) for name in self.models}
        self.heartbeat = clock.boottime()  # when the control plane was last seen alive
        self._clock, self._decider, self._worker = clock, decider, worker
        self._charter = charter.parse(snapshot.charter.text)
        self._leases = {row.node: row for row in sorted(snapshot.leases, key=lambda row: row.index)}
        self._decoded: dict[int, dict[str, Any]] = {
            **{row.index: json.loads(row.entry) for row in snapshot.models},
            **{row.index: json.loads(row.entry) for row in snapshot.leases},
        }
        self._grants: dict[Hashable, dict[int, Grant]] = {}  # by what is asked of whom, then by who asks
        admitted = {(row.name, row.index): row for row in snapshot.models}
        self._reach = {
            name: _reach(
                self._route(replica, admitted.get((name, replica.admitted or 0), newest), share)
                for replica in snapshot.replicas
                if replica.model == name and replica.node in self._leases and not replica.draining
            )
            for name, newest in self.models.items()
        }

    @property
    def margin_ms(self) -> int:
        return self._charter.margin_seconds * 1000

    def routes(self, model: str, now_ms: int | None = None) -> tuple[Route, ...]:
        """Where this model may be answered now; `now_ms`, Unix, where the caller has just looked.

        Raises:
            Unavailable: nowhere; says why.
        """
        now = self._clock.now_ms() if now_ms is None else now_ms
        boot = self._clock.boottime()
        if self._charter.strict:
            self._must_be_fresh(boot)
        routes, until, until_boot = self._reach.get(model, _NOWHERE)
        if now < until and boot < until_boot:
            return routes
        live = tuple(route for route in routes if now < route.lease.expires and boot < route.lease.expires_boottime)
        if live:
            return live
        reasons = [f"the lease of node {route.lease.node} has expired" for route in routes] or list(
            self.snapshot.refusals
        )
        raise Unavailable(
            f"No replica may answer for '{model}' now: {'; '.join(reasons) or 'none is running under a live lease'}.",
            code="no_live_lease" if routes else "no_replica",
        )

    def alive(self, key_id: str, replica_id: str) -> str:
        """Why a running answer must be cut, or an empty string."""
        if self.directory.principal(key_id) is None:
            return "the API key was revoked"
        if all(replica.id != replica_id for replica in self.snapshot.replicas):
            return "the replica was stopped"
        if all(replica.node not in self._leases for replica in self.snapshot.replicas if replica.id == replica_id):
            return "the node's lease was revoked"
        return ""

    def grant(self, principal: Principal, action: str, model: ModelRow, route: Route) -> Grant:
        """The decision on this person, action, model and lease, remembered while nothing of that changes."""
        asked = (action, model.index, route.lease.index, route.replica.index)
        grants = self._grants.get(asked)  # with ten thousand keys each tuple would be memory to be read
        if grants is None:
            grants = self._grants[asked] = {}
        found = grants.get(principal.version)
        if found is None:
            found = grants[principal.version] = self._decide(principal, action, model, route)
        return found

    def _decide(self, principal: Principal, action: str, model: ModelRow, route: Route) -> Grant:
        policy, lease = self.snapshot.policy, self._decoded[route.lease.index]
        decision = self._decider.decide(
            (self.snapshot.charter.index, policy.index, principal.version, action, model.index, seen_of_lease(lease)),
            lambda: inference_question(
                self._charter,
                action,
                tenant=principal.tenant,
                person=principal.person,
                attributes=principal.attributes.as_dict(),
                model=self._decoded[model.index],
                lease=lease,
            ),
        )
        who, under = self.describe(principal, action, decision, (model.index, route.replica.index, route.lease.index))
        scopes = (("key", principal.key), ("tenant", principal.tenant), ("model", model.name))
        found = [self.directory.limit(scope, subject) for scope, subject in scopes]
        limited = Limited(limit for limit in found if limit is not None and limit.bounds)
        return Grant(
            decision,
            who,
            under,
            decision.allowed,
            limited,
            bounded=bool(limited.limits),
            weight=1 if found[1] is None else found[1].weight,
            priority=next((limit.priority for limit in found[:2] if limit is not None and limit.priority), 0),
        )

    def describe(
        self, principal: Principal, action: str, decision: Decision, of: tuple[int | None, int | None, int | None]
    ) -> tuple[str, str]:
        """The part of an admission record that says who asked what, and the one that says what was decided, and under
        what: JSON members. `of`: the log indices of model, replica and lease."""
        who = {"action": action, "tenant": principal.tenant, "principal": principal.person, "key": principal.key}
        under = {
            "attributes": principal.attributes.as_dict(),
            **decision.as_dict(),
            "snapshot": self.snapshot.number,
            "policy": self.snapshot.policy.index,
            **dict(zip(("model", "replica", "lease"), of, strict=True)),
            "worker": self._worker,
        }
        return _members(who), sys.intern(_members(under))

    def not_ready(self) -> list[str]:
        """Why this worker cannot answer at all, in words; empty when it can for at least one model."""
        if not self.models:
            return ["no model is admitted", *self.snapshot.refusals]
        reasons = []
        for name in self.models:
            try:
                self.routes(name)
            except Unavailable as error:
                reasons.append(error.message)
            else:
                return []
        return reasons

    def _route(self, replica: ReplicaRow, model: ModelRow, share: tuple[int, int]) -> Route:
        lease = self._leases[replica.node]
        attempt = f'{{"replica":{replica.index},"lease":{lease.index},"outcome":'
        if _ELSEWHERE in self._decoded[lease.index]["evidence"]:
            room = _BOUNDLESS  # how much it takes is its owner's to say
        elif replica.dialect == "llama.cpp":  # each worker has slots of its own
            room = max(1, len(range(share[0], replica.slots, share[1])))
        else:
            room = replica.slots
        return Route(replica, lease, model, attempt, room, addresses.parse(replica.address).local)

    def _must_be_fresh(self, boot: float) -> None:
        if boot - self.heartbeat > STRICT_SECONDS:
            raise Unavailable(
                f"The control plane has been silent for more than {STRICT_SECONDS:.0f} s, and the charter is strict.",
                code="control_plane_silent",
            )


def _reach(found: Iterable[Route]) -> _Reach:
    routes = tuple(found)
    leases = [route.lease for route in routes]
    expires = min((lease.expires for lease in leases), default=0)
    return routes, expires, min((lease.expires_boottime for lease in leases), default=0.0)


def _members(fields: Mapping[str, object]) -> str:
    """As `core.entries` writes them."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))[1:-1]

"""What the control process answers on its socket: to its children, to the CLI, and to the admin API."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daulat.adapters import rpc
from daulat.adapters.journal_files import WATERMARK_BYTES
from daulat.adapters.models import ModelStore
from daulat.errors import ConfigError
from daulat.pipeline import establish
from daulat.pipeline.deploy import Deployments
from daulat.pipeline.enrol import Node
from daulat.processes.administering import Administering
from daulat.processes.children import Child
from daulat.processes.deploying import Deploying
from daulat.processes.establishing import Established
from daulat.processes.office import Served
from daulat.processes.publishing import Publishing
from daulat.processes.replicas import Replicas
from daulat.processes.services import Services
from daulat.settings import Home

_LISTED = frozenset({"keys", "people", "tenants", "auditors"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answering:
    """The handlers. `children`: all that run now; `url`: where clients find the service."""

    by: Established
    services: Services
    node: Node
    deployments: Deployments
    replicas: Replicas
    publishing: Publishing
    sequencer: rpc.Client
    children: Callable[[], list[Child]]
    url: str

    def handlers(self) -> dict[str, rpc.Handler]:
        """By method."""
        changes, desk, roster = self.publishing.changes, self.by.desk, self.replicas.roster
        deployments = self.publishing.listed(roster.deployment_rows)
        replicas = self.publishing.listed(roster.replica_rows)
        deploying = self._deploying(self.deployments)
        wish = changes(deploying.wish)

        async def deploy(model: str, name: str, changes: dict[str, Any]) -> Any:
            meant, spec = await deploying.resolve(model, name, changes)
            return await wish(name=meant, spec=spec)

        does = self.services.handlers(_as_it_is)
        served = Served(self.status, deployments, replicas, self.services, does, self._deploying)
        rows, log, clock = self.by.rows, self.by.book.write, self.by.clock
        administering = Administering(rows, log, clock, self.by.charter, desk, served)
        return {
            "worker.register": self.register,
            "replica.report": self.report,
            "status": self.status,
            "key.create": changes(desk.create_key),
            "key.revoke": changes(desk.revoke_key),
            "person.add": changes(desk.add_person),
            "tenant.add": changes(desk.add_tenant),
            "auditor.create": changes(desk.create_auditor),
            "auditor.revoke": changes(desk.revoke_auditor),
            "list": self.rows,
            "deploy": deploy,
            "deployment.stop": changes(deploying.stop),
            "replica.drain": changes(deploying.drain),
            "deployments": deployments,
            "replicas": replicas,
            "logs": deploying.logs,
            **self.services.handlers(changes),
            **administering.handlers(changes),
        }

    async def register(self, slot: int, vkey: str) -> dict[str, Any]:
        """A worker begins: its key is certified, and it learns where and how it writes."""
        charter_index, charter = self.by.charter
        async with self.publishing.changing:
            index = await establish.key(self.by.book, charter_index, "worker", vkey)
        self.services.metering.registered(slot, index)
        _log.info("worker %d has key entry %d", slot, index)
        return {"index": index, "origin": self.by.book.origin, "margin_ms": charter.margin_seconds * 1000}

    async def report(self, replica: str, event: str, data: dict[str, Any]) -> None:
        """What a supervisor says of its replica."""
        if event != "loading":
            _log.info("replica %s: %s", replica, event)
        async with self.publishing.changing:
            if await self.node.report(replica, event, data):
                self.publishing.publish()
        if event in {"ready", "stopped"}:
            self.replicas.look()

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table, without secrets. Raises ConfigError: there is none of that name that is shown."""
        if table not in _LISTED:
            raise ConfigError(f"no table {table!r}")
        return self.by.desk.list(table)

    async def status(self) -> dict[str, Any]:
        """What runs, under which lease, and where the log stands."""
        log = await self.sequencer.call("status")
        roster, services, (_, charter) = self.replicas.roster, self.services, self.by.charter
        return {
            "url": self.url,
            "origin": self.by.book.origin,
            "profile": charter.profile,
            "ceremony": services.consenting.ceremony(),
            "snapshot": self.publishing.number,
            "lease": self._lease(),
            "deployments": roster.deployment_rows(),
            "replicas": roster.replica_rows(),
            "waiting": [*self.by.terms.in_force.waiting, *services.metering.waiting],
            "warnings": services.consenting.warnings(),
            "reviews": services.consenting.reviews(),
            "breaches": services.breaches.open_ones(),
            "not_serving_because": [*self.publishing.refusals(), *_no_room(self.by.home)],
            "log": {key: log[key] for key in ("origin", "size", "vkey", "seconds_since_tick")},
            "processes": [
                {"name": child.name, "pid": child.pid, "starts": child.starts, "ready": child.ready.is_set()}
                for child in self.children()
            ],
        }

    def _lease(self) -> Mapping[str, Any] | None:
        lease = self.node.lease
        if lease is None:
            return None
        seconds_left = round((lease.expires - self.by.clock.now_ms()) / 1000)
        return {"entry": lease.index, "node": lease.node, "seconds_left": seconds_left}

    def _deploying(self, by: Deployments) -> Deploying:
        return Deploying(by, self.replicas, ModelStore(self.by.home.models), self.node.admits)


def _as_it_is(use_case: rpc.Handler) -> rpc.Handler:
    """For whoever holds the lock of changes already, and publishes afterwards."""
    return use_case


def _no_room(home: Home) -> list[str]:
    """Why the workers admit nothing, where the disk is too full."""
    free = shutil.disk_usage(home.journal).free
    if free >= WATERMARK_BYTES:
        return []
    return [f"{free >> 20} MiB are free at {home.journal}, {WATERMARK_BYTES >> 20} are needed: make room"]

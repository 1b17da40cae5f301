"""An installation's people, for those who attack its admin API: two tenants, operators, auditors, all their secrets.

Control database, desk, consent, reconciler, both halves of the admin API and the socket between them are the real ones;
there is no engine and no worker, and the log is a list of entries.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx
from tests.support import oidc
from tests.support.fleet import Fleet
from tests.support.site import CHARTER

from daulat.adapters import rpc
from daulat.catalog import charters
from daulat.core.consent import Kind, Proposed
from daulat.identity import providers
from daulat.pipeline.book import Book
from daulat.pipeline.operate import Desk
from daulat.processes.administering import Administering
from daulat.processes.breaches import Breaches
from daulat.processes.consenting import Consenting
from daulat.processes.deploying import Deploying
from daulat.processes.identifying import Identifying
from daulat.processes.metering import Metering
from daulat.processes.office import Served
from daulat.processes.pages import application
from daulat.processes.provisioning import Provisioning
from daulat.processes.services import Services
from daulat.processes.storing import Storing
from daulat.processes.watch import Watch
from daulat.tlog.note import Signer

ORIGIN = "test.daulat.example/2026"
MODEL = "a" * 64
STATUS = {
    "url": "http://127.0.0.1:8470",
    "origin": ORIGIN,
    "profile": "evaluation",
    "ceremony": None,
    "snapshot": 1,
    "lease": {"entry": 7, "node": "node_1", "seconds_left": 299},
    "waiting": [],
    "warnings": [],
    "not_serving_because": [],
    "log": {"origin": ORIGIN, "size": 9, "vkey": "v", "seconds_since_tick": 0.5},
    "processes": [{"name": "pages", "pid": 4, "starts": 1, "ready": True}],
}


class Town:
    """Use as a context. `secrets` and `ids` are by name; `log` has what was written down, oldest first."""

    def __init__(self, folder: Path, *, approvals: int = 0) -> None:
        self.fleet = Fleet(folder)
        self.rows, self.home, self.clock = self.fleet.database, self.fleet.home, self.fleet.site.clock
        self.charter = replace(CHARTER, approvals=approvals)
        self.home.charter.write_text(charters.starter("test.daulat.example"))
        self.book = Book(ORIGIN, self.fleet.site._append, self.rows, self.clock)
        self.desk = Desk(self.rows, self.book.write, self.clock, 1)
        self.keys = {name: Signer(name, bytes([at] * 32)) for at, name in enumerate(("ali", "bina", "chong"), 1)}
        self.secrets: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        self.told: list[Mapping[str, Any]] = []
        self.rotated: list[str] = []  # tenants whose keys the vault made anew; "" is the root
        self._lock = asyncio.Lock()

    @property
    def log(self) -> list[dict[str, Any]]:
        return self.fleet.site.log

    def entries(self, type_: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry["type"] == type_]

    async def __aenter__(self) -> Self:
        consenting = Consenting(self.rows, self.book, self.clock, (1, self.charter), self.desk, self.home, self._told)
        fleet = self.fleet

        async def status() -> dict[str, Any]:
            return STATUS

        async def deployments() -> list[dict[str, Any]]:
            return fleet.replicas.roster.deployment_rows()

        async def replicas() -> list[dict[str, Any]]:
            return fleet.replicas.roster.replica_rows()

        def deploying(by: Any) -> Deploying:
            return Deploying(by, fleet.replicas, fleet.deploying._store, fleet.site.node.admits)

        placed = (self.home, "test.daulat.example", ORIGIN, "MY", 1)
        self.metering = Metering(self.rows, self.desk.act, self.clock, *placed)
        charter = (1, self.charter)
        identifying = Identifying(self.rows, self.book.write, self.clock, charter, self.desk, None)
        storing = Storing(self.rows, self.book, self.clock, charter, self.desk, self.home)
        where = providers.parse(oidc.settings())
        self.provisioning = Provisioning(self.rows, self.book.write, self.clock, charter, self.desk, self.home, where)
        breaches = Breaches(self.rows, self.desk, self.clock, self.home)
        services = Services(consenting, identifying, self.provisioning, storing, self.metering, breaches)
        served = Served(status, deployments, replicas, services, services.handlers(lambda use: use), deploying)
        self.administering = Administering(self.rows, self.book.write, self.clock, charter, self.desk, served)
        handlers = {**self.administering.handlers(self._changes), **self.provisioning.handlers(self._changes)}
        self.control = handlers
        self._server = await rpc.serve(self.home.control_socket, handlers)
        vault = {"rotate": self._rotate, "status": self._vault_status}
        self._vault = await rpc.serve(self.home.vault_socket, vault)
        self.app = application(self.home, Watch())
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://pages")
        await self._people(consenting, handlers)
        return self

    async def __aexit__(self, *_reason: object) -> None:
        await self.http.aclose()
        self._server.close()
        self._vault.close()
        await self.fleet.replicas.stop()
        self.metering.close()
        self.rows.close()

    async def _told(self, notice: Mapping[str, Any]) -> list[str]:
        self.told.append(notice)
        return []

    def _changes(self, use_case: Callable[..., Any]) -> rpc.Handler:
        async def act(**params: Any) -> Any:
            async with self._lock:
                return await use_case(**params)

        return act

    async def _people(self, consenting: Consenting, handlers: dict[str, rpc.Handler]) -> None:
        await self.desk.begin()
        for house in ("first-agency", "other-agency"):
            if house == "other-agency":
                await self.desk.add_tenant(house)
            for role in ("user", "tenant-admin"):
                name = f"{role}-of-{house}"
                made = await self.desk.add_person(name, house, "MY", "substantial", [role], days=300)
                self.ids[name] = made["id"]
                key = await self.desk.create_key(name, name, [], 0, days=30)
                self.secrets[f"key-of-{name}"], self.ids[f"key-of-{name}"] = key["api_key"], key["id"]
        self.ids.update(
            {row["name"]: row["id"] for table in ("tenants", "auditors", "people") for row in self.rows.rows(table)}
        )
        for name, key in self.keys.items():
            person = "first-operator" if name == "ali" else name
            if name != "ali":
                made = await self.desk.add_person(name, "operators", "MY", "high", ["operator"], days=300)
                self.ids[name] = made["id"]
            position = await consenting._certify(key.vkey, 1 << 50)
            row = {"id": f"operatorkey_{name}", "name": key.vkey.split("+", 2)[2], "person": self.ids[person]}
            self.rows.add(
                "operator_keys", {**row, "vkey": key.vkey, "origin": ORIGIN, "position": position, "revoked": None}
            )
        for name in ("first-operator", "bina", "chong", "tenant-admin-of-first-agency", "tenant-admin-of-other-agency"):
            made = await handlers["adminkey.create"](person=name, label=f"of {name}", days=30)
            self.secrets[name], self.ids[f"admin-key-of-{name}"] = made["admin_key"], made["id"]
        for name in [name for name in self.ids if name.startswith(("user-of-", "tenant-admin-of-"))]:
            self._signed_in(name)
        made = await self.desk.create_auditor("national-audit", days=30)
        self.secrets["auditor"], self.ids["national-audit"] = made["auditor_token"], made["id"]

    def _signed_in(self, name: str) -> None:
        """With a provider, in a browser."""
        mine = {"person": self.ids[name], "name": f"hash of {name}"}
        self.ids[f"identity-of-{name}"], self.ids[f"session-of-{name}"] = f"identity_{name}", f"session_{name}"
        self.rows.add("identities", {"id": f"identity_{name}", **mine})
        now = self.clock.now_ms()
        times = {"created": now, "expires": now + 3_600_000, "revoked": None}
        browser = {"issuer": "https://id.example", "binding": "b"}
        self.rows.add("sessions", {"id": f"session_{name}", **mine, **browser, **times})

    async def _rotate(self, tenant: str) -> dict[str, int]:
        self.rotated.append(tenant)
        return {"root": 2}

    async def _vault_status(self) -> dict[str, Any]:
        return {"open": True, "reason": "", "lease": {"entry": 5, "expires": 1 << 41}}

    async def ask(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """As somebody of `secrets`, or nobody where `who` is empty. `path` is below `/admin/v1/`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if who:
            given["authorization"] = f"Bearer {self.secrets[who]}"
        return await self.http.request(method, f"/admin/v1/{path}", json=body, headers=given)

    def signed(self, kind: Kind, shown: dict[str, Any], who: str) -> dict[str, str]:
        """As an operator's own machine does it."""
        digest = hashlib.sha256(shown["payload"].encode()).hexdigest()
        names = ("origin", "proposal", "action", "prior")
        made = Proposed(*(shown[name] for name in names), digest, shown["expires"])
        key = self.keys[who]
        return {"vkey": key.vkey, "signature": base64.b64encode(key.sign_bytes(made.statement(kind))).decode()}

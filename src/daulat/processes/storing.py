"""What the control process does for the vault: leases for its place, new keys, retention, people's rights."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from daulat.adapters import rpc
from daulat.adapters.control_db import ControlDatabase
from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.consent import RESTORE
from daulat.core.export import ACT
from daulat.core.retention import SET
from daulat.errors import DaulatError, InvalidRequest
from daulat.pipeline.agreed import Naming
from daulat.pipeline.book import Book
from daulat.pipeline.consent import Act
from daulat.pipeline.erase import Erasing, Erasure, Scope
from daulat.pipeline.operate import Desk
from daulat.processes import erased
from daulat.processes.retaining import Retaining
from daulat.processes.rights import Rights
from daulat.settings import Home
from daulat.vault import residency
from daulat.vault.residency import LEASE_MS, Site

_AGAIN_SECONDS: Final = 30.0
_SOON_SECONDS: Final = 3.0
_KNOWN: Final = "erasures_known"  # how far into each shard
_log = logging.getLogger(__name__)


class Storing:
    """The control plane's side of the vault."""

    def __init__(
        self, rows: ControlDatabase, book: Book, clock: Clock, charter: tuple[int, Charter], desk: Desk, home: Home
    ) -> None:
        self._book, self._clock, self._desk = book, clock, desk
        self._charter_index, self._charter = charter
        self._home, self._vault = home, home.vault_socket
        self._granting = asyncio.Lock()
        self._rows = rows
        self._erasure = Erasure(rows, book.write, self._charter_index, self._destroy)
        self._rights = Rights(rows, book.write, clock, self._charter_index, desk)
        self._retaining = Retaining(rows, book.write, self._charter_index, home)

    def acts(self) -> dict[str, Act]:
        """What operators have to agree to."""
        scopes: dict[str, Scope] = {"person.erase": "person", "tenant.erase": "tenant"}
        erasing = {action: Erasing(scope, self._rows, self._erasure) for action, scope in scopes.items()}
        # Of a restore the agreement is the act: `daulat restore` finds it in the log, with the service stopped.
        restoring = Naming(lambda _: None)
        return {**erasing, SET: self._retaining.act, ACT: self._rights.act, RESTORE: restoring}

    async def watch(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> None:
        """Finish erasures that were begun, for as long as the service runs: the vault may have been away."""
        go_on, erase, first = changes(self._erasure.go_on), changes(self._erasure.erase), True
        while True:
            try:
                if self._erasure.waits():
                    await go_on()
                await self._look_back(erase, first=first)
                first = False
            except DaulatError as error:
                _log.warning("an erasure waits: %s", error.message)
            await asyncio.sleep(_SOON_SECONDS if self._erasure.waits() else _AGAIN_SECONDS)

    async def _look_back(self, erase: rpc.Handler, *, first: bool) -> None:
        """Erase whom this log tells of as erased and the control database has all the same: it was set back.

        How much of the log it knows is kept in the database itself, so that it goes back with it. What the log gets
        after the `first` time comes from here.

        Raises:
            Unavailable: somebody is not erased yet; NotFound, VerificationFailed: the log cannot be read.
        """
        known, heads = json.loads(self._rows.meta(_KNOWN) or "{}"), await asyncio.to_thread(erased.heads, self._home)
        if known == heads:
            return
        if first:
            told = await asyncio.to_thread(erased.between, self._home, known, heads)
            for whom in self._erasure.back(told):
                _log.warning("the control database was set back: a %s is erased again, as the log tells", whom.scope)
                await erase(whom=whom)
        self._rows.set_meta(_KNOWN, json.dumps(heads))

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act."""
        return {
            "vault.lease": self._lease,
            "vault.rotate": changes(self._rotate),
            "vault.status": self._status,
            **self._retaining.handlers(),
            **self._rights.handlers(changes),
        }

    async def _lease(self, kind: str, place: str, jurisdiction: str, evidence: Mapping[str, Any]) -> dict[str, int]:
        """A lease for the place where objects are kept.

        Raises:
            PermissionDenied: it is not known to lie in the charter's country.
        """
        site = Site(kind, place, jurisdiction, dict(evidence))
        residency.must_be_in(site, self._charter.country)
        async with self._granting:
            now = self._clock.now_ms()
            fields = {
                "charter": self._charter_index,
                "kind": site.kind,
                "place": site.place,
                "jurisdiction": site.jurisdiction,
                "not_before": now,
                "expires": now + LEASE_MS,
                "evidence": site.evidence,
                "replaces": self._book.index("storage.lease/v1", site.place),
            }
            index = await self._book.write("storage.lease/v1", fields, name=site.place)
        return {"index": index, "expires": now + LEASE_MS}

    async def rotate(self, desk: Desk, tenant: str) -> dict[str, Any]:
        """New keys, old ones away: a tenant's, or the root's. What it did stands in the log once it is done.

        Raises:
            NotFound: there is no such tenant; Unavailable: the vault is not open.
        """
        id_, subject = ("", "root") if not tenant else desk.tenant(tenant)
        done: dict[str, Any] = await rpc.once(self._vault, "rotate", tenant=id_)
        await desk.act("vault.rotate", subject, {})
        return {"rotated": "tenant" if tenant else "root", **done}

    async def _rotate(self, tenant: str = "") -> dict[str, Any]:
        if tenant and not isinstance(tenant, str):
            raise InvalidRequest("a tenant is named by its id or name")
        return await self.rotate(self._desk, tenant)

    async def _destroy(self, scope: Scope, name: str, people: Sequence[str]) -> tuple[int, int]:
        found = await rpc.once(self._vault, "destroy", owner=scope, name=name, people=list(people))
        return found["keys"], found["objects"]

    async def _status(self) -> Any:
        return await rpc.once(self._vault, "status")

"""What the control process does for the vault: leases for the place where data lies, rotation of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from daulat.adapters import rpc
from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.errors import InvalidRequest
from daulat.pipeline.book import Book
from daulat.pipeline.operate import Desk
from daulat.settings import Home
from daulat.vault import residency
from daulat.vault.residency import LEASE_MS, Site


class Storing:
    """The control plane's side of the vault."""

    def __init__(self, book: Book, clock: Clock, charter: tuple[int, Charter], desk: Desk, home: Home) -> None:
        self._book, self._clock, self._desk = book, clock, desk
        self._charter_index, self._charter = charter
        self._vault = home.vault_socket
        self._granting = asyncio.Lock()

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act."""
        return {"vault.lease": self._lease, "vault.rotate": changes(self._rotate), "vault.status": self._status}

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

    async def _rotate(self, tenant: str = "") -> dict[str, Any]:
        """New keys, old ones away. What it did stands in the log once it is done."""
        if tenant and not isinstance(tenant, str):
            raise InvalidRequest("a tenant is named by its id or name")
        id_, subject = ("", "root") if not tenant else self._desk.tenant(tenant)
        done: dict[str, Any] = await rpc.once(self._vault, "rotate", tenant=id_)
        await self._desk.act("vault.rotate", subject, {})
        return {"rotated": "tenant" if tenant else "root", **done}

    async def _status(self) -> Any:
        return await rpc.once(self._vault, "status")

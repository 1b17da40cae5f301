"""What the control process offers to tenants' directories: who of their people is there, to nobody but themselves.

The pages process speaks SCIM and hands over what it has read with the credential that came with it. Whose that is, and
whom they may see, is found out here; who is known and is refused leaves an `access.refused/v1` entry.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from daulat.adapters import rpc
from daulat.adapters.identity_key import identity_key
from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.errors import InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from daulat.identity.providers import SignIn
from daulat.metering.denials import DenialBudget
from daulat.pipeline.administer import Credentials
from daulat.pipeline.identities import Rows
from daulat.pipeline.operate import Desk, Log
from daulat.pipeline.provision import Directories, Directory, Provisioned
from daulat.settings import Home

_log = logging.getLogger(__name__)


class Provisioning:
    """Directories over the control database and the log of this installation."""

    def __init__(
        self,
        rows: Rows,
        log: Log,
        clock: Clock,
        charter: tuple[int, Charter],
        desk: Desk,
        home: Home,
        where: SignIn | None,
    ) -> None:
        self._charter, read = charter
        self._log, self._clock, self._desk, self._where = log, clock, desk, where
        self._directories = Directories(rows, clock)
        self._people = Provisioned(rows, clock, desk, lambda: identity_key(home.identity_key))
        self._credentials, self._budget = Credentials(rows, clock, read), DenialBudget()

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act."""
        return {
            "directory.create": changes(self._create),
            "directory.revoke": changes(self._revoke),
            "directory.list": self._list,
            "scim.whose": self._known,
            "scim.find": self._find,
            "scim.search": self._search,
            "scim.create": self._asked("scim.create", changes(self._created)),
            "scim.update": self._asked("scim.update", changes(self._updated)),
            "scim.delete": self._asked("scim.delete", changes(self._deleted)),
        }

    async def _create(self, tenant: str, label: str, provider: str, days: int, person_days: int) -> dict[str, Any]:
        issuer = ""
        if provider:
            found = self._where.provider.get(provider) if self._where is not None else None
            if found is None:
                raise InvalidRequest(f"signin.toml has no provider {provider!r}")
            issuer = found.issuer
        return await self._directories.create(self._desk, tenant, label, issuer, days, person_days)

    async def _revoke(self, wanted: str) -> dict[str, Any]:
        return await self._directories.revoke(self._desk, wanted)

    async def _list(self) -> list[dict[str, Any]]:
        return self._directories.all()

    # For a directory. What changes something is looked at twice: nobody who may not holds up the acts of others.

    async def _known(self, credential: str) -> None:
        async with self._whose(credential, "scim"):
            pass

    async def _find(self, credential: str, person: str) -> dict[str, Any]:
        async with self._whose(credential, "scim.find") as by:
            return self._people.find(by, person)

    async def _search(self, credential: str, attribute: str, value: str, start: int, count: int) -> dict[str, Any]:
        async with self._whose(credential, "scim.search") as by:
            return self._people.search(by, attribute, value, start, count)

    def _asked(self, action: str, does: rpc.Handler) -> rpc.Handler:
        async def ask(credential: str, **said: Any) -> Any:
            async with self._whose(credential, action) as by:
                if "person" in said:
                    self._people.find(by, said["person"])
                return await does(credential=credential, **said)

        return ask

    async def _created(self, credential: str, **said: Any) -> dict[str, Any]:
        return await self._people.create(self._directories.of(credential), **said)

    async def _updated(self, credential: str, person: str, **said: Any) -> dict[str, Any]:
        return await self._people.update(self._directories.of(credential), person, **said)

    async def _deleted(self, credential: str, person: str, version: int | None) -> None:
        await self._people.delete(self._directories.of(credential), person, version)

    @asynccontextmanager
    async def _whose(self, credential: str, action: str) -> AsyncIterator[Directory]:
        """The directory that asks; what it is refused is written down.

        Raises:
            Unauthenticated: nobody's credential; PermissionDenied: somebody's, of another kind.
        """
        try:
            by = self._directories.of(credential)
        except Unauthenticated:
            actor = self._credentials.actor(credential)
            await self._refused(actor.tenant_pseudonym, actor.pseudonym, action, PermissionDenied.code)
            raise PermissionDenied("this is for a directory's token (`daulat directory create`)") from None
        try:
            yield by
        except (PermissionDenied, NotFound) as error:
            tenant = self._desk.tenant(by.house["id"])[1]
            await self._refused(tenant, by.pseudonym(), action, error.code)
            raise

    async def _refused(self, tenant: str, principal: str, action: str, code: str) -> None:
        """Beyond ten a second of one of them, into this machine's own log alone."""
        if not self._budget.spend(principal, self._clock.now_ms()):
            _log.warning("a refusal of %s beyond what may stand in the log: %s, %s", principal, action, code)
            return
        fields = {"charter": self._charter, "tenant": tenant, "principal": principal, "action": action, "code": code}
        await self._log("access.refused/v1", fields)

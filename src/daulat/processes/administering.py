"""The admin API's half in the control process: who asks, whether they may, and what stands in the log of it.

The pages process hands over an address and a credential, and says of nobody who they are. Here the credential becomes a
person, every id that a request names is looked for among what that person may see, and only then something is done, in
that person's name. Who is known and is refused leaves an `access.refused/v1` entry.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from daulat.adapters import rpc
from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.errors import ConfigError, DaulatError, InvalidRequest, NotFound, PermissionDenied
from daulat.gateway.admin.table import BY_ID, Operation
from daulat.gateway.admin.types import Paging
from daulat.metering.denials import DenialBudget
from daulat.pipeline.administer import Actor, Admins, Credentials, own
from daulat.pipeline.once import Once
from daulat.pipeline.operate import Desk, Log
from daulat.processes.office import Ask, Office, Served
from daulat.processes.oversight import Oversight

_TABLES: Final = {
    "tenant": ("tenants", "tenant"),
    "person": ("people", "person"),
    "key": ("keys", "key"),
    "admin_key": ("admin_keys", "admin key"),
    "directory": ("directories", "directory"),
    "auditor": ("auditors", "auditor"),
    "session": ("sessions", "session"),
}
"""What an id in an address, a query or a body is of: the rows, and the word for one of them."""
_WHERE: Final = re.compile(r"(.*?) - at `\$\.?([^`]*)`\Z", re.DOTALL)
_log = logging.getLogger(__name__)


class Administering:
    """Admission to the admin API, on the control process' socket."""

    def __init__(
        self, rows: Any, log: Log, clock: Clock, charter: tuple[int, Charter], desk: Desk, served: Served
    ) -> None:
        self._charter, read = charter
        self._log, self._clock = log, clock
        self._credentials = Credentials(rows, clock, read)
        self._admins = Admins(rows, desk, clock)
        self._office = Office(rows, desk, clock, served)
        self._does = {**self._office.does, **Oversight(rows, desk, clock, served, self._office).does}
        self._once, self._budget = Once(rows, clock), DenialBudget()

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act."""
        self._acts = changes(self._acted)
        return {
            "admin": self._ask,
            "access.refused": self._stranger,
            "adminkey.create": changes(self._admins.create_key),
            "adminkey.revoke": changes(self._admins.revoke_key),
            "adminkey.list": self._keys,
        }

    async def _ask(
        self,
        operation: str,
        credential: str,
        path: Mapping[str, str],
        query: Mapping[str, str],
        body: str,
        idempotency_key: str,
        if_match: str,
    ) -> dict[str, Any]:
        """One request: {"value", "etag"}."""
        asked = BY_ID[operation]
        actor = self._credentials.actor(credential)
        try:
            if actor.role not in asked.roles:
                roles = " or ".join(sorted(asked.roles))
                raise PermissionDenied(actor.why or f"this is for the role {roles}, and yours is {actor.role}")
            ask = self._read(asked, actor, path, query, body, if_match)
            await self._office.prepare(ask)
            if not asked.changes:
                value = await self._does[asked.id](ask)
            elif asked.creates and idempotency_key:
                whole = msgspec.json.encode([operation, sorted(path.items()), body]).decode()
                value = await self._acts(ask=ask, once=(idempotency_key, whole))
            else:
                value = await self._acts(ask=ask, once=None)
        except (PermissionDenied, NotFound) as error:
            await self._refused(actor, asked.id, error.code)
            raise
        except ConfigError as error:
            raise InvalidRequest(error.message) from None
        return _reply(ask, value)

    async def _acted(self, ask: Ask, once: tuple[str, str] | None) -> Any:
        does = self._does[ask.operation.id]
        if once is None:
            return await does(ask)
        return await self._once.run(ask.actor.person, *once, lambda: does(ask))

    def _read(
        self,
        asked: Operation,
        actor: Actor,
        path: Mapping[str, str],
        query: Mapping[str, str],
        body: str,
        if_match: str,
    ) -> Ask:
        """A request in its types, with the rows of all ids that it names.

        Raises:
            InvalidRequest: it is not what the table says; NotFound: an id is of nothing that this actor may see.
        """
        if asked.body is None and body:
            raise InvalidRequest("This takes no body.")
        if asked.query is None and query:
            raise InvalidRequest(f"This takes no query; unknown: {', '.join(sorted(query))[:200]}.")
        try:
            told = None if asked.query is None else msgspec.convert(dict(query), asked.query, strict=False)
            read = None if asked.body is None else msgspec.json.decode(body, type=asked.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _malformed(error) from None
        ids = dict(path)
        for part in (told, read):
            ids.update({what: getattr(part, what) for what in ("tenant", "person") if getattr(part, what, "")})
        named = {
            what: own(self._office.visible(actor, _TABLES[what][0]), id_, _TABLES[what][1])
            for what, id_ in ids.items()
            if what in _TABLES
        }
        return Ask(asked, actor, path, named, told, read, if_match)

    async def _refused(self, actor: Actor, action: str, code: str) -> None:
        """Write it down; beyond ten a second of one person, into this machine's own log alone."""
        if not self._budget.spend(actor.pseudonym, self._clock.now_ms()):
            _log.warning("a refusal of %s beyond what may stand in the log: %s, %s", actor.pseudonym, action, code)
            return
        who = {"tenant": actor.tenant_pseudonym, "principal": actor.pseudonym}
        await self._log("access.refused/v1", {"charter": self._charter, **who, "action": action, "code": code})

    async def _stranger(self, credential: str, action: str, code: str) -> None:
        """The pages process refused somebody something: where they are known, it stands in the log.

        Raises:
            Unauthenticated: nobody has that credential.
        """
        await self._refused(self._credentials.actor(credential), action, code)

    async def _keys(self) -> list[dict[str, Any]]:
        return self._admins.keys()


def _malformed(error: Exception) -> InvalidRequest:
    """The decoder's words, and which field they are about."""
    words = str(error) or "it is nested too deeply"
    found = _WHERE.match(words)
    return InvalidRequest(words[:500], param=found[2][:100] if found and found[2] else None)


def _reply(ask: Ask, value: Any) -> dict[str, Any]:
    """The answer as the table types it: what its type does not name goes to nobody."""
    asked = ask.operation
    etag = ""
    if asked.versioned:
        etag = f"{value['id']}.{value.get('version', value.get('generation'))}"
    if isinstance(ask.query, Paging):
        value = _page(value, ask.query)
    try:
        typed = msgspec.json.decode(json.dumps(value), type=asked.answer)
    except msgspec.ValidationError as error:
        raise DaulatError(f"the answer to {asked.id} is not as the table types it: {error}") from None
    return {"value": msgspec.to_builtins(typed), "etag": etag}


def _page(rows: list[dict[str, Any]], query: Paging) -> dict[str, Any]:
    """Raises InvalidRequest: `after` names no row of this list."""
    ids = [str(row.get("id") or row.get("proposal") or row.get("vkey")) for row in rows]
    if query.after and query.after not in ids:
        raise InvalidRequest("`after` is the id of a row in this list, its `last_id` above all", param="after")
    begin = ids.index(query.after) + 1 if query.after else 0
    shown, end = rows[begin : begin + query.limit], begin + query.limit
    named = ids[begin:end]
    return {
        "data": shown,
        "first_id": named[0] if named else None,
        "last_id": named[-1] if named else None,
        "has_more": end < len(rows),
    }

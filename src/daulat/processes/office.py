"""What each operation of the admin API does, in the name of whoever asks; that they may ask was seen to before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from daulat.adapters import rpc
from daulat.core.clock import Clock
from daulat.core.deployment import Spec
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, VerificationFailed
from daulat.gateway.admin.table import Operation
from daulat.pipeline.administer import TENANT_ADMIN, Actor, Admins, own
from daulat.pipeline.consent import public
from daulat.pipeline.deploy import Deployments, told
from daulat.pipeline.limits import Limits
from daulat.pipeline.operate import OPERATORS, Desk, Rows
from daulat.pipeline.provision import Directories
from daulat.processes.deploying import Deploying
from daulat.processes.services import Services

Does = Callable[["Ask"], Awaitable[Any]]
_AT_THE_MACHINE: Final = "api_key_file"  # of an engine's options: a file that this machine's own user may name
_VOUCHING: Final = "an operator vouches for citizenship, assurance and roles: add a user, and ask one to"


@dataclass(slots=True)
class Ask:
    """One request of somebody who may make it. `named`: the row of every id in it, by what the id is of."""

    operation: Operation
    actor: Actor
    path: Mapping[str, str]
    named: Mapping[str, dict[str, Any]]
    query: Any
    body: Any
    if_match: str
    prepared: Any = None

    @property
    def operates(self) -> bool:
        return self.actor.role != TENANT_ADMIN


@dataclass(frozen=True, slots=True)
class Served:
    """What else the control process has.

    `does`: its own handlers by method, for whoever holds the lock of changes; `deploying(of)`: deployments under the
    name of whoever `of` writes for.
    """

    status: Callable[[], Awaitable[dict[str, Any]]]
    deployments: Callable[[], Awaitable[list[dict[str, Any]]]]
    replicas: Callable[[], Awaitable[list[dict[str, Any]]]]
    services: Services
    does: Mapping[str, rpc.Handler]
    deploying: Callable[[Deployments], Deploying]


class Office:
    """Operations by id; `oversight` has the rest. Those that change something are done one at a time."""

    def __init__(self, rows: Any, desk: Desk, clock: Clock, served: Served) -> None:
        self._rows: Rows = rows
        self._all_rows, self._desk, self._clock, self._served = rows, desk, clock, served
        self._directories = Directories(rows, clock)
        self.does: dict[str, Does] = {
            "me": self._me,
            **{
                f"{table}.list": self._listed(table)
                for table in ("tenants", "people", "keys", "admin_keys", "directories", "auditors")
            },
            **{f"{name}.get": self._shown(what) for name, what in _SHOWN.items()},
            "tenants.create": lambda ask: self._of(ask).add_tenant(ask.body.name),
            "people.create": self._add_person,
            "people.change": self._change_person,
            "people.end": self._end_person,
            "keys.create": self._create_key,
            "keys.revoke": self._revoke_key,
            "admin_keys.create": self._create_admin_key,
            "admin_keys.revoke": lambda ask: self._admins(ask).revoke_key(ask.named["admin_key"]["id"]),
            "directories.create": self._create_directory,
            "directories.revoke": lambda ask: self._directories.revoke(self._of(ask), ask.named["directory"]["id"]),
            "auditors.create": self._create_auditor,
            "auditors.revoke": self._revoke_auditor,
            "limits.list": lambda _ask: served.does["limit.list"](),
            "limits.put": self._limit,
            "limits.remove": lambda ask: self._limits(ask).remove(ask.path["scope"], ask.path["name"]),
            "usage": self._usage,
            "usage.focus": self._focus,
            "status": lambda _ask: served.status(),
            "deployments.list": lambda _ask: self._deployments(),
            "deployments.get": self._deployment,
            "deployments.put": self._deploy,
            "deployments.stop": lambda ask: self._deploying(ask).stop(self._held(ask)["name"]),
            "replicas.list": lambda _ask: served.replicas(),
            "replicas.drain": lambda ask: self._deploying(ask).drain(ask.path["replica"]),
            "replicas.log": self._log,
            "operators.list": lambda _ask: served.does["operators"](),
            "proposals.draft": lambda ask: served.does["consent.draft"](**msgspec.structs.asdict(ask.body)),
            "proposals.list": lambda _ask: served.does["consent.all"](),
            "proposals.create": self._propose,
            "proposals.get": lambda ask: served.does["consent.show"](proposal=ask.path["proposal"]),
            "proposals.approve": self._approve,
            "glass.draft": lambda ask: served.does["glass.draft"](**msgspec.structs.asdict(ask.body)),
            "glass.list": lambda _ask: served.does["glass.all"](),
            "glass.break": self._break,
            "glass.get": lambda ask: served.does["glass.show"](proposal=ask.path["proposal"]),
            "glass.review": self._review,
        }

    def visible(self, actor: Actor, table: str) -> list[dict[str, Any]]:
        """The rows that somebody may see: of a tenant's administrator, their own tenant's."""
        rows = self._rows.rows(table)
        if actor.role != TENANT_ADMIN:
            return rows
        if table == "tenants":
            return [row for row in rows if row["id"] == actor.tenant]
        if table in {"people", "directories"}:
            return [row for row in rows if row["tenant"] == actor.tenant]
        people = {row["id"] for row in self.visible(actor, "people")}
        return [row for row in rows if row.get("person") in people]

    async def prepare(self, ask: Ask) -> None:
        """What takes its time and changes nothing, before an act holds up the others."""
        if ask.operation.id == "deployments.put":
            wish = given(ask.body)
            if _AT_THE_MACHINE in wish.get("options", {}):
                raise PermissionDenied(f"{_AT_THE_MACHINE} names a file of this machine: `daulat deploy` there sets it")
            model = wish.pop("model")
            ask.prepared = await self._deploying(ask).resolve(model, ask.path["name"], wish)

    def _of(self, ask: Ask) -> Desk:
        return self._desk.of(ask.actor.pseudonym)

    def _admins(self, ask: Ask) -> Admins:
        return Admins(self._rows, self._of(ask), self._clock)

    def _deploying(self, ask: Ask) -> Deploying:
        return self._served.deploying(Deployments(self._all_rows, self._of(ask).act, self._clock))

    # Tenants, people, keys.

    async def _me(self, ask: Ask) -> dict[str, Any]:
        actor = ask.actor
        return {
            "person": actor.person,
            "name": actor.name,
            "tenant": actor.tenant,
            "role": actor.role,
            "expires": actor.expires,
        }

    def _listed(self, table: str) -> Does:
        async def listed(ask: Ask) -> list[dict[str, Any]]:
            rows = [_labelled(row, table) for row in self.visible(ask.actor, table)]
            for what, row in ask.named.items():  # the query's
                rows = [each for each in rows if each[what] == row["id"]]
            return rows

        return listed

    def _shown(self, what: str) -> Does:
        async def shown(ask: Ask) -> dict[str, Any]:
            return ask.named[what]

        return shown

    async def _add_person(self, ask: Ask) -> dict[str, Any]:
        body = ask.body
        if ask.named["tenant"]["name"] == OPERATORS:
            raise PermissionDenied("operators come and go by consent: propose operator.add")
        if not ask.operates and (body.citizenship, body.assurance, body.roles) != ("", "low", ("user",)):
            raise PermissionDenied(_VOUCHING)
        vouched, days = (body.citizenship, body.assurance, body.roles), {"days": body.days}
        days |= {"citizenship_days": body.citizenship_days}
        made = await self._of(ask).add_person(body.name, ask.named["tenant"]["id"], *vouched, **days)
        return self._rows.find("people", made["id"])

    async def _change_person(self, ask: Ask) -> dict[str, Any]:
        person = self._rows.find("people", ask.named["person"]["id"])  # as it is now that nobody else changes it
        _unmoved(ask, f"{person['id']}.{person['version']}")
        changes = given(ask.body)
        if not changes:
            raise InvalidRequest("nothing is to be changed: give citizenship, assurance, roles or days")
        return await self._admins(ask).change_person(person["id"], changes)

    async def _end_person(self, ask: Ask) -> dict[str, Any]:
        if not ask.operates and TENANT_ADMIN in ask.named["person"]["roles"]:
            raise PermissionDenied("a tenant's administrator goes by an operator's hand")
        return await self._admins(ask).end_person(ask.named["person"]["id"])

    async def _create_key(self, ask: Ask) -> dict[str, Any]:
        body = ask.body
        limits = (body.label, body.models, body.requests_per_minute)
        further = {} if body.limits is msgspec.UNSET else given(body.limits)
        bounds = {"days": body.days, "limits": further, "networks": body.networks}
        made = await self._of(ask).create_key(ask.named["person"]["id"], *limits, **bounds)
        return {**self._rows.find("keys", made["id"]), "api_key": made["api_key"]}

    async def _revoke_key(self, ask: Ask) -> dict[str, Any]:
        await self._of(ask).revoke_key(ask.named["key"]["id"])
        return self._rows.find("keys", ask.named["key"]["id"])

    async def _create_admin_key(self, ask: Ask) -> dict[str, Any]:
        holder = ask.named["person"]
        if holder["id"] != ask.actor.person and not (ask.operates and TENANT_ADMIN in holder["roles"]):
            raise PermissionDenied("an admin key is for yourself, or from an operator for a tenant's administrator")
        return await self._admins(ask).create_key(holder["id"], ask.body.label, ask.body.days)

    async def _create_directory(self, ask: Ask) -> dict[str, Any]:
        tenant, body = ask.named["tenant"]["id"], ask.body
        return await self._directories.create(self._of(ask), tenant, body.label, "", body.days, body.person_days)

    async def _create_auditor(self, ask: Ask) -> dict[str, Any]:
        made = await self._of(ask).create_auditor(ask.body.name, days=ask.body.days)
        return {**self._rows.find("auditors", made["id"]), "auditor_token": made["auditor_token"]}

    async def _revoke_auditor(self, ask: Ask) -> dict[str, Any]:
        await self._of(ask).revoke_auditor(ask.named["auditor"]["id"])
        return self._rows.find("auditors", ask.named["auditor"]["id"])

    # Limits and use.

    def _limits(self, ask: Ask) -> Limits:
        return Limits(self._all_rows, self._of(ask).act)

    async def _limit(self, ask: Ask) -> dict[str, Any]:
        scope, name = ask.path["scope"], ask.path["name"]
        await self._limits(ask).set(scope, name, given(ask.body))
        rows = await self._served.does["limit.list"]()
        return next(row for row in rows if row["scope"] == scope and name in {row["id"], row["name"]})

    async def _usage(self, ask: Ask) -> dict[str, Any]:
        by = [name.strip() for name in ask.query.by.split(",")]
        if ask.operates:
            return {"data": await self._served.does["usage"](by=by, **_between(ask.query))}
        own = await self._served.does["usage"](by=[*dict.fromkeys((*by, "tenant"))], **_between(ask.query))
        return {"data": [row for row in own if row["tenant"] == ask.actor.tenant_pseudonym]}

    async def _focus(self, ask: Ask) -> dict[str, Any]:
        return {"data": await self._served.does["usage.focus"](**_between(ask.query))}

    # What runs.

    async def _deployments(self) -> list[dict[str, Any]]:
        ids = {row["name"]: row["id"] for row in self._rows.rows("deployments")}
        rows = await self._served.deployments()
        return [
            {**row, "id": ids[row["name"]], "spec": told(Spec.of(row["spec"]))} for row in rows if row["name"] in ids
        ]

    async def _deployment(self, ask: Ask) -> dict[str, Any]:
        rows = await self._deployments()
        found = next((row for row in rows if row["name"] == ask.path["name"]), None)
        if found is None:
            raise NotFound("There is no such deployment.")
        return found

    def _held(self, ask: Ask) -> dict[str, Any]:
        named = [{**row, "id": row["name"]} for row in self._rows.rows("deployments")]
        return own(named, ask.path["name"], "deployment")

    async def _deploy(self, ask: Ask) -> dict[str, Any]:
        name, spec = ask.prepared
        held = next((row for row in self._rows.rows("deployments") if row["name"] == name), None)
        _unmoved(ask, "" if held is None else f"{held['id']}.{held['generation']}")
        await self._deploying(ask).wish(name, spec)
        return await self._deployment(ask)

    async def _log(self, ask: Ask) -> dict[str, Any]:
        return {"lines": await self._deploying(ask).logs(ask.path["replica"], ask.query.lines)}

    # Consent: what is signed says who agrees; that the same one brings it keeps signatures from being passed around.

    async def _propose(self, ask: Ask) -> Any:
        return await self._served.does["consent.propose"](**self._drafted(ask))

    async def _break(self, ask: Ask) -> Any:
        return await self._served.does["glass.break"](**self._drafted(ask))

    async def _review(self, ask: Ask) -> Any:
        self._signs(ask)
        return await self._served.does["glass.review"](**ask.path, **msgspec.structs.asdict(ask.body))

    def _drafted(self, ask: Ask) -> dict[str, Any]:
        self._signs(ask)
        drafted = msgspec.structs.asdict(ask.body)
        return {name: drafted.pop(name) for name in ("vkey", "signature")} | {"drafted": drafted}

    async def _approve(self, ask: Ask) -> Any:
        self._signs(ask)
        signed = {"vkey": ask.body.vkey, "signature": ask.body.signature}
        return await self._served.does["consent.approve"](proposal=ask.path["proposal"], **signed)

    def _signs(self, ask: Ask) -> None:
        """Raises PermissionDenied: the key that signs is not that of whoever asks."""
        try:
            name = public(ask.body.vkey)
        except VerificationFailed as error:
            raise InvalidRequest(f"your public key: {error.message}", param="vkey") from None
        mine = [row["name"] for row in self._rows.rows("operator_keys") if row["person"] == ask.actor.person]
        if name not in mine:
            raise PermissionDenied("this key is not yours: operators propose and approve for themselves")


_SHOWN: Final = {"tenants": "tenant", "people": "person", "keys": "key"}


def _labelled(row: dict[str, Any], table: str) -> dict[str, Any]:
    return {**row, "label": row["name"]} if table in {"admin_keys", "directories"} else row


def _between(query: Any) -> dict[str, str]:
    return {name: day for name in ("since", "until") if (day := getattr(query, name))}


def given(body: msgspec.Struct) -> dict[str, Any]:
    """The fields that were given."""
    return {name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET}


def _unmoved(ask: Ask, etag: str) -> None:
    """RFC 9110 section 13.1.1, and RFC 6585 section 3.

    Raises:
        InvalidRequest: what exists is changed only by who says which state they have seen.
        Conflict: it is another now, or there is none.
    """
    if not ask.if_match:
        if etag:
            raise InvalidRequest("say which state you change: If-Match, with its ETag", code="precondition_required")
    elif ask.if_match not in {f'"{etag}"', "*"} or not etag:
        raise Conflict("it has changed since you looked: look again", code="precondition_failed")

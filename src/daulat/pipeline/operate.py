"""What an operator does: each act changes the control plane's rows and leaves an `operator.action/v1` entry.

What gives somebody something is in the log before it takes effect: a crash in between leaves an entry about nothing,
and never a key that no entry tells of. What takes something away takes effect first. Names stay in the control
database; the log sees pseudonyms.
"""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any, Final, Protocol

from daulat.core import quota
from daulat.core.charter import ASSURANCE
from daulat.core.clock import Clock
from daulat.core.commitments import EPOCH_KEY_BYTES, pseudonym
from daulat.core.consent import OPERATOR
from daulat.core.ids import new_id
from daulat.core.principal import VOUCHED
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from daulat.identity import numbers, secrets

OPERATORS: Final = "operators"  # the tenant whose people manage
USER_ROLES: Final = ("user", "tenant-admin", "auditor")
OPERATOR_ROLES: Final = ("operator",)  # who operates neither uses nor audits
VOUCHED_FOR: Final = ("citizenship", "assurance", "roles", "expires", "issuer", "until")
"""Of a person's row, what the log shows."""
_DAY_MS: Final = 86_400_000
_MOST_NETWORKS: Final = 64


class Rows(Protocol):
    """Port: the control database."""

    def add(self, table: str, row: dict[str, Any]) -> None: ...

    def rows(self, table: str) -> list[dict[str, Any]]: ...

    def find(self, table: str, wanted: str) -> dict[str, Any]: ...

    def change(self, table: str, id_: str, **values: Any) -> None: ...

    def revoke(self, table: str, id_: str, now_ms: int) -> None: ...


Log = Callable[[str, Mapping[str, Any]], Awaitable[int]]
"""Port: write an entry of a type (`pipeline.book.Book.write`)."""


class Desk:
    """Administrative use cases. Each returns what may be shown; a secret only where it is created."""

    def __init__(
        self, rows: Rows, log: Log, clock: Clock, charter_index: int, approvals: int = 0, acting: str = ""
    ) -> None:
        """`approvals`: how many others the charter asks to agree to what could weaken the promise.

        `acting`: the pseudonym of whoever acts; empty: the operator whose machine account this is.
        """
        self._rows, self._log, self._clock, self._charter = rows, log, clock, charter_index
        self._approvals, self._acting = approvals, acting

    def of(self, acting: str) -> Desk:
        """The same desk, at which somebody else acts."""
        return Desk(self._rows, self._log, self._clock, self._charter, self._approvals, acting)

    async def begin(self) -> dict[str, str] | None:
        """The first operator, tenant, person, key and auditor, once; their secrets. Goes on where it was cut off."""
        if self._rows.rows("auditors"):  # the last of them
            return None
        if not self._named("tenants", OPERATORS):
            await self.add_tenant(OPERATORS)
        if self._first_of(self._rows.find("tenants", OPERATORS)["id"]) is None:  # none came from a key ceremony
            await self.add_person("first-operator", OPERATORS, "MY", "substantial", ["operator"], days=3650)
        if not self._named("tenants", "first-agency"):
            await self.add_tenant("first-agency")
        if not self._named("people", "first-person"):
            await self.add_person("first-person", "first-agency", "MY", "substantial", ["user"], days=365)
        key = await self.create_key("first-person", "first-key", [], 0, days=365)
        auditor = await self.create_auditor("first-auditor", days=365)
        return {"api_key": key["api_key"], "auditor_token": auditor["auditor_token"]}

    async def add_tenant(self, name: str) -> dict[str, Any]:
        """Raises InvalidRequest: the name is malformed; Conflict: it is taken."""
        row = {
            "id": new_id("tenant"),
            "name": self._free("tenants", checked_name(name, "tenant")),
            "epoch_key": base64.b64encode(os.urandom(EPOCH_KEY_BYTES)).decode(),
        }
        await self.act("tenant.add", self._pseudonym(row, "tenant", row["id"]), {})
        self._rows.add("tenants", row)
        return {"id": row["id"], "name": name}

    async def add_person(
        self,
        name: str,
        tenant: str,
        citizenship: str,
        assurance: str,
        roles: Sequence[str],
        *,
        days: int,
        citizenship_days: int = 0,
    ) -> dict[str, Any]:
        """Vouch for a person's attributes; `citizenship_days` 0: for the citizenship as long as for the person.

        Raises:
            InvalidRequest: an attribute is malformed; NotFound: there is no such tenant; Conflict: the name is taken.
            PermissionDenied: an operator, where others have to agree to one; Conflict, too: an auditor has that name.
        """
        house = self._rows.find("tenants", tenant)
        if self._approvals and (house["name"] == OPERATORS or OPERATOR in roles):
            raise PermissionDenied(
                f"nobody adds an operator alone: {self._approvals} others have to agree. "
                f"Propose it: daulat operate add-operator {name} --vkey VKEY --citizenship CC --key FILE"
            )
        check_roles(roles, house["name"])
        if OPERATOR in roles:
            not_an_auditor(self._rows, name)
        if citizenship and not (len(citizenship) == 2 and citizenship.isascii() and citizenship.isupper()):  # noqa: PLR2004
            raise InvalidRequest("citizenship is an ISO 3166-1 alpha-2 code such as MY, or empty when none is vouched")
        if assurance not in ASSURANCE:
            raise InvalidRequest(f"assurance is one of {', '.join(ASSURANCE)}")
        row = {
            "id": new_id("person"),
            "tenant": house["id"],
            "name": self._free("people", checked_name(name, "person"), house["id"]),
            "citizenship": citizenship,
            "assurance": assurance,
            "roles": sorted(set(roles)),
            "expires": self._in(days),
            "issuer": VOUCHED,
            "until": self._in(citizenship_days or days) if citizenship else 0,
            "version": 1,
        }
        vouched = {key: row[key] for key in VOUCHED_FOR}
        await self.act("person.add", self._pseudonym(house, "principal", row["id"]), vouched)
        self._rows.add("people", row)
        return {"id": row["id"], "name": name, "tenant": house["name"], **vouched}

    async def create_key(
        self,
        person: str,
        label: str,
        models: Sequence[str],
        requests_per_minute: int,
        *,
        days: int,
        networks: Sequence[str] = (),
        limits: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """An API key for a person, shown in this result and never again. `limits`: further ones (`core.quota.checked`).

        Raises:
            NotFound: there is no such person; Conflict: an operator's eligibility is not for using the service.
            InvalidRequest: a limit is wrong.
        """
        bounds = quota.checked("key", limits or {})
        holder = self._rows.find("people", person)
        house = self._rows.find("tenants", holder["tenant"])
        if house["name"] == OPERATORS:
            raise Conflict("operators manage and do not use: add a person to another tenant")
        if requests_per_minute < 0:
            raise InvalidRequest("requests per minute cannot be negative; 0 means unlimited")
        secret = secrets.new_key()
        row = {
            "id": new_id("key"),
            "digest": secrets.digest(secret),
            "person": holder["id"],
            "label": checked_name(label or "key", "key"),
            "models": list(models),
            "requests_per_minute": requests_per_minute,
            "created": self._clock.now_ms(),
            "expires": min(self._in(days), holder["expires"], holder["until"] or holder["expires"]),
            "networks": cidrs(networks),
            "revoked": None,
        }
        detail = {
            "person": self._pseudonym(house, "principal", holder["id"]),
            **{key: row[key] for key in ("models", "requests_per_minute", "expires")},
            # Where somebody is says who it is: each network is under a name that is this key's alone.
            "networks": sorted(self._pseudonym(house, "network", f"{row['id']}\n{net}") for net in row["networks"]),
            **bounds,
        }
        await self.act("key.create", self._pseudonym(house, "key", row["id"]), detail)
        self._rows.add("keys", row)
        if bounds:
            limit = {"id": new_id("limit"), "name": f"key:{row['id']}", "scope": "key", "subject": row["id"]}
            self._rows.add("limits", {**limit, "bounds": bounds})
        return {"id": row["id"], "label": row["label"], "expires": row["expires"], "api_key": secret}

    async def revoke_key(self, wanted: str) -> dict[str, Any]:
        """Raises NotFound; Conflict when it is revoked already."""
        row = self._rows.find("keys", wanted)
        if row["revoked"] is not None:
            raise Conflict(f"key {row['id']} was revoked already")
        self._rows.revoke("keys", row["id"], self._clock.now_ms())
        house = self._rows.find("tenants", self._rows.find("people", row["person"])["tenant"])
        await self.act("key.revoke", self._pseudonym(house, "key", row["id"]), {})
        return {"id": row["id"], "label": row["label"], "revoked": True}

    async def create_auditor(self, name: str, *, days: int) -> dict[str, Any]:
        """A token that reads the whole log, shown in this result and never again.

        Raises:
            Conflict: an operator has this name, however it is written; InvalidRequest: name or days are out of bounds.
        """
        people = self._rows.rows("people")
        if any(same_name(row["name"], name) and OPERATOR in row["roles"] for row in people):
            raise Conflict(f"{name!r} is the name of an operator, and whoever operates does not audit")
        secret = secrets.new_token()
        row: dict[str, Any] = {
            "id": new_id("auditor"),
            "digest": secrets.digest(secret),
            "name": checked_name(name, "auditor"),
            "expires": self._in(days),
            "revoked": None,
        }
        await self.act("auditor.create", str(row["digest"]), {"expires": row["expires"]})
        self._rows.add("auditors", row)
        return {"id": row["id"], "name": name, "expires": row["expires"], "auditor_token": secret}

    async def revoke_auditor(self, wanted: str) -> dict[str, Any]:
        row = self._rows.find("auditors", wanted)
        if row["revoked"] is not None:
            raise Conflict(f"auditor {row['id']} was revoked already")
        self._rows.revoke("auditors", row["id"], self._clock.now_ms())
        await self.act("auditor.revoke", row["digest"], {})
        return {"id": row["id"], "name": row["name"], "revoked": True}

    def list(self, table: str) -> list[dict[str, Any]]:
        """Rows without their secrets."""
        return [
            {key: value for key, value in row.items() if key not in {"digest", "epoch_key"}}
            for row in self._rows.rows(table)
        ]

    def operator(self) -> tuple[str, str]:
        """Pseudonym and citizenship of the operator whose machine account this is: the first one."""
        house = next((row for row in self._rows.rows("tenants") if row["name"] == OPERATORS), None)
        person = None if house is None else self._first_of(house["id"])
        if house is None or person is None:
            return "", ""
        return self._pseudonym(house, "principal", person["id"]), person["citizenship"]

    def tenant(self, wanted: str) -> tuple[str, str]:
        """A tenant's id and pseudonym. Raises NotFound: there is none."""
        row = self._rows.find("tenants", wanted)
        return row["id"], self._pseudonym(row, "tenant", row["id"])

    def first_operator(self) -> dict[str, Any]:
        """Their row. Raises NotFound: there is none yet."""
        person = self._first_of(self._rows.find("tenants", OPERATORS)["id"])
        if person is None:
            raise NotFound("there is no operator yet")
        return person

    def _first_of(self, tenant: str) -> dict[str, Any] | None:
        """Whose eligibility has not ended, else any: who was revoked answers for nothing any more."""
        there = [row for row in self._rows.rows("people") if row["tenant"] == tenant]
        now = self._clock.now_ms()
        return next((row for row in there if row["expires"] > now), there[0] if there else None)

    def _named(self, table: str, name: str, tenant: str = "") -> bool:
        """Whether there is one of that name; of people, in that tenant or, without one, in any."""
        return any(row["name"] == name and (not tenant or row["tenant"] == tenant) for row in self._rows.rows(table))

    def _free(self, table: str, name: str, tenant: str = "") -> str:
        if self._named(table, name, tenant):
            raise Conflict(f"the name {name!r} exists already; `list` shows whose it is")
        return name

    async def act(self, action: str, subject: str, detail: Mapping[str, Any]) -> None:
        """Write down what an operator does: `subject` a pseudonym or digest."""
        fields = {
            "charter": self._charter,
            "operator": self._acting or self.operator()[0],
            "action": action,
            "subject": subject,
            "detail": dict(detail),
            "approvals": [],
        }
        await self._log("operator.action/v1", fields)

    @staticmethod
    def _pseudonym(tenant: Mapping[str, Any], kind: str, id_: str) -> str:
        return pseudonym(base64.b64decode(tenant["epoch_key"]), kind, id_)

    def _in(self, days: int) -> int:
        if not 0 < days <= 36_500:  # noqa: PLR2004  a century
            raise InvalidRequest("days is a number from 1 to 36500")
        return self._clock.now_ms() + days * _DAY_MS


def not_an_auditor(rows: Rows, name: str) -> None:
    """Raises Conflict: an auditor's token that is not revoked is in this name, however it is written.

    A token is in a name, not a person's: whoever lies about the name is not found so (docs/operators.md).
    """
    if any(row["revoked"] is None and same_name(row["name"], name) for row in rows.rows("auditors")):
        raise Conflict(f"{name!r} is the name of an auditor, and whoever audits does not operate: revoke their token")


def same_name(one: str, other: str) -> bool:
    """Whether two names are one to a reader: but for case, spaces, and how Unicode puts letters together."""
    first, second = (" ".join(unicodedata.normalize("NFKC", name).casefold().split()) for name in (one, other))
    return first == second


def check_roles(roles: Sequence[str], house: str) -> None:
    """Raises InvalidRequest: nobody may have these roles together, or not in this tenant."""
    if {"operator", "auditor"} <= set(roles):
        raise InvalidRequest("operator and auditor exclude each other: nobody audits what they operate")
    allowed = OPERATOR_ROLES if house == OPERATORS else USER_ROLES
    if not set(roles) <= set(allowed):
        raise InvalidRequest(f"roles are {sorted(roles)}; people of {house!r} may be {', '.join(allowed)}")


def cidrs(networks: Sequence[str]) -> list[str]:
    """Networks in the one form they are written in. Raises InvalidRequest: one is no CIDR, or there are too many."""
    if len(networks) > _MOST_NETWORKS:
        raise InvalidRequest(f"a key may name {_MOST_NETWORKS} networks at most")
    try:
        return sorted({str(ip_network(network)) for network in networks})
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"a network is written as 192.0.2.0/24 or 2001:db8::/32: {error}") from None


def checked_name(name: str, what: str) -> str:
    """A name or label that somebody or something can have.

    Raises:
        InvalidRequest: it is none, or holds an identity number, which is not repeated.
    """
    if not name or len(name) > 100 or not name.isprintable():  # noqa: PLR2004
        raise InvalidRequest(f"the {what}'s name has 1 to 100 printable characters")
    if numbers.within(name):
        raise InvalidRequest(
            f"the {what}'s name holds an identity number, which is never kept in clear: give another name"
        )
    return name

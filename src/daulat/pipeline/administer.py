"""Who may manage over the network, and the acts that only they have: admin keys, and people who change or leave.

An admin key is one person's credential for the admin API and for nothing else: workers do not know it, and an API key
manages nothing. Whose key it is, this room finds out from the control plane's own rows; nobody's word is taken for it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from daulat.core.charter import Charter
from daulat.core.clock import Clock
from daulat.core.commitments import pseudonym
from daulat.core.consent import OPERATOR
from daulat.core.ids import new_id
from daulat.core.principal import VOUCHED
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from daulat.identity import secrets
from daulat.pipeline.eligible import ineligible
from daulat.pipeline.operate import OPERATORS, USER_ROLES, VOUCHED_FOR, Desk, Rows, checked_name

TENANT_ADMIN: Final = "tenant-admin"
Role = Literal["operator", "tenant-admin", "auditor", "nobody"]
_DAY_MS: Final = 86_400_000
_MOST_DAYS: Final = 90


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `why`: for somebody who is known and may manage nothing, the reason in words."""

    role: Role
    person: str = ""  # ids
    tenant: str = ""
    name: str = ""
    expires: int = 0
    pseudonym: str = ""  # as the log has them
    tenant_pseudonym: str = ""
    why: str = ""


class Credentials:
    """From a secret to who acts, by the rows as they are now."""

    def __init__(self, rows: Rows, clock: Clock, charter: Charter) -> None:
        self._rows, self._clock, self._charter = rows, clock, charter

    def actor(self, secret: str) -> Actor:
        """Whose secret it is, and what they may.

        Raises:
            Unauthenticated: nobody's: it is unknown, or was revoked, or has expired.
        """
        # Looked up by SHA-256 of 256 random bits: what a comparison's timing shows is worth nothing.
        digest, now = secrets.digest(secret), self._clock.now_ms()
        for table in ("admin_keys", "keys", "auditors"):
            found = next((row for row in self._rows.rows(table) if row["digest"] == digest), None)
            if found is None:
                continue
            if found["revoked"] is not None or found["expires"] <= now:
                break
            if table == "auditors":
                return Actor("auditor", pseudonym=digest, why="an auditor's token reads the log, and manages nothing")
            person = self._rows.find("people", found["person"])
            if table == "keys":
                words = "an API key uses the service: to manage it, have an admin key made (`daulat admin-key create`)"
                return self._actor(person, "nobody", person["expires"], words)
            return self.of(person, found["expires"])
        raise Unauthenticated("Incorrect credential provided: it is unknown, was revoked, or has expired.")

    def of(self, person: Mapping[str, Any], expires: int) -> Actor:
        """A person who has proven to be that until `expires`, with an admin key or otherwise."""
        expires = min(expires, person["expires"])
        why = self._ineligible(person)
        if why:
            return self._actor(person, "nobody", expires, why)
        return self._actor(person, OPERATOR if OPERATOR in person["roles"] else TENANT_ADMIN, expires, "")

    def _actor(self, person: Mapping[str, Any], role: Role, expires: int, why: str) -> Actor:
        house = self._rows.find("tenants", person["tenant"])
        key = base64.b64decode(house["epoch_key"])
        names = (pseudonym(key, "principal", person["id"]), pseudonym(key, "tenant", house["id"]))
        return Actor(role, person["id"], house["id"], person["name"], expires, *names, why)

    def _ineligible(self, person: Mapping[str, Any]) -> str:
        """Why this person may manage nothing, or ""."""
        house = self._rows.find("tenants", person["tenant"])
        operates = OPERATOR in person["roles"] and house["name"] == OPERATORS
        if not operates and (TENANT_ADMIN not in person["roles"] or house["name"] == OPERATORS):
            return "this person is neither an operator nor an administrator of a tenant"
        if why := ineligible(person, self._charter, self._clock.now_ms()):
            return why
        if operates and self._charter.approvals and not self._signs(person["id"]):
            return "this operator has no key that the other operators have agreed to"
        return ""

    def _signs(self, person: str) -> bool:
        keys = self._rows.rows("operator_keys")
        return any(row["person"] == person and row["revoked"] is None for row in keys)


class Admins:
    """Acts on admin keys and on people who are there already; `desk` writes them down for whoever acts."""

    def __init__(self, rows: Rows, desk: Desk, clock: Clock) -> None:
        self._rows, self._desk, self._clock = rows, desk, clock

    async def create_key(self, person: str, label: str, days: int) -> dict[str, Any]:
        """A credential for the admin API, shown in this result and never again.

        Raises:
            NotFound: there is no such person; Conflict: they have no role that manages.
            InvalidRequest: label or days are out of bounds.
        """
        holder = self._rows.find("people", person)
        if not {OPERATOR, TENANT_ADMIN} & set(holder["roles"]):
            raise Conflict("an admin key is for an operator or an administrator of a tenant")
        if not 0 < days <= _MOST_DAYS:
            raise InvalidRequest(f"days is a number from 1 to {_MOST_DAYS}")
        secret = secrets.new_admin_key()
        now = self._clock.now_ms()
        row: dict[str, Any] = {
            "id": new_id("adminkey"),
            "name": checked_name(label, "admin key"),
            "digest": secrets.digest(secret),
            "person": holder["id"],
            "created": now,
            "expires": min(now + days * _DAY_MS, holder["expires"]),
            "revoked": None,
        }
        detail = {"person": self._pseudonym(holder, "principal", holder["id"]), "expires": row["expires"]}
        await self._desk.act("adminkey.create", self._pseudonym(holder, "key", row["id"]), detail)
        self._rows.add("admin_keys", row)
        return {**_shown(row), "admin_key": secret}

    async def revoke_key(self, wanted: str) -> dict[str, Any]:
        """Raises NotFound; Conflict when it is revoked already."""
        row = self._rows.find("admin_keys", wanted)
        if row["revoked"] is not None:
            raise Conflict(f"admin key {row['id']} was revoked already")
        self._rows.revoke("admin_keys", row["id"], self._clock.now_ms())
        holder = self._rows.find("people", row["person"])
        await self._desk.act("adminkey.revoke", self._pseudonym(holder, "key", row["id"]), {})
        return _shown(self._rows.find("admin_keys", row["id"]))

    def keys(self) -> list[dict[str, Any]]:
        """All of them, without their secrets."""
        return [_shown(row) for row in self._rows.rows("admin_keys")]

    async def change_person(self, person: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Vouch anew: `changes` has some of citizenship, assurance, roles and days.

        Raises:
            NotFound: there is no such person; PermissionDenied: an operator: they come and go by consent.
            InvalidRequest: a role is not one of a tenant's people.
        """
        row = self._not_an_operator(person)
        values = {name: value for name, value in changes.items() if name != "days"}
        if not set(values.get("roles", ())) <= set(USER_ROLES):
            raise InvalidRequest(f"people of a tenant may be {', '.join(USER_ROLES)}")
        if "roles" in values:
            values["roles"] = sorted(set(values["roles"]))
        if "days" in changes:
            values["expires"] = self._clock.now_ms() + changes["days"] * _DAY_MS
        new = {**row, **values}
        if changes.keys() & {"citizenship", "assurance", "days"}:  # an operator's word takes the place of a token's
            values |= {"issuer": VOUCHED, "until": new["expires"] if new["citizenship"] else 0}
        vouched = {name: {**row, **values}[name] for name in VOUCHED_FOR}
        await self._desk.act("person.change", self._pseudonym(row, "principal", row["id"]), vouched)
        self._rows.change("people", row["id"], **values, version=row["version"] + 1)
        return self._rows.find("people", row["id"])

    async def end_person(self, person: str) -> dict[str, Any]:
        """Nothing is asked or managed in their name any more: eligibility ends now, and all that they could come with.

        Raises:
            NotFound: there is no such person; PermissionDenied: an operator; Conflict: it has ended already.
        """
        row, now = self._not_an_operator(person), self._clock.now_ms()
        if row["expires"] <= now and row["expires"] != row["placed_until"]:  # whom a provider could bring back
            raise Conflict("this person's eligibility has ended already")
        disarm(self._rows, row["id"], now)
        self._rows.change("people", row["id"], expires=now, version=row["version"] + 1)
        await self._desk.act("person.end", self._pseudonym(row, "principal", row["id"]), {})
        return self._rows.find("people", row["id"])

    def _not_an_operator(self, person: str) -> dict[str, Any]:
        row = self._rows.find("people", person)
        if self._rows.find("tenants", row["tenant"])["name"] == OPERATORS:
            raise PermissionDenied(
                "operators come, stay and go by consent: propose operator.add, operator.renew or operator.revoke"
            )
        return row

    def _pseudonym(self, person: Mapping[str, Any], kind: str, id_: str) -> str:
        house = self._rows.find("tenants", person["tenant"])
        return pseudonym(base64.b64decode(house["epoch_key"]), kind, id_)


def disarm(rows: Rows, person: str, now_ms: int) -> None:
    """Take all that somebody could come with; sessions and invitations would be good again with a new time."""
    for table in ("keys", "admin_keys", "sessions", "invitations"):
        for held in rows.rows(table):
            if held["person"] == person and held["revoked"] is None:
                rows.revoke(table, held["id"], now_ms)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name not in {"digest", "name"}}
    return {**shown, "label": row["name"]}


def own(rows: list[dict[str, Any]], wanted: str, what: str) -> dict[str, Any]:
    """The row of that id among those that somebody may see. Of another tenant's and of none at all it says the same.

    Raises:
        NotFound: there is none.
    """
    found = next((row for row in rows if row["id"] == wanted), None)
    if found is None:
        raise NotFound(f"There is no such {what}.")
    return found

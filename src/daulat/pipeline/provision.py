"""A tenant's own directory says who its people are (SCIM 2.0, RFC 7643 and 7644), and nothing more about them.

A directory has a credential of its own kind, for one tenant, and sees the people whom that tenant's directories have
brought. Whoever it brings is a user without a citizenship, whom no rule serves until a verified token or an operator's
vouching says more. It takes people away for good: keys, sessions and invitations end with them. Whoever it brings back
begins as whoever is new, and whom an operator has ended it does not bring back.

Its own id of somebody (`externalId`) is kept as a keyed hash alone, and once set stays: what was vouched for somebody
could otherwise be handed on to somebody else.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.core.clock import Clock
from daulat.core.commitments import pseudonym
from daulat.core.ids import new_id
from daulat.core.principal import VOUCHED
from daulat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from daulat.identity import numbers, secrets
from daulat.identity.claims import DAY_MS, hashed
from daulat.pipeline.administer import Admins
from daulat.pipeline.identities import Rows
from daulat.pipeline.operate import OPERATORS, VOUCHED_FOR, Desk, checked_name

CREATED, REVOKED = "directory.create", "directory.revoke"
UNIQUENESS, MUTABILITY, CHANGED = "uniqueness", "mutability", "precondition_failed"  # codes that the wire tells apart
_MOST_DAYS: Final = 3_650
_LONGEST: Final = 256  # characters of an `externalId`
_NOBODY: Final = {"citizenship": "", "assurance": "low", "roles": ["user"], "issuer": VOUCHED, "until": 0}


@dataclass(frozen=True, slots=True)
class Directory:
    """Whose credential was given: its row, and its tenant's."""

    row: Mapping[str, Any]
    house: Mapping[str, Any]

    def pseudonym(self) -> str:
        """As the log has it."""
        return _pseudonym(self.house, "directory", self.row["id"])


class Directories:
    """The credentials."""

    def __init__(self, rows: Rows, clock: Clock) -> None:
        self._rows, self._clock = rows, clock

    def of(self, secret: str) -> Directory:
        """Raises Unauthenticated: it is no directory's, or was revoked, or has expired."""
        # Looked up by SHA-256 of 256 random bits: what a comparison's timing shows is worth nothing.
        digest = secrets.digest(secret)
        found = next((row for row in self._rows.rows("directories") if row["digest"] == digest), None)
        if found is None or found["revoked"] is not None or found["expires"] <= self._clock.now_ms():
            raise Unauthenticated("Incorrect directory token provided: it is unknown, was revoked, or has expired.")
        return Directory(found, self._rows.find("tenants", found["tenant"]))

    async def create(
        self, desk: Desk, tenant: str, label: str, issuer: str, days: int, person_days: int
    ) -> dict[str, Any]:
        """A credential for SCIM and nothing else, shown in this result and never again.

        Args:
            issuer: whose name for people (`sub`) this directory's `externalId` is, so that they can sign in there
                without an invitation; "" for none. A directory says who that is, so it must be that issuer's own.
            person_days: how long whoever it brings stays, at most.

        Raises:
            NotFound: there is no such tenant; PermissionDenied: the operators' people come and go by consent.
            InvalidRequest: label or days are out of bounds.
        """
        house = self._rows.find("tenants", tenant)
        if house["name"] == OPERATORS:
            raise PermissionDenied("operators come and go by consent: propose operator.add or operator.revoke")
        if not (0 < days <= _MOST_DAYS and 0 < person_days <= _MOST_DAYS):
            raise InvalidRequest(f"days are a number from 1 to {_MOST_DAYS}")
        secret, now = secrets.new_directory_token(), self._clock.now_ms()
        row: dict[str, Any] = {
            "id": new_id("directory"),
            "name": checked_name(label, "directory"),
            "digest": secrets.digest(secret),
            "tenant": house["id"],
            "issuer": issuer,
            "person_days": person_days,
            "created": now,
            "expires": now + days * DAY_MS,
            "revoked": None,
        }
        detail = {
            "tenant": _pseudonym(house, "tenant", house["id"]),
            **{name: row[name] for name in ("issuer", "person_days", "expires")},
        }
        await desk.act(CREATED, _pseudonym(house, "directory", row["id"]), detail)
        self._rows.add("directories", row)
        return {**shown(row), "directory_token": secret}

    async def revoke(self, desk: Desk, wanted: str) -> dict[str, Any]:
        """Raises NotFound; Conflict when it is revoked already. The people whom it brought stay."""
        row = self._rows.find("directories", wanted)
        if row["revoked"] is not None:
            raise Conflict(f"directory {row['id']} was revoked already")
        self._rows.revoke("directories", row["id"], self._clock.now_ms())
        house = self._rows.find("tenants", row["tenant"])
        await desk.act(REVOKED, _pseudonym(house, "directory", row["id"]), {})
        return shown(self._rows.find("directories", row["id"]))

    def all(self) -> list[dict[str, Any]]:
        """Without their secrets."""
        return [shown(row) for row in self._rows.rows("directories")]


class Provisioned:
    """The people whom a tenant's directories have brought, for one of these directories at a time.

    `provisioned` has a row for each: `name` is the person's id, `external` the hash of the directory's own id, `until`
    the end of their time as a directory has set it, `gone` when it deleted them.
    """

    def __init__(self, rows: Rows, clock: Clock, desk: Desk, key: Callable[[], bytes]) -> None:
        """`key`: of the hashes, 32 bytes."""
        self._rows, self._clock, self._desk, self._key = rows, clock, desk, key

    def find(self, by: Directory, id_: str) -> dict[str, Any]:
        """{"id", "name", "active", "version", "created", "changed"}, times in Unix milliseconds. Raises NotFound."""
        return self._shown(*self._own(by, id_))

    def search(self, by: Directory, attribute: str, value: str, start: int, count: int) -> dict[str, Any]:
        """`count` of those whose `attribute` ("id", "name", "external", or "" for everybody) is `value`, from the
        `start`th on, counted from 1: {"total", "rows"}. Names are compared without regard to case."""
        houses = self._house(by)
        if attribute == "external":
            wanted = self._external(by, value)
            found = [pair for pair in houses if pair[1]["external"] == wanted]
        elif attribute == "name":
            found = [pair for pair in houses if pair[0]["name"].casefold() == value.casefold()]
        else:
            found = [pair for pair in houses if not attribute or pair[0]["id"] == value]
        begin = max(start, 1) - 1
        return {"total": len(found), "rows": [self._shown(*pair) for pair in found[begin : begin + max(count, 0)]]}

    async def create(self, by: Directory, name: str, external: str, *, active: bool) -> dict[str, Any]:
        """Somebody new. `external`: "" for none.

        Raises:
            Conflict: the name or the external id is somebody's; PermissionDenied: an operator has ended that person.
            InvalidRequest: the name is none, or an identity number.
        """
        now, name = self._clock.now_ms(), self._free(by, name)
        moved = self._taken_over(by, external) if external else None
        row = {
            "id": new_id("person"),
            "tenant": by.house["id"],
            "name": name,
            **_NOBODY,
            "expires": now + by.row["person_days"] * DAY_MS if active else now,
            "version": 1,
        }
        await self._act(by, "person.add", row, {key: row[key] for key in VOUCHED_FOR})
        self._rows.add("people", row)
        kept = {"id": new_id("provisioned"), "name": row["id"], "person": row["id"], "external": None}
        self._rows.add("provisioned", {**kept, "until": row["expires"], "created": now, "changed": now, "gone": None})
        if external:
            self._attach(by, kept, external, moved)
        return self.find(by, str(row["id"]))

    async def update(
        self, by: Directory, id_: str, version: int, name: str, external: str, *, active: bool | None
    ) -> dict[str, Any]:
        """What is now so of somebody; `external` "" and `active` None leave it as it is. Who leaves, leaves first.

        Raises:
            NotFound; Conflict: they have changed since `version`, or the name is somebody else's.
            PermissionDenied: an operator has ended them; InvalidRequest: the external id would be another.
        """
        person, kept = self._own(by, id_)
        if person["version"] != version:
            raise Conflict("this person has changed since you looked: look again", code=CHANGED)
        now = self._clock.now_ms()
        if active is False and person["expires"] > now:
            await self._end(by, person, kept)
        if external and self._external(by, external) != kept["external"]:
            await self._link(by, person, kept, external)
        if name != person["name"]:
            new = self._free(by, name, besides=person["id"])
            await self._act(by, "person.correct", person, {"changed": ["name"]})
            self._change(person["id"], name=new)
        if active and person["expires"] <= now:
            await self._bring_back(by, person, kept)
        return self.find(by, id_)

    async def delete(self, by: Directory, id_: str, version: int | None) -> None:
        """They end, and their name is forgotten. Raises NotFound; Conflict: they have changed since `version`."""
        person, kept = self._own(by, id_)
        if version is not None and person["version"] != version:
            raise Conflict("this person has changed since you looked: look again", code=CHANGED)
        now = self._clock.now_ms()
        if person["expires"] > now:
            await self._end(by, person, kept)
        self._rows.change("provisioned", kept["id"], gone=now)
        self._change(person["id"], name=person["id"])
        await self._act(by, "person.correct", person, {"changed": ["name"]})

    async def _link(self, by: Directory, person: Mapping[str, Any], kept: Mapping[str, Any], external: str) -> None:
        """An external id for whom nobody has vouched or signed in yet, and who has none."""
        known = any(row["person"] == person["id"] for row in self._rows.rows("identities"))
        if kept["external"] is not None or known or person["citizenship"]:
            raise InvalidRequest(
                "externalId is set once, before anything else is known of somebody: delete them, and create them anew",
                code=MUTABILITY,
            )
        moved = self._taken_over(by, external)
        await self._act(by, "person.correct", person, {"changed": ["identity"]})
        self._attach(by, kept, external, moved)

    def _attach(self, by: Directory, kept: Mapping[str, Any], external: str, moved: Mapping[str, Any] | None) -> None:
        """From now on it is theirs, and no longer that of whom `_taken_over` found."""
        if moved is not None:
            self._rows.change("provisioned", moved["id"], external=None)
        self._rows.change("provisioned", kept["id"], external=self._external(by, external))
        if not by.row["issuer"]:
            return
        if (known := self._identity(by, external)) is not None:
            self._rows.change("identities", known["id"], person=kept["person"])
        else:
            row = {"id": new_id("identity"), "name": self._subject(by, external), "person": kept["person"]}
            self._rows.add("identities", row)

    async def _end(self, by: Directory, person: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
        ended = await Admins(self._rows, self._desk.of(by.pseudonym()), self._clock).end_person(person["id"])
        self._rows.change("provisioned", kept["id"], until=ended["expires"], changed=self._clock.now_ms())

    async def _bring_back(self, by: Directory, person: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
        self._by_no_operator(person, kept)
        until = self._clock.now_ms() + by.row["person_days"] * DAY_MS
        values = {**_NOBODY, "expires": until}
        await self._act(by, "person.change", person, values)
        self._rows.change("provisioned", kept["id"], until=until)
        self._change(person["id"], **values)

    def _by_no_operator(self, person: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
        if person["expires"] != kept["until"]:
            raise PermissionDenied(
                "an operator has ended this person's time here, and only an operator goes back on it"
            )

    def _taken_over(self, by: Directory, external: str) -> dict[str, Any] | None:
        """The row of whoever was deleted and had this id before.

        Raises:
            Conflict: somebody has it; PermissionDenied: an operator has ended them.
        """
        hash_, found = self._external(by, external), None
        for kept in self._rows.rows("provisioned"):
            if kept["external"] == hash_:
                if kept["gone"] is None:
                    raise Conflict("somebody with this externalId is here already", code=UNIQUENESS)
                self._by_no_operator(self._rows.find("people", kept["person"]), kept)
                found = kept
        known = self._identity(by, external)
        if known is not None and (found is None or known["person"] != found["person"]):
            raise Conflict("whoever has this externalId is known here already: ask an operator", code=UNIQUENESS)
        return found

    def _identity(self, by: Directory, external: str) -> dict[str, Any] | None:
        """What a sign-in with this name at the directory's issuer finds."""
        if not by.row["issuer"]:
            return None
        subject = self._subject(by, external)
        return next((row for row in self._rows.rows("identities") if row["name"] == subject), None)

    def _subject(self, by: Directory, external: str) -> str:
        """As `identity.claims.read` hashes the provider's name for somebody."""
        return hashed(self._key(), "subject", f"{by.row['issuer']}\0{external}")

    def _external(self, by: Directory, external: str) -> str:
        if not 0 < len(external) <= _LONGEST:
            raise InvalidRequest(f"externalId has 1 to {_LONGEST} characters")
        return hashed(self._key(), "external", f"{by.house['id']}\0{external}")

    def _free(self, by: Directory, name: str, besides: str = "") -> str:
        if numbers.within(name):
            raise InvalidRequest(
                "userName holds an identity number, which is never kept in clear: map another attribute to it"
            )
        checked_name(name, "person")
        people = (row for row in self._rows.rows("people") if row["tenant"] == by.house["id"] and row["id"] != besides)
        if any(row["name"].casefold() == name.casefold() for row in people):
            raise Conflict("somebody with this userName is here already", code=UNIQUENESS)
        return name

    def _change(self, person: str, **values: Any) -> None:
        """One version further."""
        row, kept = self._rows.find("people", person), self._rows.find("provisioned", person)
        self._rows.change("people", person, **values, version=row["version"] + 1)
        self._rows.change("provisioned", kept["id"], changed=self._clock.now_ms())

    def _house(self, by: Directory) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Everybody whom this directory may see: rows of people, each with its own here."""
        people = {row["id"]: row for row in self._rows.rows("people") if row["tenant"] == by.house["id"]}
        kept = (row for row in self._rows.rows("provisioned") if row["gone"] is None)
        return [(people[row["person"]], row) for row in kept if row["person"] in people]

    def _own(self, by: Directory, id_: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of another tenant's and of nobody it says the same."""
        found = next((pair for pair in self._house(by) if pair[0]["id"] == id_), None)
        if found is None:
            raise NotFound("There is no such person.")
        return found

    def _shown(self, person: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **{name: person[name] for name in ("id", "name", "version")},
            **{name: kept[name] for name in ("created", "changed")},
            "active": person["expires"] > self._clock.now_ms(),
        }

    async def _act(self, by: Directory, action: str, person: Mapping[str, Any], detail: Mapping[str, Any]) -> None:
        await self._desk.of(by.pseudonym()).act(action, _pseudonym(by.house, "principal", person["id"]), detail)


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A directory's row without its secret."""
    return {**{name: value for name, value in row.items() if name not in {"digest", "name"}}, "label": row["name"]}


def _pseudonym(house: Mapping[str, Any], kind: str, id_: str) -> str:
    return pseudonym(base64.b64decode(house["epoch_key"]), kind, id_)

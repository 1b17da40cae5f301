"""Who manages: operators are added with their key and leave with it, by consent of the others."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.core.charter import ASSURANCE, Charter
from daulat.core.clock import Clock
from daulat.core.commitments import pseudonym
from daulat.core.consent import OPERATOR
from daulat.core.ids import new_id
from daulat.core.principal import VOUCHED
from daulat.errors import Conflict, InvalidRequest, NotFound, VerificationFailed
from daulat.pipeline.consent import Prepared, Told, public
from daulat.pipeline.operate import OPERATORS, VOUCHED_FOR, Desk, Log, Rows, not_an_auditor
from daulat.tlog.note import Verifier

_DAY_MS: Final = 86_400_000
_FIELDS: Final = {"name": str, "citizenship": str, "assurance": str, "days": int, "vkey": str}

Certify = Callable[[str, int], Awaitable[int]]
"""Port: put an operator's public key into the log, good until (Unix milliseconds); the index of its `key/v1`."""


@dataclass(frozen=True, slots=True)
class Adding(Told):
    """`operator.add`: {"name", "citizenship", "assurance", "days", "vkey"}."""

    rows: Rows
    certify: Certify
    clock: Clock
    charter: Charter
    origin: str  # of the log that the key is put into

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """Raises InvalidRequest: something is missing or cannot be; Conflict: name or key are taken."""
        _typed(arguments)
        if arguments["citizenship"] not in self.charter.operators:
            allowed = ", ".join(self.charter.operators)
            raise InvalidRequest(f"an operator is a citizen of {allowed}, as the charter says")
        if arguments["assurance"] not in ASSURANCE or _below(arguments["assurance"], self.charter.assurance):
            raise InvalidRequest(f"an operator's citizenship is vouched at {self.charter.assurance} at least")
        if not 0 < arguments["days"] <= 3650:  # noqa: PLR2004  ten years
            raise InvalidRequest("days is a number from 1 to 3650")
        house = self.rows.find("tenants", OPERATORS)
        if any(row["name"] == arguments["name"] for row in self._people(house["id"])):
            raise Conflict(f"an operator of the name {arguments['name']!r} exists already")
        not_an_auditor(self.rows, arguments["name"])
        try:
            key = public(arguments["vkey"])
        except VerificationFailed as error:
            raise InvalidRequest(f"the operator's public key: {error.message}") from None
        if any(row["name"] == key for row in self.rows.rows("operator_keys")):
            raise Conflict("this key is an operator's already: every operator has their own")
        return ""

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        house = self.rows.find("tenants", OPERATORS)
        id_ = new_id("person")
        holder = pseudonym(base64.b64decode(house["epoch_key"]), "principal", id_)
        person = {
            "id": id_,
            "tenant": house["id"],
            "name": arguments["name"],
            "citizenship": arguments["citizenship"],
            "assurance": arguments["assurance"],
            "roles": [OPERATOR],
            "expires": (expires := self.clock.now_ms() + arguments["days"] * _DAY_MS),
            "issuer": VOUCHED,
            "until": expires,
            "version": 1,
        }
        vkey = Verifier(arguments["vkey"]).renamed(holder).vkey

        async def carry_out() -> dict[str, Any]:
            position = await self.certify(vkey, int(person["expires"]))
            self.rows.add("people", person)
            self.rows.add("operator_keys", key_row(id_, vkey, self.origin, position))
            return {"id": id_, "name": person["name"], "vkey": vkey, "expires": person["expires"]}

        vouched = {name: person[name] for name in VOUCHED_FOR}
        return Prepared(holder, {**vouched, "key": vkey}, carry_out)

    def _people(self, tenant: str) -> list[dict[str, Any]]:
        return [row for row in self.rows.rows("people") if row["tenant"] == tenant]


@dataclass(frozen=True, slots=True)
class First:
    """The key of the operator who began: in an evaluation alone, before anybody else has one."""

    rows: Rows
    certify: Certify
    desk: Desk
    charter: Charter
    origin: str

    async def register(self, vkey: str) -> dict[str, Any]:
        """Raises Conflict: operators have keys already, or the charter asks for approvals; InvalidRequest: no vkey."""
        if self.charter.approvals or self.rows.rows("operator_keys"):
            raise Conflict("operators have keys here, or the charter asks for approvals: have the key added by them")
        person = self.desk.first_operator()
        holder, _ = self.desk.operator()
        try:
            mine = Verifier(vkey).renamed(holder).vkey
        except VerificationFailed as error:
            raise InvalidRequest(f"the operator's public key: {error.message}") from None
        await self.desk.act("operator.key", holder, {"key": mine})
        position = await self.certify(mine, person["expires"])
        self.rows.add("operator_keys", key_row(person["id"], mine, self.origin, position))
        return {"name": person["name"], "vkey": mine}

    def all(self) -> list[dict[str, Any]]:
        """Operators with their keys, oldest first."""
        people = {row["id"]: row for row in self.rows.rows("people")}
        return [
            {
                "name": people[row["person"]]["name"],
                "citizenship": people[row["person"]]["citizenship"],
                "expires": people[row["person"]]["expires"],
                "revoked": row["revoked"],
                "vkey": row["vkey"],
            }
            for row in self.rows.rows("operator_keys")
        ]


@dataclass(frozen=True, slots=True)
class Revoking(Told):
    """`operator.revoke`: {"name", "reason"}: the operator's key signs nothing any more."""

    rows: Rows
    log: Log
    clock: Clock
    charter: Charter

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """Raises InvalidRequest: something is missing; NotFound: no such operator; Conflict: too few would be left."""
        if set(arguments) != {"name", "reason"} or not all(isinstance(value, str) for value in arguments.values()):
            raise InvalidRequest("operator.revoke takes a name and a reason")
        self._key(arguments["name"])
        left = sum(row["revoked"] is None for row in self.rows.rows("operator_keys")) - 1
        if left <= self.charter.approvals:
            needed = self.charter.approvals + 1
            raise Conflict(f"{left} operators would be left, and nothing could be agreed to by fewer than {needed}")
        return ""

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        key = self._key(arguments["name"])

        async def carry_out() -> dict[str, Any]:
            now = self.clock.now_ms()
            self.rows.revoke("operator_keys", key["id"], now)
            self.rows.change("people", key["person"], expires=now)  # nothing else that asks who may manage, either
            await self.log("key.revoked/v1", {"key": key["position"], "reason": "the operators agreed"})
            return {"name": arguments["name"], "revoked": True}

        return Prepared(Verifier(key["vkey"]).name, {"key": key["vkey"]}, carry_out)

    def _key(self, name: str) -> dict[str, Any]:
        people = {row["id"] for row in self.rows.rows("people") if name in {row["name"], row["id"]}}
        for row in self.rows.rows("operator_keys"):
            if row["person"] in people and row["revoked"] is None:
                return row
        raise NotFound(f"no operator {name!r} has a key here")


async def certified(rows: Rows, certify: Certify, origin: str) -> None:
    """Have each operator's key in this log: a new shard knows none of the one before."""
    until = {row["id"]: row["expires"] for row in rows.rows("people")}
    for row in rows.rows("operator_keys"):
        if row["origin"] != origin and row["revoked"] is None:
            position = await certify(row["vkey"], until[row["person"]])
            rows.change("operator_keys", row["id"], position=position, origin=origin)


def key_row(person: str, vkey: str, origin: str, position: int) -> dict[str, Any]:
    """A row of the table of operators' keys: `position` of its `key/v1` in the log of `origin`."""
    key = {"id": new_id("operatorkey"), "name": public(vkey), "person": person, "vkey": vkey}
    return {**key, "origin": origin, "position": position, "revoked": None}


def _typed(arguments: Mapping[str, Any]) -> None:
    wrong = set(arguments) ^ set(_FIELDS)
    wrong |= {name for name, kind in _FIELDS.items() if name in arguments and type(arguments[name]) is not kind}
    name = arguments.get("name")
    if isinstance(name, str) and not (0 < len(name) <= 100 and name.isprintable()):  # noqa: PLR2004
        wrong.add("name")
    if wrong:
        raise InvalidRequest(f"operator.add takes {', '.join(_FIELDS)}; wrong or missing: {', '.join(sorted(wrong))}")


def _below(assurance: str, least: str) -> bool:
    return ASSURANCE.index(assurance) < ASSURANCE.index(least)

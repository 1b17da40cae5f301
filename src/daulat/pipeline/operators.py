"""Who manages: operators are added with their key, stay for longer and leave, by consent of the others."""

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
from daulat.pipeline.eligible import signing
from daulat.pipeline.operate import OPERATORS, VOUCHED_FOR, Desk, Log, Rows, checked_name, not_an_auditor
from daulat.tlog.note import Verifier

_DAY_MS: Final = 86_400_000
_VOUCHED: Final = {"name": str, "citizenship": str, "assurance": str, "days": int}

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
        _typed("operator.add", arguments, {**_VOUCHED, "vkey": str})
        checked_name(arguments["name"], "operator")
        _vouched(arguments, self.charter)
        house = self.rows.find("tenants", OPERATORS)
        if any(row["name"] == arguments["name"] for row in self._people(house["id"])):
            raise Conflict(
                f"an operator of the name {arguments['name']!r} exists already; operator.renew lets one stay"
            )
        not_an_auditor(self.rows, arguments["name"])
        try:
            key = public(arguments["vkey"])
        except VerificationFailed as error:
            raise InvalidRequest(f"the operator's public key: {error.message}") from None
        if any(row["name"] == key for row in self.rows.rows("operator_keys")):
            raise Conflict("this key is an operator's already, and every operator has their own: operator.renew")
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
class Renewing(Told):
    """`operator.renew`: {"name", "citizenship", "assurance", "days"}: an operator stays, with the key that they have.

    The others vouch for them again, from now on and for so long: also for one who has expired meanwhile.
    """

    rows: Rows
    certify: Certify
    clock: Clock
    charter: Charter
    origin: str

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """Raises InvalidRequest: something is missing or cannot be; NotFound: no such operator; Conflict: too short."""
        _typed("operator.renew", arguments, _VOUCHED)
        _vouched(arguments, self.charter)
        key, person = self._held(arguments)
        if self._until(arguments) <= person["expires"]:
            raise Conflict("this operator stays for longer already: operator.revoke ends it sooner")
        return f"{key['vkey']} {person['citizenship']} {person['assurance']} {person['expires']}"

    def vouches_for(self, arguments: Mapping[str, Any]) -> str:
        return str(self._held(arguments)[1]["id"])

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        key, person = self._held(arguments)
        until = self._until(arguments)
        new = {**person, "citizenship": arguments["citizenship"], "assurance": arguments["assurance"]}
        new |= {"expires": until, "issuer": VOUCHED, "until": until}
        vouched = {name: new[name] for name in VOUCHED_FOR}

        async def carry_out() -> dict[str, Any]:
            position = await self.certify(key["vkey"], until)
            self.rows.change("operator_keys", key["id"], position=position, origin=self.origin)
            self.rows.change("people", person["id"], **vouched, version=person["version"] + 1)
            return {"id": person["id"], "name": person["name"], "vkey": key["vkey"], "expires": until}

        return Prepared(Verifier(key["vkey"]).name, {**vouched, "key": key["vkey"]}, carry_out)

    def _held(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        key = _key_of(self.rows, arguments["name"])
        return key, self.rows.find("people", key["person"])

    def _until(self, arguments: Mapping[str, Any]) -> int:
        return self.clock.now_ms() + int(arguments["days"]) * _DAY_MS


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
                **{name: people[row["person"]][name] for name in ("citizenship", "assurance", "expires")},
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
        key = _key_of(self.rows, arguments["name"])
        left = len(signing(self.rows, self.charter, self.clock.now_ms()).keys() - {key["id"]})
        if left <= self.charter.approvals:
            needed = self.charter.approvals + 1
            raise Conflict(f"{left} operators would be left, and nothing could be agreed to by fewer than {needed}")
        return ""

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        key = _key_of(self.rows, arguments["name"])

        async def carry_out() -> dict[str, Any]:
            now = self.clock.now_ms()
            self.rows.revoke("operator_keys", key["id"], now)
            self.rows.change("people", key["person"], expires=now)  # nothing else that asks who may manage, either
            await self.log("key.revoked/v1", {"key": key["position"], "reason": "the operators agreed"})
            return {"name": arguments["name"], "revoked": True}

        return Prepared(Verifier(key["vkey"]).name, {"key": key["vkey"]}, carry_out)


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


def _key_of(rows: Rows, name: str) -> dict[str, Any]:
    """The row of the key with which an operator signs, by their name or id. Raises NotFound: there is none."""
    people = {row["id"] for row in rows.rows("people") if name in {row["name"], row["id"]}}
    for row in rows.rows("operator_keys"):
        if row["person"] in people and row["revoked"] is None:
            return row
    raise NotFound(f"no operator {name!r} has a key here")


def _vouched(arguments: Mapping[str, Any], charter: Charter) -> None:
    """Raises InvalidRequest: nobody is an operator of whom the others vouch for this."""
    if arguments["citizenship"] not in charter.operators:
        allowed = ", ".join(charter.operators)
        raise InvalidRequest(f"an operator is a citizen of {allowed}, as the charter says")
    if arguments["assurance"] not in ASSURANCE or _below(arguments["assurance"], charter.assurance):
        raise InvalidRequest(f"an operator's citizenship is vouched at {charter.assurance} at least")
    if not 0 < arguments["days"] <= 3650:  # noqa: PLR2004  ten years
        raise InvalidRequest("days is a number from 1 to 3650")


def _typed(action: str, arguments: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    wrong = set(arguments) ^ set(fields)
    wrong |= {name for name, kind in fields.items() if name in arguments and type(arguments[name]) is not kind}
    name = arguments.get("name")
    if isinstance(name, str) and not (0 < len(name) <= 100 and name.isprintable()):  # noqa: PLR2004
        wrong.add("name")
    if wrong:
        raise InvalidRequest(f"{action} takes {', '.join(fields)}; wrong or missing: {', '.join(sorted(wrong))}")


def _below(assurance: str, least: str) -> bool:
    return ASSURANCE.index(assurance) < ASSURANCE.index(least)

"""Correction (Malaysia's PDPA 2010, section 34): what is held about somebody is put right, and the log says what was.

Of a name the log learns that it changed, never what it was or is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from daulat.core.charter import ASSURANCE
from daulat.core.clock import Clock
from daulat.core.commitments import pseudonym
from daulat.errors import Conflict, InvalidRequest
from daulat.pipeline.administer import Admins
from daulat.pipeline.operate import OPERATORS, Desk, Rows, checked_name

_MOST_DAYS = 36_500


class Correcting:
    """One operator may do it alone, as they vouch alone; of an operator others have to agree."""

    def __init__(self, rows: Rows, desk: Desk, clock: Clock) -> None:
        self._rows, self._desk, self._admins = rows, desk, Admins(rows, desk, clock)

    async def correct(self, person: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """`changes` has some of name, citizenship, assurance, roles and days.

        Raises:
            NotFound: there is no such person; Conflict: somebody of that tenant has the name, or it is an operator.
            InvalidRequest: nothing is changed, or something cannot be so.
        """
        vouched = {name: value for name, value in changes.items() if name != "name"}
        row = self._rows.find("people", person)
        house = self._rows.find("tenants", row["tenant"])
        if house["name"] == OPERATORS:
            raise Conflict(
                "operators come, stay and go by consent: propose operator.renew, or operator.revoke and operator.add"
            )
        _check(changes)
        changed = {name for name, value in changes.items() if name == "days" or row[name] != _held(value)}
        if not changed:
            raise InvalidRequest("nothing would change: all of it is held so already")
        if "name" in changed:
            name = checked_name(changes["name"], "person")
            if any(each["name"] == name for each in self._rows.rows("people") if each["tenant"] == house["id"]):
                raise Conflict(f"the name {name!r} exists already in {house['name']}")
        if vouched and changed - {"name"}:
            await self._admins.change_person(row["id"], vouched)
        if "name" in changed:
            subject = pseudonym(base64.b64decode(house["epoch_key"]), "principal", row["id"])
            await self._desk.act("person.correct", subject, {"changed": ["name"]})
            self._rows.change("people", row["id"], name=changes["name"])
        found = self._rows.find("people", row["id"])
        return {"id": found["id"], "name": found["name"], "changed": sorted(changed)}


def _held(value: Any) -> Any:
    return sorted(set(value)) if isinstance(value, list) else value


def _check(changes: Mapping[str, Any]) -> None:
    known = {"name": str, "citizenship": str, "assurance": str, "roles": list, "days": int}
    if not set(changes) <= set(known) or any(type(value) is not known[name] for name, value in changes.items()):
        raise InvalidRequest(f"corrected are {', '.join(known)}")
    country = changes.get("citizenship", "")
    if country and not (len(country) == 2 and country.isascii() and country.isalpha() and country.isupper()):  # noqa: PLR2004
        raise InvalidRequest("citizenship is an ISO 3166-1 alpha-2 code such as MY, or empty when none is vouched")
    if changes.get("assurance", ASSURANCE[0]) not in ASSURANCE:
        raise InvalidRequest(f"assurance is one of {', '.join(ASSURANCE)}")
    roles: Sequence[Any] = changes.get("roles", ())
    if not all(isinstance(role, str) for role in roles):
        raise InvalidRequest("roles are texts")
    if not 0 < changes.get("days", 1) <= _MOST_DAYS:
        raise InvalidRequest(f"days is a number from 1 to {_MOST_DAYS}")

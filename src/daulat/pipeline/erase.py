"""Erasure: the keys and identifiers of a person or a tenant are destroyed, by consent, and the log says so.

What stands in the log stays, byte for byte, so every proof holds. But a person's pseudonym is made from a random id
that stands in the control database alone, a tenant's from its epoch key as well: once these are gone, nobody can say
whose entries they are, nor open their commitments. Objects in the vault are gone with the keys they were sealed under.

Begun is finished: what is being erased is remembered until its `erasure/v1` is in the log, over crashes and starts.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, Self

from daulat.core.commitments import pseudonym
from daulat.errors import Conflict, InvalidRequest, NotFound
from daulat.pipeline.consent import Prepared, Told
from daulat.pipeline.operate import OPERATORS, Log, Rows

Scope = Literal["person", "tenant"]
_PENDING: Final = "erasures"
_TABLES: Final[Mapping[Scope, str]] = {"tenant": "tenants", "person": "people"}

Erased = tuple[Scope, str]
"""Of whom an `erasure/v1` is: its scope and its subject, a pseudonym."""

Destroy = Callable[[Scope, str, Sequence[str]], Awaitable[tuple[int, int]]]
"""Port: destroy the vault's keys of a person, or of a tenant and these people; how many keys and objects there were."""


class Erasable(Rows, Protocol):
    """Port: the control database, and what of it can be made to disappear."""

    def meta(self, name: str) -> str: ...

    def set_meta(self, name: str, value: str) -> None: ...

    def erase(self, table: str, id_: str) -> int:
        """Delete a row and every row that refers to it; how many."""
        ...

    def scrub(self) -> None:
        """Overwrite what was deleted, where the database can."""
        ...


@dataclass(frozen=True, slots=True)
class Whom:
    """A person, or a tenant with its `people`, by id. `subject`: their pseudonym."""

    scope: Scope
    id: str
    subject: str
    people: tuple[str, ...]

    @classmethod
    def of(cls, rows: Rows, scope: Scope, row: Mapping[str, Any]) -> Self:
        """By their row."""
        house = row if scope == "tenant" else rows.find("tenants", row["tenant"])
        kind = "tenant" if scope == "tenant" else "principal"
        subject = pseudonym(base64.b64decode(house["epoch_key"]), kind, row["id"])
        people = sorted(one["id"] for one in rows.rows("people") if one["tenant"] == row["id"])
        return cls(scope, row["id"], subject, tuple(people))

    def as_dict(self) -> dict[str, Any]:
        """Without the id."""
        return {"scope": self.scope, "people": [*self.people], "subject": self.subject}


class Erasure:
    """Carries erasures out, to their end."""

    def __init__(self, rows: Erasable, log: Log, charter_index: int, destroy: Destroy) -> None:
        self._rows, self._log, self._charter, self._destroy = rows, log, charter_index, destroy

    async def erase(self, whom: Whom) -> dict[str, Any]:
        """From here on it happens, whatever fails meanwhile.

        Raises:
            Unavailable: not all of it could be done yet; it goes on by itself.
        """
        self._note(whom.id, {**whom.as_dict(), "keys": 0, "objects": 0, "rows": 0})
        return await self._finish(whom.id)

    def waits(self) -> bool:
        """Whether something was begun and is not finished."""
        return bool(self._pending())

    async def go_on(self) -> None:
        """Finish what was begun.

        Raises:
            Unavailable: something still fails.
        """
        for id_ in list(self._pending()):
            await self._finish(id_)

    def back(self, erased: Collection[Erased]) -> list[Whom]:
        """Who of these is here all the same: what was set back to before an erasure brings them."""
        found = [whom for whom in _everybody(self._rows) if (whom.scope, whom.subject) in erased] if erased else []
        along = {person for whom in found for person in whom.people}
        return [whom for whom in found if whom.id not in along]

    async def _finish(self, id_: str) -> dict[str, Any]:
        held = self._pending()[id_]
        scope: Scope = held["scope"]
        about = _about(self._rows, {id_, *held["people"]})  # while there are rows that say whose a name is
        held["proposals"] = sorted(about | set(held.get("proposals", ())))
        self._note(id_, held)
        held["rows"] += self._rows.erase(
            _TABLES[scope], id_
        )  # first: nobody asks any more, also while the vault is away
        for proposal in held["proposals"]:  # their texts: the log has the digests. An open one is void from here on
            self._rows.change("proposals", proposal, payload="")
        self._note(id_, held)
        keys, objects = await self._destroy(scope, id_, held["people"])
        held["keys"], held["objects"] = max(keys, held["keys"]), max(objects, held["objects"])
        self._note(id_, held)
        said = {name: held[name] for name in ("scope", "subject", "keys", "objects", "rows")}
        position = await self._log("erasure/v1", {"charter": self._charter, **said})
        self._keep({other: value for other, value in self._pending().items() if other != id_})
        self._rows.scrub()
        return {**said, "entry": position}

    def _pending(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = json.loads(self._rows.meta(_PENDING) or "{}")
        return found

    def _note(self, id_: str, held: Mapping[str, Any]) -> None:
        self._keep({**self._pending(), id_: dict(held)})

    def _keep(self, pending: Mapping[str, Any]) -> None:
        self._rows.set_meta(_PENDING, json.dumps(pending))


@dataclass(frozen=True, slots=True)
class Erasing(Told):
    """`person.erase`: {"person"}, `tenant.erase`: {"tenant"}; each an id, or a name that is one's alone."""

    scope: Scope
    rows: Rows
    erasure: Erasure

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """Raises InvalidRequest, NotFound: nobody is named; Conflict: operators are accountable, and stay."""
        row = self._row(arguments)
        house = row if self.scope == "tenant" else self.rows.find("tenants", row["tenant"])
        if house["name"] == OPERATORS:
            raise Conflict("operators are not erased: what they signed has to stay theirs. Revoke them")
        return json.dumps([row["id"], Whom.of(self.rows, self.scope, row).people])

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        whom = Whom.of(self.rows, self.scope, self._row(arguments))

        async def carry_out() -> dict[str, Any]:
            return await self.erasure.erase(whom)

        return Prepared(whom.subject, {"scope": self.scope, "people": len(whom.people) or 1}, carry_out)

    def _row(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        wanted = arguments.get(self.scope)
        if set(arguments) != {self.scope} or not isinstance(wanted, str):
            raise InvalidRequest(f"this act takes a {self.scope}: its id or name")
        return self.rows.find(_TABLES[self.scope], wanted)


def _everybody(rows: Rows) -> Iterator[Whom]:
    """Tenants first: with one go its people."""
    for scope, table in _TABLES.items():
        yield from (Whom.of(rows, scope, row) for row in rows.rows(table))


def _about(rows: Rows, ids: Collection[str]) -> set[str]:
    """The proposals about somebody of these ids: by id, or by a name that is theirs alone, as acts find people.

    A name that is others' as well says of nobody who was meant, and what is about a namesake stays.
    """
    return {row["id"] for row in rows.rows("proposals") if not _meant(rows, row["payload"]).isdisjoint(ids)}


def _meant(rows: Rows, payload: str) -> set[str]:
    """The ids of whom a proposal's arguments name."""
    try:
        arguments = json.loads(payload)["arguments"]
        wanted = [(table, arguments[scope]) for scope, table in _TABLES.items() if scope in arguments]
    except (ValueError, TypeError, KeyError, RecursionError):  # an act that names nobody, by a digest for example
        return set()
    found = {text for _, text in wanted if isinstance(text, str)}  # an id, also of somebody whose row is gone
    for table, text in wanted:
        with contextlib.suppress(NotFound, Conflict):
            found.add(rows.find(table, text)["id"])
    return found

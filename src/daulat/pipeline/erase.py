"""Erasure: the keys and identifiers of a person or a tenant are destroyed, by consent, and the log says so.

What stands in the log stays, byte for byte, so every proof holds. But a person's pseudonym is made from a random id
that stands in the control database alone, a tenant's from its epoch key as well: once these are gone, nobody can say
whose entries they are, nor open their commitments. Objects in the vault are gone with the keys they were sealed under.

Begun is finished: what is being erased is remembered until its `erasure/v1` is in the log, over crashes and starts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, Literal, Protocol, Self

from daulat.core.commitments import pseudonym
from daulat.errors import Conflict, InvalidRequest
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
    """A person, or a tenant with its `people`, by id. `subject`: their pseudonym. `names`: what proposals call them."""

    scope: Scope
    id: str
    subject: str
    people: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, rows: Rows, scope: Scope, row: Mapping[str, Any]) -> Self:
        """By their row."""
        house = row if scope == "tenant" else rows.find("tenants", row["tenant"])
        kind = "tenant" if scope == "tenant" else "principal"
        subject = pseudonym(base64.b64decode(house["epoch_key"]), kind, row["id"])
        people = sorted((one for one in rows.rows("people") if one["tenant"] == row["id"]), key=itemgetter("id"))
        ids = tuple(one["id"] for one in people)
        return cls(scope, row["id"], subject, ids, tuple(one["name"] for one in (row, *people)))

    def as_dict(self) -> dict[str, Any]:
        """Without the id."""
        return {"scope": self.scope, "people": [*self.people], "subject": self.subject, "names": [*self.names]}


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
        held["rows"] += self._rows.erase(
            _TABLES[scope], id_
        )  # first: nobody asks any more, also while the vault is away
        self._forget({id_, *held["people"], *held["names"]})
        self._note(id_, held)
        keys, objects = await self._destroy(scope, id_, held["people"])
        held["keys"], held["objects"] = max(keys, held["keys"]), max(objects, held["objects"])
        self._note(id_, held)
        said = {name: held[name] for name in ("scope", "subject", "keys", "objects", "rows")}
        position = await self._log("erasure/v1", {"charter": self._charter, **said})
        self._keep({other: value for other, value in self._pending().items() if other != id_})
        self._rows.scrub()
        return {**said, "entry": position}

    def _forget(self, names: set[str]) -> None:
        """The texts of proposals that name them: the log has their digests, and proposals their signatures."""
        for row in self._rows.rows("proposals"):
            if names & _said(row["payload"]):
                self._rows.change("proposals", row["id"], payload="")

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


def _said(payload: str) -> set[str]:
    """The texts among a proposal's arguments."""
    try:
        value = json.loads(payload)
        return {text for text in value["arguments"].values() if isinstance(text, str)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()

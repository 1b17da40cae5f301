"""Access and portability (Malaysia's PDPA 2010, sections 30 and 43A): everything held about a person, in one archive.

Others agree to it first, where the charter asks for approvals: it is a way out for somebody's data. An agreement is for
one archive, within a week. What is in it goes to whoever asked at this machine; `export/v1` says of whom, how much of
each kind, and which digest the archive has. An export is used up before its entry is written: a crash in between leaves
one that has to be agreed to again, and never an archive in somebody's hands that the log may still be told of.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.core import entries
from daulat.core.clock import Clock
from daulat.core.commitments import pseudonym
from daulat.core.export import HELD
from daulat.core.ids import new_id
from daulat.errors import InvalidRequest, NotFound
from daulat.pipeline.breach import Stands
from daulat.pipeline.consent import Prepared, Told
from daulat.pipeline.operate import Log, Rows

TABLE: Final = "exports"
_WEEK_MS: Final = 7 * 86_400_000
# By table, the columns that are no secrets. What others wrote (the reasons of proposals) is not about the person.
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "keys": ("id", "label", "models", "requests_per_minute", "created", "expires", "networks", "revoked"),
    "admin_keys": ("id", "name", "created", "expires", "revoked"),
    "identities": ("id", "name"),  # keyed hashes
    "provisioned": ("id", "external", "until", "created", "changed", "gone"),  # `external`: one too
    "invitations": ("id", "expires", "revoked"),
    "sessions": ("id", "issuer", "created", "expires", "revoked"),
    "operator_keys": ("id", "vkey", "origin", "position", "revoked"),
}
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


class Exports:
    """What was agreed to, and what became of it."""

    def __init__(self, rows: Rows, log: Log, clock: Clock, charter_index: int) -> None:
        self._rows, self._log, self._clock, self._charter = rows, log, clock, charter_index

    def agreed(self, person: str) -> dict[str, Any]:
        """From now on, for a week, one archive of this person's may be made."""
        id_, until = new_id("export"), self._clock.now_ms() + _WEEK_MS
        self._rows.add(TABLE, {"id": id_, "name": id_, "person": person, "until": until, "done": None})
        return {"export": id_, "until": until}

    def open(self, wanted: str) -> dict[str, Any]:
        """What was agreed to for a person, by their name or id: {"export", "person", "tenant"}, all ids.

        Raises:
            NotFound: there is no such person, or nobody has agreed to an export.
        """
        person = self._rows.find("people", wanted)
        now = self._clock.now_ms()
        for row in self._rows.rows(TABLE):
            if row["person"] == person["id"] and row["done"] is None and row["until"] > now:
                return {"export": row["id"], "person": person["id"], "tenant": person["tenant"]}
        raise NotFound(
            f"nobody has agreed to an export of {person['name']}'s data, or it was made already: propose it with "
            f"daulat operate export-person {person['name']} --key FILE",
            code="not_agreed",
        )

    def held(self, wanted: str) -> dict[str, Any]:
        """The rows about a person whose export is agreed to, without secrets, and their pseudonyms.

        Raises:
            NotFound: as `open`.
        """
        found = self.open(wanted)
        person, house = self._rows.find("people", found["person"]), self._rows.find("tenants", found["tenant"])
        about: dict[str, Any] = {"person": [person], "tenant": [{"id": house["id"], "name": house["name"]}]}
        for table, columns in _COLUMNS.items():
            rows = (row for row in self._rows.rows(table) if row["person"] == person["id"])
            about[table] = [{column: row[column] for column in columns} for row in rows]
        own = {row["id"] for row in about["keys"]}
        limits = (row for row in self._rows.rows("limits") if row["subject"] in own)
        about["limits"] = [{name: row[name] for name in ("id", "scope", "subject", "bounds")} for row in limits]
        key = base64.b64decode(house["epoch_key"])
        names = {"person": pseudonym(key, "principal", person["id"])}
        names |= {row["id"]: pseudonym(key, "key", row["id"]) for row in (*about["keys"], *about["admin_keys"])}
        return {**found, "rows": about, "pseudonyms": names}

    async def made(self, export: str, digest: str, held: Mapping[str, int], *, sealed: bool) -> dict[str, int]:
        """It was made: used up from now on, and written down. `sealed`: under a passphrase.

        Raises:
            InvalidRequest: this is no digest, or no count; NotFound: nobody has agreed to it.
        """
        counts = {name: held.get(name) for name in HELD}
        if set(held) != set(HELD) or not all(type(count) is int and count >= 0 for count in counts.values()):
            raise InvalidRequest(f"what was exported is counted in {', '.join(HELD)}")
        if not _DIGEST.match(digest):
            raise InvalidRequest("the digest of an archive is a SHA-256 in lower-case hex")
        row = self._rows.find(TABLE, export)
        if self.open(row["person"])["export"] != row["id"]:
            raise NotFound("this export was made already, or nobody has agreed to it", code="not_agreed")
        subject = _pseudonym(self._rows, self._rows.find("people", row["person"]))
        self._rows.change(TABLE, row["id"], done=self._clock.now_ms())
        fields = {"charter": self._charter, "subject": subject, "held": counts, "sealed": sealed, "digest": digest}
        return {"entry": await self._log("export/v1", fields)}


@dataclass(frozen=True, slots=True)
class Exporting(Told):
    """`data.export`: {"person"}; an id, or a name that is one's alone."""

    rows: Rows
    exports: Exports

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """Raises InvalidRequest, NotFound: nobody is named."""
        return json.dumps([self._person(arguments)["id"]])

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        person = self._person(arguments)

        async def carry_out() -> dict[str, Any]:
            return self.exports.agreed(person["id"])

        return Prepared(_pseudonym(self.rows, person), {}, carry_out)

    def _person(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        wanted = arguments.get("person")
        if set(arguments) != {"person"} or not isinstance(wanted, str):
            raise InvalidRequest("this act takes a person: their id or name")
        return self.rows.find("people", wanted)


def about(names: Iterable[str], log: Iterable[Stands]) -> Iterator[dict[str, Any]]:
    """The entries in which one of these pseudonyms stands: {"log", "index", "entry"}."""
    wanted = frozenset(names)
    for origin, index, entry in log:
        if wanted & set(_texts(entry)):
            yield {"log": origin, "index": index, "entry": dict(entry)}


def usage(totals: dict[str, Counter[str]], entry: Mapping[str, Any]) -> None:
    """Count a request into `totals`, by the model that was asked for."""
    if entry["type"] != entries.INFERENCE:
        return
    counted = totals.setdefault(entry["admission"]["requested_model"], Counter())
    counted["requests"] += 1
    counted.update(entry["completion"]["usage"])


def _texts(value: Any) -> Iterator[str]:
    """Every text in an entry, names of fields among them; of a vkey, whose name is a pseudonym, that name."""
    if isinstance(value, str):
        yield value.partition("+")[0]
    elif isinstance(value, Mapping):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _pseudonym(rows: Rows, person: Mapping[str, Any]) -> str:
    house = rows.find("tenants", person["tenant"])
    return pseudonym(base64.b64decode(house["epoch_key"]), "principal", person["id"])

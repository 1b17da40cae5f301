"""Retention: what operators agree that a tenant's objects are kept for, and what the log has of those that are gone.

Any change is one act, shorter or longer, as either breaks what people were told: a shorter time takes away what they
count on, a longer one keeps what they were promised would go. Where the charter asks for approvals, others approve.

The vault takes objects out of its index and notes that it did in one transaction; only when their bytes are gone and
the log has the counts is the note struck out. A crash in between does the rest again: nothing goes uncounted. Should it
fall between the entry and the note, the entry stands twice under one `batch`, which whoever counts counts once.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.core.commitments import pseudonym
from daulat.core.ids import new_id
from daulat.core.retention import FIELDS, Rule
from daulat.errors import DaulatError, InvalidRequest
from daulat.pipeline.consent import Prepared, Told
from daulat.pipeline.operate import Log, Rows

TABLE: Final = "retentions"


class Kept:
    """The rules in force, in the control database, and the counts of what they took away, in the log."""

    def __init__(self, rows: Rows, log: Log, charter_index: int) -> None:
        self._rows, self._log, self._charter = rows, log, charter_index

    def rule(self, tenant: str) -> Rule:
        """Of the tenant with this id."""
        row = next((row for row in self._rows.rows(TABLE) if row["tenant"] == tenant), None)
        return Rule() if row is None else _rule(row)

    def all(self) -> list[dict[str, Any]]:
        """Every tenant with its rule: {"tenant", "name", "pseudonym", "files", "completions"}."""
        rules = {row["tenant"]: _rule(row) for row in self._rows.rows(TABLE)}
        return [
            {
                "tenant": row["id"],
                "name": row["name"],
                "pseudonym": _pseudonym(row),
                **rules.get(row["id"], Rule()).as_dict(),
            }
            for row in self._rows.rows("tenants")
        ]

    def set(self, tenant: str, rule: Rule) -> None:
        held = next((row for row in self._rows.rows(TABLE) if row["tenant"] == tenant), None)
        if held is None:
            self._rows.add(TABLE, {"id": new_id("retention"), "name": tenant, "tenant": tenant, **rule.as_dict()})
        else:
            self._rows.change(TABLE, held["id"], **rule.as_dict())

    async def deleted(
        self, batch: str, tenant: str, rule: Mapping[str, Any], deleted: Mapping[str, int]
    ) -> dict[str, int]:
        """Write down how many objects of a tenant a rule took away; where that stands in the log.

        A tenant that was erased meanwhile has no pseudonym any more: what was deleted is said, and not of whom.

        Raises:
            InvalidRequest: these are no counts.
        """
        if set(deleted) != set(FIELDS.values()) or any(
            type(count) is not int or count < 0 for count in deleted.values()
        ):
            raise InvalidRequest(f"what was deleted is counted in {' and in '.join(FIELDS.values())}")
        house = next((row for row in self._rows.rows("tenants") if row["id"] == tenant), None)
        fields = {
            "charter": self._charter,
            "tenant": None if house is None else _pseudonym(house),
            "batch": batch,
            "rule": Rule.read(rule).as_dict(),
            "deleted": dict(deleted),
        }
        return {"entry": await self._log("retention/v1", fields)}


@dataclass(frozen=True, slots=True)
class Setting(Told):
    """`retention.set`: {"tenant", "files", "completions"}; a tenant's id or name, days or null."""

    rows: Rows
    kept: Kept
    wake: Callable[[], Awaitable[None]]  # the vault, which otherwise looks after a while

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """Raises InvalidRequest: it is no rule; NotFound: there is no such tenant."""
        house, _ = self._asked(arguments)
        return json.dumps([house["id"], self.kept.rule(house["id"]).as_dict()])

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        house, rule = self._asked(arguments)
        before = self.kept.rule(house["id"])

        async def carry_out() -> dict[str, Any]:
            self.kept.set(house["id"], rule)
            with contextlib.suppress(DaulatError):  # it is closed: it asks for the rules when it is open again
                await self.wake()
            return rule.as_dict()

        return Prepared(_pseudonym(house), {**rule.as_dict(), "before": before.as_dict()}, carry_out)

    def _asked(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Rule]:
        wanted = arguments.get("tenant")
        if not isinstance(wanted, str):
            raise InvalidRequest("a retention rule is a tenant's: its id or name")
        rule = Rule.read({name: value for name, value in arguments.items() if name != "tenant"})
        return self.rows.find("tenants", wanted), rule


def _rule(row: Mapping[str, Any]) -> Rule:
    return Rule(row["files"], row["completions"])


def _pseudonym(house: Mapping[str, Any]) -> str:
    return pseudonym(base64.b64decode(house["epoch_key"]), "tenant", house["id"])

"""What an operator does about limits, and what of them is spent.

A limit that is set replaces those values that are given, and leaves the others as they are. The log has every change,
under pseudonyms, before it comes into force.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from daulat.core.commitments import pseudonym
from daulat.core.ids import new_id
from daulat.core.quota import RESOURCES, Limit, checked, shown
from daulat.errors import NotFound
from daulat.metering.slices import Id
from daulat.pipeline.deploy import Act, Rows

_TABLES: Final = {"key": "keys", "tenant": "tenants"}


def bounds(limits: Iterable[Limit]) -> dict[Id, int]:
    """Every bound there is, by its account."""
    return {
        Id(limit.scope, limit.subject, resource): bound
        for limit in limits
        for resource in RESOURCES
        if (bound := getattr(limit, resource))
    }


class Limits:
    """The use cases, over the control database's rows."""

    def __init__(self, rows: Rows, act: Act) -> None:
        """`act`: write down what an operator does (`pipeline.operate.Desk.act`)."""
        self._rows, self._act = rows, act

    async def set(self, scope: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Limit a key (by id or label), a tenant (by id or name) or a model (by what clients call it).

        Raises:
            InvalidRequest: a value is wrong; NotFound: there is no such key or tenant.
        """
        new = checked(scope, given)
        subject, alias = self._subject(scope, name)
        held = self._held(scope, subject)
        whole = {**({} if held is None else held["bounds"]), **new}
        await self._act("limit.set", alias, {"scope": scope, **new})
        if held is None:
            row = {"id": new_id("limit"), "name": f"{scope}:{subject}", "scope": scope, "subject": subject}
            self._rows.add("limits", {**row, "bounds": whole})
        else:
            self._rows.change("limits", held["id"], bounds=whole)
        return {"scope": scope, "name": name, **self._shown(scope, subject, whole)}

    async def remove(self, scope: str, name: str) -> dict[str, Any]:
        """No limit any more, and no weight or priority.

        Raises:
            NotFound: there is none.
        """
        subject, alias = self._subject(scope, name)
        held = self._held(scope, subject)
        own = scope == "key" and self._rows.find("keys", subject)["requests_per_minute"]
        if held is None and not own:
            raise NotFound(f"the {scope} {name!r} has no limit; `daulat limit list` shows those there are")
        await self._act("limit.remove", alias, {"scope": scope})
        if held is not None:
            self._rows.remove("limits", held["id"])
        if own:
            self._rows.change("keys", subject, requests_per_minute=0)
        return {"scope": scope, "name": name, "removed": True}

    def all(self) -> list[dict[str, Any]]:
        """All limits, by the names that operators know."""
        names = {row["id"]: row["label"] for row in self._rows.rows("keys")}
        names.update({row["id"]: row["name"] for row in self._rows.rows("tenants")})
        held = {(row["scope"], row["subject"]): row["bounds"] for row in self._rows.rows("limits")}
        for row in self._rows.rows("keys"):
            if row["requests_per_minute"]:
                held.setdefault(("key", row["id"]), {})
        return [
            {
                "scope": scope,
                "id": subject,
                "name": names.get(subject, subject),
                "alias": self._alias(scope, subject),
                **self._shown(scope, subject, found),
            }
            for (scope, subject), found in held.items()
            if scope == "model" or subject in names
        ]

    def names(self) -> dict[tuple[str, str], str]:
        """What operators call keys and tenants, by ("key" or "tenant", pseudonym)."""
        epoch_keys = {row["id"]: base64.b64decode(row["epoch_key"]) for row in self._rows.rows("tenants")}
        houses = {row["id"]: row["tenant"] for row in self._rows.rows("people")}
        tenants = {
            ("tenant", pseudonym(epoch_keys[row["id"]], "tenant", row["id"])): str(row["name"])
            for row in self._rows.rows("tenants")
        }
        keys = {
            ("key", pseudonym(epoch_keys[houses[row["person"]]], "key", row["id"])): str(row["label"])
            for row in self._rows.rows("keys")
        }
        return {**tenants, **keys}

    def _subject(self, scope: str, name: str) -> tuple[str, str]:
        """Id and pseudonym; of a model its name, twice."""
        table = _TABLES.get(scope)
        if table is None:
            return name, name
        subject = str(self._rows.find(table, name)["id"])
        return subject, self._alias(scope, subject)

    def _alias(self, scope: str, subject: str) -> str:
        if scope == "model":
            return subject
        tenant = subject
        if scope == "key":
            tenant = self._rows.find("people", self._rows.find("keys", subject)["person"])["tenant"]
        epoch_key = base64.b64decode(self._rows.find("tenants", tenant)["epoch_key"])
        return pseudonym(epoch_key, scope, subject)

    def _held(self, scope: str, subject: str) -> dict[str, Any] | None:
        found = (row for row in self._rows.rows("limits") if (row["scope"], row["subject"]) == (scope, subject))
        return next(found, None)

    def _shown(self, scope: str, subject: str, found: Mapping[str, int]) -> dict[str, Any]:
        """With the budget in money, and a key's own requests a minute where nothing else is said."""
        whole: dict[str, Any] = dict(found)
        if scope == "key" and "requests_per_minute" not in whole:
            whole["requests_per_minute"] = self._rows.find("keys", subject)["requests_per_minute"]
        whole = {name: value for name, value in whole.items() if value}
        return {**whole, "budget": shown(whole["budget"])} if "budget" in whole else whole

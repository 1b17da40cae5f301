"""Whether somebody may manage under a charter: one rule, for the admin API, for consent, and for how many are left."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from daulat.core.charter import Charter
from daulat.core.consent import OPERATOR
from daulat.pipeline.operate import OPERATORS, Rows

SOON_MS: Final = 60 * 86_400_000  # as metrics' names and the docs have it


def ineligible(person: Mapping[str, Any], charter: Charter, now: int) -> str:
    """Why a person may manage nothing at `now` (Unix milliseconds), in words, or "". Their role is not looked at."""
    if person["expires"] <= now:
        return "this person's eligibility has expired"
    if 0 < person["until"] <= now:
        return "this person's citizenship was good until a date that has passed"
    return charter.unfit(person["citizenship"], person["assurance"], person["issuer"])


def no_operator(rows: Rows, person: Mapping[str, Any], charter: Charter, now: int) -> str:
    """Why a person is no operator whose signature counts at `now`, in words, or ""."""
    return _no_operator(rows.find("tenants", person["tenant"])["name"], person, charter, now)


def signing(rows: Rows, charter: Charter, now: int) -> dict[str, int]:
    """Whose signatures count at `now`: by the id of their key, until when, if nothing changes (Unix milliseconds)."""
    keys = {row["person"]: str(row["id"]) for row in rows.rows("operator_keys") if row["revoked"] is None}
    houses = {row["id"]: row["name"] for row in rows.rows("tenants")}
    return {
        keys[person["id"]]: min(person["expires"], person["until"] or person["expires"])
        for person in rows.rows("people")
        if person["id"] in keys and not _no_operator(houses[person["tenant"]], person, charter, now)
    }


def _no_operator(house: str, person: Mapping[str, Any], charter: Charter, now: int) -> str:
    if house != OPERATORS or OPERATOR not in person["roles"]:
        return "this person is no operator"
    return ineligible(person, charter, now)


def ending(rows: Rows, charter: Charter, now: int) -> str:
    """A warning where soon nothing can be agreed to any more, because too few operators have been renewed, or ""."""
    if not charter.approvals:
        return ""
    ends, needed = sorted(signing(rows, charter, now).values(), reverse=True), charter.approvals + 1
    if len(ends) < needed:
        return f"{len(ends)} operators may sign, and {needed} are needed: nothing can be agreed to, nor anybody renewed"
    if ends[needed - 1] > now + SOON_MS:
        return ""
    day = datetime.fromtimestamp(ends[needed - 1] / 1000, UTC).strftime("%Y-%m-%d")
    return (
        f"from {day} on fewer than {needed} operators may sign, and then nobody can be renewed any more: "
        "daulat operate renew-operator NAME --key FILE"
    )

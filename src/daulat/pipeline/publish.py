"""From the control plane's rows to the snapshot that workers act on."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from daulat.core.commitments import pseudonym
from daulat.core.decision import sorted_roles
from daulat.core.principal import Attributes
from daulat.core.quota import Limit, Prices
from daulat.core.snapshot import AuditorRow, KeyRow, PersonRow, Roll, TenantRow

Row = Mapping[str, Any]
_TOLD_MS: Final = 30 * 86_400_000


def roll(number: int, rows: Callable[[str], list[dict[str, Any]]], now_ms: int, prices: Prices | None = None) -> Roll:
    """Everyone who may ask, out of the tables that `rows` reads."""
    tenants, people, keys = rows("tenants"), rows("people"), rows("keys")
    prices = prices or Prices()
    epoch_keys = {row["id"]: base64.b64decode(row["epoch_key"]) for row in tenants}
    return Roll(
        number,
        tenant_rows(tenants, epoch_keys),
        person_rows(people, epoch_keys),
        key_rows(keys, {row["id"]: row for row in people}, epoch_keys, now_ms),
        auditor_rows(rows("auditors"), now_ms),
        limit_rows(rows("limits"), keys, {row["id"]: row["tenant"] for row in people}, epoch_keys),
        prices.rows,
        prices.currency,
    )


def tenant_rows(tenants: Iterable[Row], epoch_keys: Mapping[str, bytes]) -> tuple[TenantRow, ...]:
    return tuple(
        TenantRow(row["id"], row["epoch_key"], pseudonym(epoch_keys[row["id"]], "tenant", row["id"])) for row in tenants
    )


def person_rows(people: Iterable[Row], epoch_keys: Mapping[str, bytes]) -> tuple[PersonRow, ...]:
    return tuple(
        PersonRow(
            id=row["id"],
            tenant=row["tenant"],
            pseudonym=pseudonym(epoch_keys[row["tenant"]], "principal", row["id"]),
            attributes=Attributes(
                row["citizenship"], row["assurance"], sorted_roles(row["roles"]), row["issuer"], row["until"]
            ),
            expires=row["expires"],
            version=row["version"],
        )
        for row in people
    )


def key_rows(
    keys: Iterable[Row], people: Mapping[str, Row], epoch_keys: Mapping[str, bytes], now_ms: int
) -> tuple[KeyRow, ...]:
    """Keys that may be used, and those that have expired not long ago: whoever comes with one is told so.

    What was revoked is absent. Whoever has signed in once opens their vault with keys of their own making alone.
    """
    return tuple(
        KeyRow(
            id=row["id"],
            digest=row["digest"],
            person=row["person"],
            pseudonym=pseudonym(epoch_keys[people[row["person"]]["tenant"]], "key", row["id"]),
            expires=row["expires"],
            models=tuple(row["models"]),
            networks=tuple(row["networks"] or ()),
            opens_vault=bool(row["own"]) or not people[row["person"]]["proven"],
        )
        for row in keys
        if row["revoked"] is None and row["expires"] > now_ms - _TOLD_MS
    )


def limit_rows(
    limits: Iterable[Row], keys: Iterable[Row], houses: Mapping[str, str], epoch_keys: Mapping[str, bytes]
) -> tuple[Limit, ...]:
    """Limits by pseudonym. `houses`: the tenant of each person. A key's own requests a minute stand in its row."""
    holders = {row["id"]: houses[row["person"]] for row in keys}
    found = {("key", row["id"]): {"requests_per_minute": row["requests_per_minute"]} for row in keys}
    for row in limits:
        asked = found.setdefault((row["scope"], row["subject"]), {})
        asked.update(row["bounds"])
    return tuple(
        Limit(scope, _limited(scope, subject, holders, epoch_keys), **bounds)
        for (scope, subject), bounds in found.items()
        if any(bounds.values()) and (scope == "model" or subject in (holders if scope == "key" else epoch_keys))
    )


def _limited(scope: str, subject: str, holders: Mapping[str, str], epoch_keys: Mapping[str, bytes]) -> str:
    if scope == "model":
        return subject
    return pseudonym(epoch_keys[holders[subject] if scope == "key" else subject], scope, subject)


def auditor_rows(auditors: Iterable[Row], now_ms: int) -> tuple[AuditorRow, ...]:
    return tuple(
        AuditorRow(row["id"], row["digest"], row["expires"])
        for row in auditors
        if row["revoked"] is None and row["expires"] > now_ms
    )

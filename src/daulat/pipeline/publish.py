"""From the control plane's rows to the snapshot that workers act on."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from daulat.core.commitments import pseudonym
from daulat.core.decision import sorted_roles
from daulat.core.principal import Attributes
from daulat.core.snapshot import AuditorRow, KeyRow, PersonRow, Roll, TenantRow

Row = Mapping[str, Any]
_TOLD_MS: Final = 30 * 86_400_000


def roll(number: int, rows: Callable[[str], list[dict[str, Any]]], now_ms: int) -> Roll:
    """Everyone who may ask, out of the tables that `rows` reads."""
    tenants, people = rows("tenants"), rows("people")
    epoch_keys = {row["id"]: base64.b64decode(row["epoch_key"]) for row in tenants}
    return Roll(
        number,
        tenant_rows(tenants, epoch_keys),
        person_rows(people, epoch_keys),
        key_rows(rows("keys"), {row["id"]: row for row in people}, epoch_keys, now_ms),
        auditor_rows(rows("auditors"), now_ms),
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

    What was revoked is absent.
    """
    return tuple(
        KeyRow(
            id=row["id"],
            digest=row["digest"],
            person=row["person"],
            pseudonym=pseudonym(epoch_keys[people[row["person"]]["tenant"]], "key", row["id"]),
            expires=row["expires"],
            models=tuple(row["models"]),
            requests_per_minute=row["requests_per_minute"],
            networks=tuple(row["networks"] or ()),
        )
        for row in keys
        if row["revoked"] is None and row["expires"] > now_ms - _TOLD_MS
    )


def auditor_rows(auditors: Iterable[Row], now_ms: int) -> tuple[AuditorRow, ...]:
    return tuple(
        AuditorRow(row["id"], row["digest"], row["expires"])
        for row in auditors
        if row["revoked"] is None and row["expires"] > now_ms
    )

"""People whom a provider's mapping places in a tenant: its word takes them in, keeps them, and ends their time.

A person's row says whose mapping it was (`placed_by`) and which end that has set (`placed_until`). Where `expires` is
another, an operator has decided since, and the mapping says no more of them. Whoever was added, invited or brought by a
directory was placed by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from daulat.core.ids import new_id
from daulat.errors import PermissionDenied
from daulat.identity.claims import DAY_MS, Seen
from daulat.identity.providers import Provider

_HOUR_MS: Final = 3_600_000  # an end that moves by less is no change that anybody need hear of


def taken_in(provider: Provider, tenant: str, now_ms: int) -> dict[str, Any]:
    """The row of somebody new in a tenant, by its id; `version` 0: not in the table yet."""
    id_ = new_id("person")  # and their name: a token's name for them is not kept
    return {"id": id_, "tenant": tenant, "name": id_, "version": 0, "proven": 0, **_anew(provider, now_ms)}


def decides(provider: Provider, person: Mapping[str, Any]) -> bool:
    """Whether this provider's mapping has the say on somebody's time."""
    mine = provider.provision == "mapped" and person["placed_by"] == provider.issuer
    return mine and person["expires"] == person["placed_until"]


def kept(provider: Provider, person: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """The row of somebody who is still placed there: renewed. Whose time was over begins as whoever is new."""
    anew = _anew(provider, now_ms)
    if person["expires"] <= now_ms:
        return {**person, **anew}
    if abs(anew["expires"] - person["expires"]) < _HOUR_MS:
        return dict(person)
    return {**person, **{name: anew[name] for name in ("expires", "placed_until")}}


def gone(provider: Provider, seen: Seen) -> PermissionDenied:
    """What whoever is placed there no more is told."""
    if seen.tenant:
        return PermissionDenied(
            f"{provider.title} places you in another tenant than the one that you were taken into, so your time there "
            "has ended. Ask an operator to add you to the other one and to invite you (`daulat person add`, `daulat "
            "person invite`).",
            code="placed_elsewhere",
        )
    return PermissionDenied(
        f"{provider.title} does not place you in a tenant any more, so your time here has ended. Sign in again once it "
        "does, or ask an operator for time of your own (`daulat person correct PERSON --days N`).",
        code="placed_nowhere",
    )


def _anew(provider: Provider, now_ms: int) -> dict[str, Any]:
    expires = now_ms + provider.person_days * DAY_MS
    known = {"citizenship": "", "assurance": "low", "roles": ["user"], "issuer": provider.issuer, "until": 0}
    return {**known, "expires": expires, "placed_by": provider.issuer, "placed_until": expires}

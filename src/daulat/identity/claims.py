"""What verified claims say of a person, in our words. Nothing that a client sends comes here: only tokens that hold.

An identity number finds the same person again, and nothing more: permanent residents have identity cards too, so no
number is ever read as a citizenship. It finds them only on the word of a provider that has checked whose it is: where
people write it themselves, whoever wrote another's would become that person.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from daulat.core.principal import Attributes
from daulat.errors import PermissionDenied
from daulat.identity import numbers
from daulat.identity.providers import Provider

DAY_MS: Final = 86_400_000
KEY_BYTES: Final = 32
_COUNTRY: Final = re.compile(r"[A-Z]{2}\Z")
_SECONDS: Final = re.compile(r"[0-9]{1,12}\Z")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_LATEST: Final = 253_402_300_800  # the end of the year 9999, Unix seconds
_EPOCH: Final = date(1970, 1, 1)
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Seen:
    """A person as one token shows them."""

    hashes: tuple[str, ...]  # of the provider's name for them, and of an identity number where one counts
    citizenship: str  # "" when the token says nothing of it
    assurance: str
    until: int  # when the token's word on the citizenship ends, Unix milliseconds; 0 without one
    roles: tuple[str, ...] | None  # None: this provider says nothing of roles
    tenant: str  # the name of the tenant they are placed in; "" for none


def read(
    provider: Provider, claims: Mapping[str, Any], key: bytes, now_ms: int, country: str = numbers.MALAYSIA
) -> Seen:
    """Args: `key`: of the hashes, 32 bytes; `country`: the charter's, which says what an identity number looks like.

    Raises:
        PermissionDenied: the token makes somebody operator and auditor at once.
    """
    said = provider.claims
    hashes = [hashed(key, "subject", f"{provider.issuer}\0{claims['sub']}")]
    number = numbers.counting(_text(_first(claims, said.number)), country) if provider.number_verified else ""
    if number:  # "number" alone is what hashes of unverified ones were made with: none of them counts any more
        hashes.append(hashed(key, "verified number", number))
    citizenship, until = _citizenship(provider, claims, now_ms)
    roles = None
    if said.roles:
        found = _texts(_first(claims, said.roles))
        roles = tuple(sorted({provider.roles[name] for name in found if name in provider.roles}))
        if {"operator", "auditor"} <= set(roles):
            raise PermissionDenied(
                "The token makes you operator and auditor at once, and these exclude each other.",
                code="roles_exclude_each_other",
            )
    tenant = _text(_first(claims, said.tenant))
    return Seen(
        hashes=tuple(hashes),
        citizenship=citizenship,
        assurance=provider.assurance.get(_text(claims.get("acr")), "low"),
        until=until,
        roles=roles,
        tenant=provider.tenants.get(tenant) or provider.tenants.get("*", ""),
    )


def merged(provider: Provider, seen: Seen, known: Attributes, now_ms: int) -> Attributes:
    """A known person's attributes after a sign-in.

    A token's word on a citizenship takes the place of any other; one without such a word ends what this provider had
    said before, and leaves what others vouched for, until that ends.
    """
    roles = known.roles if seen.roles is None else seen.roles
    if seen.citizenship:
        return Attributes(seen.citizenship, seen.assurance, roles, provider.issuer, seen.until)
    lapsed = known.issuer == provider.issuer or (known.until and known.until <= now_ms)
    if lapsed:
        return Attributes("", "low", roles, provider.issuer, 0)
    return Attributes(known.citizenship, known.assurance, roles, known.issuer, known.until)


def hashed(key: bytes, kind: str, value: str) -> str:
    """HMAC-SHA-256 under the installation's own key, in base64url: to find the same person again, and nothing else."""
    mac = hmac.new(key, f"daulat/identity/v1/{kind}\0{value}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def _citizenship(provider: Provider, claims: Mapping[str, Any], now_ms: int) -> tuple[str, int]:
    """What the token says of it, and until when, Unix milliseconds; "" and 0 for none.

    Where the provider says an end, one that nobody can read is no leave to believe the rest: there is no citizenship.
    """
    country = _country(provider, _text(_first(claims, provider.claims.citizenship)))
    until = now_ms + provider.citizenship_days * DAY_MS
    said = next((value for name in provider.claims.until if (value := _at(claims, name)) is not _ABSENT), _ABSENT)
    if said is not _ABSENT:
        until = min(until, _end(said))
    return (country, until) if country and until > 0 else ("", 0)


def _end(said: Any) -> int:
    """Unix milliseconds of what a claim gives as seconds, in digits too, or as a day, to its end in UTC; else 0."""
    if isinstance(said, str) and _SECONDS.match(said):
        said = int(said)
    elif isinstance(said, str) and _DAY.match(said):
        try:
            said = ((date.fromisoformat(said) - _EPOCH).days + 1) * 86_400
        except ValueError:
            return 0
    if type(said) not in {int, float} or not 0 < said <= _LATEST:
        return 0
    return int(said * 1000)


def _first(claims: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these claims that says anything."""
    found = (_at(claims, name) for name in names)
    return next((value for value in found if value not in (_ABSENT, None, "", [])), None)


def _at(claims: Mapping[str, Any], name: str) -> Any:
    """What stands there, or _ABSENT. A claim whose own name has dots goes before the path it would be."""
    value: Any = claims
    for part in (name,) if name in claims else name.split("."):
        value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 256 else ""  # noqa: PLR2004


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str)]


def _country(provider: Provider, said: str) -> str:
    """The code that a claim means; one that nobody has written down how to read is none."""
    if provider.countries:
        return provider.countries.get(said, "")
    return said if _COUNTRY.match(said) else ""

"""What verified claims say of a person, in our words. Nothing that a client sends comes here: only tokens that hold.

An identity number finds the same person again, and nothing more: permanent residents have identity cards too, so no
number is ever read as a citizenship.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daulat.core.principal import Attributes
from daulat.errors import PermissionDenied
from daulat.identity.providers import Provider

DAY_MS: Final = 86_400_000
KEY_BYTES: Final = 32
_COUNTRY: Final = re.compile(r"[A-Z]{2}\Z")
_SPACING: Final = re.compile(r"[\s-]+")


@dataclass(frozen=True, slots=True)
class Seen:
    """A person as one token shows them."""

    hashes: tuple[str, ...]  # of the provider's name for them, and of an identity number where there is one
    citizenship: str  # "" when the token says nothing of it
    assurance: str
    until: int  # when the token's word on the citizenship ends, Unix milliseconds; 0 without one
    roles: tuple[str, ...] | None  # None: this provider says nothing of roles
    tenant: str  # the name of the tenant they are placed in; "" for none


def read(provider: Provider, claims: Mapping[str, Any], key: bytes, now_ms: int) -> Seen:
    """Args: `key`: of the hashes, 32 bytes.

    Raises:
        PermissionDenied: the token makes somebody operator and auditor at once.
    """
    said = provider.claims
    subject = hashed(key, "subject", f"{provider.issuer}\0{claims['sub']}")
    number = _text(_first(claims, said.number))
    hashes = (subject, hashed(key, "number", _SPACING.sub("", number).upper())) if number else (subject,)
    citizenship = _country(provider, _text(_first(claims, said.citizenship)))
    ends = now_ms + provider.citizenship_days * DAY_MS
    until = _first(claims, said.until)
    if type(until) in {int, float} and 0 <= until <= ends / 1000:
        ends = int(until * 1000)
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
        hashes=hashes,
        citizenship=citizenship,
        assurance=provider.assurance.get(_text(claims.get("acr")), "low"),
        until=ends if citizenship else 0,
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


def _first(claims: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these claims that is there. A claim whose own name has dots goes before the path it would be."""
    for name in names:
        value: Any = claims
        for part in (name,) if name in claims else name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value not in (None, "", []):
            return value
    return None


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

"""Who is asking, as far as the request path needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from daulat.core.commitments import Salter

VOUCHED: Final = "operator"
"""The issuer of a citizenship that an operator vouched for; every other one is an OpenID issuer identifier."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """The coarse attributes a decision may see, and the only ones that an entry shows."""

    citizenship: str  # ISO 3166-1 alpha-2 of the vouched citizenship, "" when none is vouched
    assurance: str  # "low" | "substantial" | "high", the level the citizenship was vouched at
    roles: tuple[str, ...]  # sorted
    issuer: str = VOUCHED  # who says so of the citizenship
    until: int = 0  # when that ends to be known, Unix milliseconds; 0: with the person's own time

    def as_dict(self) -> dict[str, object]:
        """The `attributes` object of an inference entry."""
        return {
            "citizenship": self.citizenship,
            "assurance": self.assurance,
            "roles": list(self.roles),
            "issuer": self.issuer,
            "until": self.until,
        }


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated API key with its person and tenant. Built once per snapshot, never per request."""

    digest: bytes = field(repr=False)  # SHA-256 of the key
    key_id: str
    person_id: str
    tenant_id: str
    key: str  # pseudonyms, as entries carry them
    person: str
    tenant: str
    attributes: Attributes
    epoch_key: bytes = field(repr=False)  # this person's, under the tenant's current one: 32 bytes
    salter: Salter = field(repr=False, compare=False)  # over that key
    expires: int  # the earliest of key's, person's and citizenship's, Unix milliseconds
    models: frozenset[str]  # empty: every model that policy allows
    version: int  # changes whenever anything above does
    networks: tuple[IPv4Network | IPv6Network, ...] = ()  # where the key may be used from; empty: anywhere
    lapses: bool = False  # whether it is the citizenship that ends first
    opens_vault: bool = True  # False: another made the key for somebody who signs in

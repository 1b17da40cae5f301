"""Where people sign in: `signin.toml` of the home, read once into frozen values.

session_minutes = 30                           # how long a session lasts

[provider.mydigitalid]                         # its name: part of the address that it sends people back to
title = "MyDigital ID"
issuer = "https://id.example/realms/mydid"     # exactly as its tokens have it
client_id = "daulat"
secret_file = "keys/mydigitalid.secret"        # mode 0600; from the home. Leave it out for a public client
scopes = ["openid"]
provision = "invited"                          # or "mapped": whoever `tenants` places in a tenant is there as long
assurance = { "urn:example:acr:2" = "substantial" }   # `acr` of a token -> level; any other, or none: low
number_verified = true                         # it has checked whose the number is; without this, no number counts

[provider.mydigitalid.claims]                  # which claims say what; the first that is there counts
number = ["nric", "preferred_username"]        # an identity number: kept as a keyed hash, and proves no citizenship
citizenship = ["citizenship"]
until = ["citizenship_expires"]                # Unix seconds, or a day such as 2027-01-31
roles = ["realm_access.roles"]                 # a dot descends into objects
tenant = ["agency"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from daulat.catalog import tables
from daulat.core.charter import ASSURANCE

ROLES: Final = ("user", "tenant-admin", "auditor", "operator")
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
_RESERVED: Final = frozenset({"out", "ended"})
_COUNTRY: Final = re.compile(r"[A-Z]{2}\Z")


@dataclass(frozen=True, slots=True)
class Claims:
    """For each thing to know, the claims that may say it, best first; none: this provider says nothing of it."""

    number: tuple[str, ...] = ()
    citizenship: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Provider:
    """One OpenID provider, as the operator has written it down."""

    title: str
    issuer: str
    client_id: str
    secret_file: str = ""
    scopes: tuple[str, ...] = ("openid",)
    acr_values: tuple[str, ...] = ()  # levels to ask for, best first (OpenID Connect Core 1.0, section 3.1.2.1)
    provision: str = "invited"
    skew_seconds: int = 60  # how far its clock may be from ours, either way
    number_verified: bool = False  # whether it has checked whose the number is, and people cannot write it themselves
    citizenship_days: int = 30  # how long a token's word on a citizenship is good for, where it says no earlier end
    person_days: int = 365  # how long somebody who was taken in stays so after a sign-in
    claims: Claims = field(default_factory=Claims)
    assurance: Mapping[str, str] = field(default_factory=dict)  # acr -> low | substantial | high
    countries: Mapping[str, str] = field(default_factory=dict)  # what the claim says -> ISO 3166-1 alpha-2
    roles: Mapping[str, str] = field(default_factory=dict)  # what the claim says -> a role of ours
    tenants: Mapping[str, str] = field(default_factory=dict)  # what the claim says -> a tenant's name; "*": anybody's

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        plain = parts.scheme == "http" and parts.hostname in LOOPBACK
        if not (parts.scheme == "https" or plain) or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"issuer is {self.issuer!r}, expected an https address without '?' and '#'")
        if "openid" not in self.scopes:
            raise ValueError("scopes lack 'openid', without which there is no token about a person")
        if self.provision not in {"invited", "mapped"}:
            raise ValueError(f"provision is {self.provision!r}, expected 'invited' or 'mapped'")
        if self.provision == "mapped" and not self.tenants:
            raise ValueError("provision is 'mapped' and no tenants are")
        self._check_values()

    def _check_values(self) -> None:
        for name, low, high in (("skew_seconds", 0, 300), ("citizenship_days", 1, 3650), ("person_days", 1, 3650)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a whole number from {low} to {high}")
        for what, given, allowed in (("assurance", self.assurance, ASSURANCE), ("roles", self.roles, ROLES)):
            for value in given.values():
                if value not in allowed:
                    raise ValueError(f"{what} gives {value!r}, expected one of {', '.join(allowed)}")
        for country in self.countries.values():
            if not _COUNTRY.match(country):
                raise ValueError(f"countries gives {country!r}, expected an ISO 3166-1 alpha-2 code such as 'MY'")


@dataclass(frozen=True, slots=True)
class SignIn:
    """`signin.toml`: providers by name."""

    provider: Mapping[str, Provider]
    session_minutes: int = 30

    def __post_init__(self) -> None:
        if not 1 <= self.session_minutes <= 720:  # noqa: PLR2004  twelve hours
            raise ValueError(f"session_minutes is {self.session_minutes}, expected a whole number from 1 to 720")
        for name in self.provider:
            if not _NAME.match(name) or name in _RESERVED:
                raise ValueError(f"a provider is called {name!r}, expected lower-case letters, digits and '-'")
        issuers = [provider.issuer for provider in self.provider.values()]
        if not issuers or len(set(issuers)) != len(issuers):
            raise ValueError("expected one or more [provider.NAME] of different issuers")


def parse(text: str, *, location: str = "signin.toml") -> SignIn:
    """Read and check.

    Raises:
        ConfigError: TOML is malformed, a key is unknown or missing, or a value is not allowed; says which and what is.
    """
    return tables.read(SignIn, tables.parsed(text, location), location)

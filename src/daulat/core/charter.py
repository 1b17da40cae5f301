"""What an installation promises: `charter.toml`, read once into a frozen value.

The text itself stands in the log (`charter/v1`), so the audit reads the same bytes with the same function.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from daulat.core.entries import MAX_INLINE_TEXT
from daulat.core.principal import VOUCHED, Attributes
from daulat.errors import ConfigError

GRADES: Final = ("G1", "G2", "G3", "G4")
ASSURANCE: Final = ("low", "substantial", "high")
PROFILES: Final = ("evaluation", "production")
EXTERNAL: Final = ("none", "G1", "G3")  # least evidence about an engine that Daulat does not run
REVIEW_DAYS: Final = 7
_COUNTRY: Final = re.compile(r"[A-Z]{2}\Z")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\Z")
_ISSUER: Final = re.compile(r"(https://|http://(127\.0\.0\.1|localhost)[:/])[!-~]{1,200}\Z")  # no TLS on loopback alone
_T = TypeVar("_T")
_KINDS: Final[Mapping[type, str]] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


@dataclass(frozen=True, slots=True)
class Charter:
    """Field by field what `charter.toml` says; `context` is what policies see of it."""

    name: str  # the log's name; the origin of a shard is "<name>/<period>"
    profile: str
    approvals: int
    strict: bool  # refuse when the control plane has been silent for 10 s, instead of going on until leases end
    country: str  # ISO 3166-1 alpha-2: where answers may be computed and data stored
    site: str  # the operator's statement of where this machine stands
    operators: tuple[str, ...]  # citizenships that may manage
    users: tuple[str, ...]  # citizenships that may use
    assurance: str  # the least level at which a citizenship must be vouched
    formats: tuple[str, ...]
    licences: tuple[str, ...]  # SPDX identifiers
    signed: bool | None  # whether a model needs a checked signature; None in charters from before there was this key
    sandbox: str  # least grades a node needs for a lease
    canary: str
    lease_seconds: int
    margin_seconds: int  # between the longest possible answer and the promise's deadline
    issuers: tuple[str, ...] | None = None  # whose word on a citizenship counts; None: an operator's, before this key
    external: str | None = None  # of `EXTERNAL`; None, as "none", in charters from before there was this key
    floor: int | None = None  # approvals that no later charter may go below; None, as 0, in charters from before
    review_days: int | None = None  # for the review of what was done by breaking glass; None: `REVIEW_DAYS`

    def origin(self, period: str) -> str:
        return f"{self.name}/{period}"

    @property
    def review_ms(self) -> int:
        """How long a review of what was done by breaking glass may stay open."""
        return (REVIEW_DAYS if self.review_days is None else self.review_days) * 86_400_000

    def unserved(self, known: Attributes) -> str:
        """Why somebody of whom this is known is not among those it serves, or "": what the shipped rules ask of people,
        for what is no question to a model."""
        return {
            "": "",
            "citizenship": f"the charter serves citizens of {', '.join(self.users)}, and you are not vouched to be one",
            "issuer": "the charter does not count the word of whoever vouches for your citizenship",
            "assurance": f"the charter asks for a citizenship vouched at the level {self.assurance}, and yours is not",
        }[self._lacks(self.users, known.citizenship, known.assurance, known.issuer)]

    def unfit(self, citizenship: str, assurance: str, issuer: str) -> str:
        """Why somebody of whom `issuer` says this does not manage, in words, or ""."""
        return {
            "": "",
            "citizenship": f"the charter lets citizens of {', '.join(self.operators)} manage, and this person is none",
            "issuer": f"the charter does not count what {issuer[:200]} says of citizenships",
            "assurance": f"the charter asks for a citizenship vouched at {self.assurance}, and this one is not",
        }[self._lacks(self.operators, citizenship, assurance, issuer)]

    def _lacks(self, citizens: tuple[str, ...], citizenship: str, assurance: str, issuer: str) -> str:
        """Which attribute somebody lacks to be one of those `citizens`, or ""."""
        if citizenship not in citizens:
            return "citizenship"
        if self.issuers is not None and issuer not in self.issuers:
            return "issuer"
        if assurance not in ASSURANCE or ASSURANCE.index(assurance) < ASSURANCE.index(self.assurance):
            return "assurance"
        return ""

    def context(self) -> dict[str, object]:
        """The charter's share of every decision's Cedar context."""
        later: dict[str, object] = {} if self.signed is None else {"signed": self.signed}  # older rules do not know it
        if self.issuers is not None:
            later["issuers"] = sorted(self.issuers)
        if self.external is not None:
            later["external"] = _external(self.external)
        return {
            **later,
            "country": self.country,
            "users": sorted(self.users),
            "operators": sorted(self.operators),
            "assurance": ASSURANCE.index(self.assurance),
            "formats": sorted(self.formats),
            "licences": sorted(self.licences),
            "sandbox": GRADES.index(self.sandbox) + 1,
            "canary": GRADES.index(self.canary) + 1,
        }


def parse(text: str, *, location: str = "charter.toml") -> Charter:
    """Read and check a charter.

    Raises:
        ConfigError: TOML is malformed, a key is unknown or missing, or a value is not allowed; says which and what is.
    """
    if len(text) > MAX_INLINE_TEXT:
        raise ConfigError(f"is longer than the {MAX_INLINE_TEXT} characters that fit its log entry", location=location)
    try:
        top = _Table(tomllib.loads(text), location)
    except (ValueError, RecursionError) as error:  # a number of too many digits is no TOMLDecodeError
        raise ConfigError(f"not valid TOML: {error}", location=location) from None
    jurisdiction, people, models, nodes, log = (
        top.table(name) for name in ("jurisdiction", "people", "models", "nodes", "log")
    )
    charter = Charter(
        name=log.matching("name", _NAME, "lower-case letters, digits, '.' and '-', such as 'ai.agency.gov.my'"),
        profile=top.choice("profile", PROFILES),
        approvals=top.integer("approvals", 0, 16),
        strict=top.take("strict", bool),
        country=jurisdiction.matching("country", _COUNTRY, "an ISO 3166-1 alpha-2 code such as 'MY'"),
        site=jurisdiction.take("site", str),
        operators=people.countries("operators"),
        users=people.countries("users"),
        assurance=people.choice("assurance", ASSURANCE),
        formats=models.strings("formats"),
        licences=models.strings("licences"),
        signed=models.optional("signed", bool),
        sandbox=nodes.choice("sandbox", GRADES),
        canary=nodes.choice("canary", GRADES),
        lease_seconds=nodes.integer("lease_seconds", 30, 3600),
        margin_seconds=log.integer("margin_seconds", 2, 600),
        issuers=people.issuers("issuers"),
        external=nodes.optional_choice("external", EXTERNAL),
        floor=top.optional_integer("floor", 0, 16),
        review_days=people.optional_integer("review_days", 1, 90),
    )
    for table in (top, jurisdiction, people, models, nodes, log):
        table.finish()
    if charter.profile == "production" and charter.approvals < 1:
        raise ConfigError("profile 'production' needs approvals of at least 1", location=location)
    if charter.approvals < (charter.floor or 0):
        said = f"approvals = {charter.approvals} is below its own floor of {charter.floor}"
        raise ConfigError(said, location=location)
    return charter


def irreversible(old: Charter, new: Charter) -> str | None:
    """Why no consent brings `new` into force after `old`, in words, or None: production and the floor are for good."""
    if old.profile == "production" and new.profile != "production":
        return f"went back to {new.profile}, which production has left for good"
    floor = old.floor or 0
    if new.approvals < floor or (new.floor or 0) < floor:
        return f"asks for {new.approvals} approvals (floor {new.floor or 0}), and the floor is {floor} for good"
    return None


def _external(least: str) -> int:
    """The number of a grade; for "none" one beyond all grades."""
    return GRADES.index(least) + 1 if least in GRADES else len(GRADES) + 1


class _Table:
    """One TOML table, emptied key by key so that whatever remains is unknown."""

    def __init__(self, values: Mapping[str, Any], location: str) -> None:
        self._values, self._location, self._known = dict(values), location, list[str]()

    def take(self, key: str, kind: type[_T]) -> _T:
        self._known.append(key)
        if key not in self._values:
            raise ConfigError(f"key {key!r} is missing", location=self._location)
        value = self._values.pop(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(key, value, _KINDS[kind])
        return value

    def optional(self, key: str, kind: type[_T]) -> _T | None:
        """For keys that came later than the first charters, which stand in logs as they are."""
        if key not in self._values:
            self._known.append(key)
            return None
        return self.take(key, kind)

    def table(self, key: str) -> _Table:
        return _Table(self.take(key, dict), f"{self._location}, [{key}]")

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.take(key, str)
        if value not in allowed:
            raise self._wrong(key, value, "one of " + ", ".join(allowed))
        return value

    def optional_choice(self, key: str, allowed: tuple[str, ...]) -> str | None:
        if key not in self._values:
            return self.optional(key, str)
        return self.choice(key, allowed)

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        if key not in self._values:
            return self.optional(key, int)
        return self.integer(key, low, high)

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.take(key, int)
        if not low <= value <= high:
            raise self._wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def matching(self, key: str, pattern: re.Pattern[str], meaning: str) -> str:
        value = self.take(key, str)
        if not pattern.match(value):
            raise self._wrong(key, value, meaning)
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.take(key, list)
        if not value or not all(isinstance(item, str) and item for item in value):
            raise self._wrong(key, value, "a list of at least one string")
        return tuple(value)

    def countries(self, key: str) -> tuple[str, ...]:
        values = self.strings(key)
        for value in values:
            if not _COUNTRY.match(value):
                raise self._wrong(key, value, "ISO 3166-1 alpha-2 codes such as 'MY'")
        return values

    def issuers(self, key: str) -> tuple[str, ...] | None:
        if key not in self._values:
            self._known.append(key)
            return None
        values = self.strings(key)
        for value in values:
            if value != VOUCHED and not _ISSUER.match(value):
                raise self._wrong(key, value, f"{VOUCHED!r}, or OpenID issuers such as 'https://id.example/realms/x'")
        return values

    def finish(self) -> None:
        if self._values:
            raise ConfigError(
                f"unknown keys {sorted(self._values)}; known here are {sorted(self._known)}", location=self._location
            )

    def _wrong(self, key: str, value: object, expected: str) -> ConfigError:
        return ConfigError(f"{key} is {value!r}, expected {expected}", location=self._location)

"""What the admin API takes and gives of breaches, of the vault, of sessions and corrections, and of the ceremony."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from daulat.gateway.admin.types import Asked, Assurance, Country, Days, Given, Milliseconds, Name, Role

# Breaches of personal data, and their clocks.

Who = Literal["commissioner", "people"]


class NewBreach(Asked):
    """When you learned of it, and when it was. It may be narrowed to a tenant's, a key's or a replica's requests."""

    learned: Milliseconds
    begins: Milliseconds
    ends: Milliseconds
    tenant: Annotated[str, Meta(max_length=100)] = ""
    key: Annotated[str, Meta(max_length=100)] = ""
    replica: Annotated[str, Meta(max_length=100)] = ""


class Deadlines(Given):
    """Until when who must have been told."""

    commissioner: Milliseconds
    further_information: Milliseconds
    people: Milliseconds


class Breach(Given):
    """One breach, as the log tells of it. In `scope`, tenants and keys are pseudonyms; `told`: who was, and when."""

    id: str
    state: Literal["open", "closed"]
    learned: Milliseconds
    begins: Milliseconds
    ends: Milliseconds
    scope: dict[str, str]
    told: dict[Who, Milliseconds]
    deadlines: Deadlines
    overdue: list[Who]


class Told(Asked):
    """Somebody was told, then."""

    told: Who
    at: Milliseconds


class Notified(Given):
    """It stands in the log."""

    id: str
    told: Who
    at: Milliseconds


class Closed(Given):
    """Everybody who must be told was told."""

    id: str
    closed: bool


class Notice(Given):
    """The notice to the Commissioner, under the headings of its form, as far as a log can fill it."""

    breach: str
    data_controller: dict[str, str]
    breach_details: dict[str, Any]
    data_subjects: dict[str, Any]
    chronology_and_measures: list[dict[str, Any]]
    deadlines: Deadlines
    told: dict[Who, Milliseconds]
    evidence: dict[str, dict[str, Any]]


# The vault.


class PlaceLease(Given):
    """The place of its objects may be written to so long, by that entry of the log."""

    entry: int
    expires: Milliseconds


class VaultStatus(Given):
    """Whether anything can be kept, and why not."""

    open: bool
    reason: str
    lease: PlaceLease | None


class Rotation(Asked):
    """Whose key is to be a new one: a tenant's, or the root."""

    tenant: Annotated[str, Meta(max_length=100)] = ""


class Rotated(Given):
    """`root`: the version of the root key in use."""

    rotated: Literal["tenant", "root"]
    root: int


class Retention(Given):
    """How many days a tenant's files and stored completions are kept; null: until deleted."""

    tenant: str
    name: str
    pseudonym: str
    files: int | None
    completions: int | None


# People who sign in.


class NewInvitation(Asked):
    """For how long it is good."""

    days: Annotated[int, Meta(ge=1, le=30)] = 7


class Invitation(Given):
    """Whoever opens the address becomes that person. It is shown this once, and good once."""

    person: str
    address: str
    expires: Milliseconds


class Identity(Given):
    """Somebody has proven to be that person: what they proved it with is kept as a keyed hash, and is not shown."""

    id: str
    person: str


class Session(Given):
    """A session that is good."""

    id: str
    person: str
    issuer: str
    created: Milliseconds
    expires: Milliseconds


class SessionsEnded(Given):
    """How many are over."""

    revoked: int


class Correction(Asked):
    """What is put right about a person (PDPA 2010, section 34); what is left out stays."""

    name: Name | UnsetType = UNSET
    citizenship: Country | UnsetType = UNSET
    assurance: Assurance | UnsetType = UNSET
    roles: list[Role] | UnsetType = UNSET
    days: Days | UnsetType = UNSET


class Corrected(Given):
    """What was put right, and what they are called now."""

    id: str
    name: str
    changed: list[str]


# The key ceremony.


class Seat(Given):
    """One of the first operators, under their pseudonym's key."""

    vkey: str
    citizenship: str
    assurance: str
    expires: Milliseconds


class Ceremony(Given):
    """What the key ceremony established, as its entry in the log has it."""

    entry: int
    time: Milliseconds
    charter: int
    origin: str
    begun: Milliseconds
    sha256: str
    rules: str
    models: list[str]
    roster: str
    operators: list[Seat]
    signatures: list[Any]

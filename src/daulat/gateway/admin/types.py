"""What the admin API takes and gives. Typed once: requests are decoded with these, and OpenAPI's schemas made of them.

Requests refuse fields that they do not know. Of the control plane's rows an answer shows the fields named here and no
others. Times are Unix milliseconds, as in the log.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

T = TypeVar("T")
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Id = Annotated[str, Meta(min_length=1, max_length=100)]
Days = Annotated[int, Meta(ge=1, le=36_500)]
Milliseconds = Annotated[int, Meta(description="Unix time in milliseconds.")]
Country = Annotated[str, Meta(pattern="^([A-Z]{2})?$", description="ISO 3166-1 alpha-2; empty: none is vouched.")]
Assurance = Literal["low", "substantial", "high"]
Role = Literal["user", "tenant-admin"]
Vkey = Annotated[str, Meta(max_length=500, description="A public key as C2SP signed-note writes it.")]
Ed25519 = Annotated[str, Meta(max_length=100, description="An Ed25519 signature, 64 bytes in base64.")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Asked(Struct, kw_only=True, forbid_unknown_fields=True):
    """A request: what it does not know, it refuses."""


class Given(Struct, kw_only=True):
    """An answer."""


# Of lists.


class Paging(Asked):
    """Which part of a list: `limit` rows after the one with the id `after`, in the order in which they were made."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str = ""


class OfTenant(Paging):
    """People of one tenant."""

    tenant: str = ""


class OfPerson(Paging):
    """Keys of one person."""

    person: str = ""


class Lines(Asked):
    """How much of a replica's log, from its end."""

    lines: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Page(Given, Generic[T], kw_only=True):
    """A part of a list, as OpenAI's API has it. Where `has_more`, ask again with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


# Errors.


class ErrorFacts(Given):
    """`code` is for programs, `message` says what was wrong and what would be right."""

    message: str
    type: str
    param: str | None
    code: str


class Error(Given):
    """OpenAI's envelope."""

    error: ErrorFacts


# Who acts.


class Me(Given):
    """Whose credential this is, and what it may."""

    person: str
    name: str
    tenant: str
    role: Literal["operator", "tenant-admin"]
    expires: Milliseconds


# Tenants, people, keys, auditors.


class NewTenant(Asked):
    """An agency or company. It gets an epoch key of its own."""

    name: Name


class Tenant(Given):
    """An agency or company."""

    id: str
    name: str


class NewPerson(Asked):
    """A person, and what an operator vouches for. A tenant's own administrator vouches for nothing."""

    tenant: Id
    name: Name
    citizenship: Country = ""
    assurance: Assurance = "low"
    roles: tuple[Role, ...] = ("user",)
    days: Days = 365
    citizenship_days: Annotated[int, Meta(ge=0, le=36_500, description="0: as long as `days`.")] = 0


class PersonChange(Asked):
    """What an operator vouches for from now on; what is left out stays."""

    citizenship: Country | UnsetType = UNSET
    assurance: Assurance | UnsetType = UNSET
    roles: tuple[Role, ...] | UnsetType = UNSET
    days: Days | UnsetType = UNSET


class Person(Given):
    """A person. `issuer` says what they are; `version` grows with each change; it is the ETag's second half."""

    id: str
    tenant: str
    name: str
    citizenship: str
    assurance: str
    roles: list[str]
    expires: Milliseconds
    issuer: str
    until: Annotated[int, Meta(description="Until when the citizenship is good, Unix time in milliseconds.")]
    version: int


Amount = Annotated[int, Meta(ge=0, le=10**12)]


class Bounds(Asked):
    """Limits; 0 is none. What is left out stays. `weight` is of tenants alone; `budget` is money a month."""

    requests_per_minute: Amount | UnsetType = UNSET
    tokens_per_minute: Amount | UnsetType = UNSET
    requests_per_day: Amount | UnsetType = UNSET
    tokens_per_day: Amount | UnsetType = UNSET
    streams: Amount | UnsetType = UNSET
    budget: Annotated[str, Meta(pattern=r"^\d{1,7}(\.\d{1,2})?$")] | UnsetType = UNSET
    weight: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=-9, le=9)] | UnsetType = UNSET


Cidr = Annotated[str, Meta(max_length=50, description="A network, such as 192.0.2.0/24 or 2001:db8::/32.")]


class NewKey(Asked):
    """An API key for a person, within the person's own time.

    No `models`: all; 0 requests a minute: no limit; no `networks`: good from everywhere.
    """

    person: Id
    label: Name = "key"
    models: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    requests_per_minute: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    limits: Bounds | UnsetType = UNSET
    networks: Annotated[tuple[Cidr, ...], Meta(max_length=64)] = ()
    days: Days = 90


class Key(Given):
    """An API key, without its secret."""

    id: str
    person: str
    label: str
    models: list[str]
    requests_per_minute: int
    networks: list[str] | None
    created: Milliseconds
    expires: Milliseconds
    revoked: Milliseconds | None


class MadeKey(Key):
    """An API key with its secret, which is shown this once."""

    api_key: str


class NewAdminKey(Asked):
    """A credential for this API: for yourself, or from an operator for a tenant's administrator."""

    person: Id
    label: Name = "admin key"
    days: Annotated[int, Meta(ge=1, le=90)] = 30


class AdminKey(Given):
    """A credential for this API, without its secret."""

    id: str
    person: str
    label: str
    created: Milliseconds
    expires: Milliseconds
    revoked: Milliseconds | None


class MadeAdminKey(AdminKey):
    """A credential for this API with its secret, which is shown this once."""

    admin_key: str


class NewDirectory(Asked):
    """A tenant's own directory, which may say who its people are. Whose sign-ins know them is said at the machine."""

    tenant: Id
    label: Name = "directory"
    days: Annotated[int, Meta(ge=1, le=3_650)] = 365
    person_days: Annotated[int, Meta(ge=1, le=3_650, description="How long whoever it brings stays, at most.")] = 365


class Directory(Given):
    """A tenant's own directory, without its token."""

    id: str
    tenant: str
    label: str
    issuer: str
    person_days: int
    created: Milliseconds
    expires: Milliseconds
    revoked: Milliseconds | None


class MadeDirectory(Directory):
    """A directory with its token, which is shown this once."""

    directory_token: str


class NewAuditor(Asked):
    """Somebody who may read the whole log."""

    name: Name
    days: Days = 365


class Auditor(Given):
    """An auditor, without the token."""

    id: str
    name: str
    expires: Milliseconds
    revoked: Milliseconds | None


class MadeAuditor(Auditor):
    """An auditor with the token, which is shown this once."""

    auditor_token: str


# Consent.


class Operator(Given):
    """An operator and the key that they sign with."""

    name: str
    citizenship: str
    assurance: str
    expires: Milliseconds
    revoked: Milliseconds | None
    vkey: str


class Draft(Asked):
    """What somebody would propose."""

    action: Annotated[str, Meta(max_length=40)]
    arguments: dict[str, Any]
    days: Annotated[int, Meta(ge=1, le=31)] = 7


class Drafted(Given):
    """What its proposer signs, over the lines that `daulat.core.consent` describes. Nothing was changed by asking."""

    origin: str
    proposal: str
    action: str
    prior: str
    payload: str
    expires: Milliseconds


class Signed(Asked):
    """A draft as it came, with its proposer's signature."""

    origin: Annotated[str, Meta(max_length=200)]
    proposal: Annotated[str, Meta(max_length=60)]
    action: Annotated[str, Meta(max_length=40)]
    prior: Digest
    payload: str
    expires: Milliseconds
    vkey: Vkey
    signature: Ed25519


class Approval(Asked):
    """Your signature under another operator's proposal."""

    vkey: Vkey
    signature: Ed25519


class Listed(Given):
    """A proposal. `needed`: how many others have to approve it; `left`: how many more, of those who may sign now."""

    origin: str
    proposal: str
    action: str
    prior: str
    expires: Milliseconds
    state: Literal["open", "done", "over", "void"]
    proposed_by: str
    approved_by: list[str]
    needed: int
    left: int


class Proposal(Listed):
    """A proposal with its payload, the exact bytes of what would be done."""

    payload: str


# What one operator did alone, by breaking glass.

Cause = Literal["outage", "security", "data-loss", "legal", "safety"]
Verdict = Literal["justified", "not-justified"]


class GlassDraft(Asked):
    """What would be done at once, and why; the others have to review it."""

    action: Annotated[str, Meta(max_length=40)]
    arguments: dict[str, Any]
    cause: Cause
    words: Annotated[str, Meta(min_length=1, max_length=2000)]
    hours: Annotated[int, Meta(ge=1, le=24)] = 4


class GlassDrafted(Drafted):
    """What whoever breaks the glass signs, over the lines that `daulat.core.glass` describes."""

    cause: Cause
    words: str
    nonce: str


class GlassSigned(Signed):
    """A draft as it came, with the signature of whoever breaks the glass."""

    cause: Cause
    words: str
    nonce: Annotated[str, Meta(max_length=100)]


class GlassReview(Asked):
    """What you think of it, signed."""

    verdict: Verdict
    vkey: Vkey
    signature: Ed25519


class Reviewed(Given):
    """One operator's word on it."""

    by: str
    verdict: Verdict


class GlassListed(Given):
    """What was done by breaking glass. `untold`: who could not be told of it yet; `due`: until when it is reviewed."""

    origin: str
    proposal: str
    action: str
    prior: str
    expires: Milliseconds
    cause: Cause
    words: str
    untold: list[str]
    by: str
    done: bool
    state: Literal["open", "overdue", "closed"]
    due: Milliseconds
    reviews: list[Reviewed]


class Glass(GlassListed):
    """The same with its payload, and the nonce that its reason's digest was made with."""

    payload: str
    nonce: str

"""What the admin API takes and gives of limits, of use, and of what runs (`types` has the rest)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from daulat.gateway.admin.types import Asked, Given, Name

# Limits and use.


class Limit(Given, kw_only=True):
    """What a key, a tenant or a model may use. `used`: how much of each is spent, or lent to a worker, now."""

    scope: Literal["key", "tenant", "model"]
    id: str
    name: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    streams: int | None = None
    budget: str | None = None
    weight: int | None = None
    priority: int | None = None
    used: dict[str, int | str]


class Removed(Given):
    """There is no such limit any more."""

    scope: str
    name: str
    removed: bool


Day = Annotated[str, Meta(pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="A day, UTC; empty: no bound.")]


class Between(Asked):
    """Days: from `since` on, up to before `until`."""

    since: Day = ""
    until: Day = ""


class By(Between):
    """`by`: some of day, tenant, key and model, with commas between them."""

    by: Annotated[str, Meta(max_length=40)] = "tenant"


class Use(Given, kw_only=True):
    """A sum. Tenants and keys are pseudonyms, as in the log, with their names beside them."""

    day: str | None = None
    tenant: str | None = None
    tenant_name: str | None = None
    key: str | None = None
    key_name: str | None = None
    model: str | None = None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: str
    currency: str


class Uses(Given, kw_only=True):
    """Sums, counted from the log up to now."""

    object: Literal["list"] = "list"
    data: list[Use]


class Rebuilt(Given):
    """How many entries of the log were counted again."""

    entries: int


class Price(Given, kw_only=True):
    """What a model's tokens cost from a day (UTC) on, in 10^-12 of the currency each. `model` empty: all others."""

    model: str
    since: str
    prompt: int
    cached: int
    completion: int


class PriceTable(Given):
    """As `prices.toml` had it at the start."""

    currency: str
    prices: list[Price]


class Focus(Given, kw_only=True):
    """Rows of a FOCUS dataset (FinOps Open Cost and Usage Specification), by its columns."""

    object: Literal["list"] = "list"
    data: list[dict[str, str | None]]


# What runs.


class Wish(Asked):
    """Have a model served so: by its name, or the beginning of its digest. What is left out stays as it is."""

    model: Name
    engine: Annotated[str, Meta(max_length=40)] | UnsetType = UNSET
    devices: Annotated[list[Annotated[str, Meta(max_length=20)]], Meta(max_length=1024)] | UnsetType = UNSET
    slots: int | UnsetType = UNSET
    context: int | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    replicas: int | UnsetType = UNSET
    drain_seconds: int | UnsetType = UNSET
    strategy: Literal["rolling", "recreate"] | UnsetType = UNSET


class Spec(Given):
    """What is wished for. `model` is the SHA-256 digest of an imported one. Of `options`, secrets are left out."""

    model: str
    engine: str
    devices: list[str]
    slots: int
    context: int
    options: dict[str, Any]
    replicas: int
    drain_seconds: int
    strategy: str


class Condition(Given):
    """One thing that is, or is not, so."""

    type: str
    status: str
    reason: str
    message: str


class DeploymentStatus(Given):
    """How far what is wished for is so."""

    observed_generation: int
    revision: int
    replicas: int
    ready_replicas: int
    conditions: list[Condition]


class Deployment(Given):
    """A wish for replicas of a model. `admitted`: where in the log the model was. `generation` grows with each wish."""

    id: str
    name: str
    model: str | None
    admitted: int | None
    generation: int
    spec: Spec
    status: DeploymentStatus


class Stopped(Given):
    """It is wished for no longer; its replicas end what they have."""

    name: str
    stopped: bool


class Replica(Given):
    """One running engine. `entry`: where in the log its start is; null while nothing is routed to it."""

    id: str
    deployment: str
    revision: int
    phase: str
    requests: float
    slots: int | None
    threads: int
    memory_mib: int
    devices: list[str]
    entry: int | None
    ends: int
    last: str
    seconds: float


class Draining(Given):
    """The replica goes once its successor answers."""

    id: str
    deployment: str
    draining: bool


class ReplicaLog(Given):
    """The end of a replica's log."""

    lines: list[str]


class Lease(Given):
    """This node may serve for so long, by that entry of the log."""

    entry: int
    node: str
    seconds_left: int


class LogFacts(Given):
    """Where the log stands."""

    origin: str
    size: int
    vkey: str
    seconds_since_tick: float


class Process(Given):
    """One process of the service."""

    name: str
    starts: int
    ready: bool


class Status(Given):
    """What runs, under which lease. `waiting`: what stands in the home and nobody has agreed to.

    `warnings`: what will not be well unless somebody does something, in words: operators' time ends.
    `ceremony`: where in the log the key ceremony is; null where there was none.
    """

    url: str
    origin: str
    profile: str
    ceremony: int | None
    snapshot: int
    lease: Lease | None
    waiting: list[str]
    warnings: list[str]
    not_serving_because: list[str]
    log: LogFacts
    processes: list[Process]

"""What the control plane publishes and every worker holds: one immutable, numbered picture of what may happen now.

Written as JSON (mode 0600, replaced atomically); its modification time is the control plane's heartbeat. A lease,
policy, model or replica stands here only after a durable checkpoint covers its entry, so each `index` is a log index
in `origin`. What was revoked is simply absent. Who may ask, the roll, is large and changes seldom; what may answer is
small and changes with every lease: so the roll is a part of its own, the same object from snapshot to snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daulat.core.principal import Attributes
from daulat.core.quota import Limit, Price

HEARTBEAT_SECONDS = 1.0  # how often the control plane touches the file
POLL_SECONDS = 0.1  # how often a worker looks at it
STRICT_SECONDS = 10.0  # under a strict charter, silence beyond this refuses


@dataclass(frozen=True, slots=True)
class CharterRef:
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class PolicyRef:
    index: int
    version: str  # SHA-256 over the files
    rules: str  # Cedar policies
    schema: str  # Cedar schema


@dataclass(frozen=True, slots=True)
class TenantRow:
    id: str
    epoch_key: str = field(repr=False)  # base64 of 32 bytes
    pseudonym: str


@dataclass(frozen=True, slots=True)
class PersonRow:
    id: str
    tenant: str
    pseudonym: str
    attributes: Attributes
    expires: int  # Unix milliseconds
    version: int


@dataclass(frozen=True, slots=True)
class KeyRow:
    id: str
    digest: str  # hex SHA-256 of the secret
    person: str
    pseudonym: str
    expires: int
    models: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()  # CIDR (RFC 4632, RFC 4291); empty: anywhere
    opens_vault: bool = True  # False: another made it for somebody who signs in


@dataclass(frozen=True, slots=True)
class AuditorRow:
    id: str
    digest: str
    expires: int


@dataclass(frozen=True, slots=True)
class ModelRow:
    name: str  # what clients call it; during a rollout to other weights it has two rows, the newer one last
    index: int  # of model.admitted/v1
    entry: str  # that entry, as it stands in the log
    created: int  # Unix seconds, for GET /v1/models
    embeds: bool
    context_length: int


@dataclass(frozen=True, slots=True)
class LeaseRow:
    index: int
    entry: str
    node: str
    jurisdiction: str
    expires: int  # wall clock, Unix milliseconds
    expires_boottime: float  # CLOCK_BOOTTIME seconds on this host: the earlier of the two counts


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    index: int  # of replica.started/v1
    id: str
    model: str  # a ModelRow's name
    node: str
    address: str  # "unix:/path", "tcp:host:port", ... (engines.address)
    dialect: str  # "llama.cpp" | "vllm" | "openai" (engines.port)
    slots: int
    admitted: int | None = None  # the index of its ModelRow; None: of the newest one of that name
    draining: bool = False  # takes no new requests; what runs on it goes on
    served: str = ""  # what a server outside Daulat calls the model, where that is another name
    key_file: str = ""  # where its API key stands, for a server that wants one


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the wire. Sizes in bytes, times in seconds."""

    header_bytes: int = 32_768
    body_bytes: int = 8_388_608
    json_depth: int = 64
    connections: int = 4096
    streams: int = 1024  # concurrent requests in one worker
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0  # keep-alive
    write_seconds: float = 60.0  # a client that takes nothing for this long is cut
    engine_seconds: float = 120.0  # to a stream's first byte; an answer in one piece has none before its end
    request_seconds: float = 600.0  # a whole answer


@dataclass(frozen=True, slots=True)
class Roll:
    """Everyone who may ask, or read the log."""

    number: int = 0  # of the snapshot that it came with first
    tenants: tuple[TenantRow, ...] = ()
    people: tuple[PersonRow, ...] = ()
    keys: tuple[KeyRow, ...] = ()
    auditors: tuple[AuditorRow, ...] = ()
    quotas: tuple[Limit, ...] = ()
    prices: tuple[Price, ...] = ()
    currency: str = "MYR"


@dataclass(frozen=True, slots=True)
class Snapshot:
    number: int
    origin: str
    charter: CharterRef
    policy: PolicyRef
    limits: Limits = field(default_factory=Limits)
    roll: Roll = field(default_factory=Roll)
    models: tuple[ModelRow, ...] = ()
    leases: tuple[LeaseRow, ...] = ()
    replicas: tuple[ReplicaRow, ...] = ()
    refusals: tuple[str, ...] = ()  # why something may not serve now, in words, for 503 messages

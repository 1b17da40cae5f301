"""A small country for tests of the request path: one snapshot with the shipped rules, and a clock that stands still."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from dataclasses import replace
from typing import Any

from daulat.catalog import charters
from daulat.core.commitments import personal
from daulat.core.principal import Attributes
from daulat.core.snapshot import (
    CharterRef,
    KeyRow,
    LeaseRow,
    Limits,
    ModelRow,
    PersonRow,
    PolicyRef,
    ReplicaRow,
    Roll,
    Snapshot,
    TenantRow,
)
from daulat.identity.directory import Directory
from daulat.pipeline.world import World
from daulat.policy import bundle
from daulat.policy.cache import CachedDecider
from daulat.policy.cedar import CedarDecider

NOW = 1_795_000_000_000
EPOCH_KEY = bytes(range(32))
PERSON_KEY = personal(EPOCH_KEY, "person_1")  # of who holds `SECRET`
SECRET = "sk-" + "a" * 43
OTHER_SECRET = "sk-" + "b" * 43
FOREIGN_SECRET = "sk-" + "c" * 43
MODEL = "small"
EMBEDDER = "embedder"
WORKER = 7  # the log index of the worker's key


class StillClock:
    """`core.clock.Clock`, moved by hand."""

    def __init__(self, now_ms: int = NOW, boot: float = 1000.0) -> None:
        self.now, self.boot = now_ms, boot

    def now_ms(self) -> int:
        return self.now

    def boottime(self) -> float:
        return self.boot

    def pass_seconds(self, seconds: float) -> None:
        self.now += round(seconds * 1000)
        self.boot += seconds


def _model(name: str, index: int, *, embeds: bool = False) -> ModelRow:
    entry = {
        "type": "model.admitted/v1",
        "model": name,
        "digest": "0" * 64,
        "format": "gguf",
        "licence": "apache-2.0",
        "origin": "tests",
        "signed_by": None,
    }
    return ModelRow(name, index, json.dumps(entry), 1_700_000_000, embeds, 4096)


def lease(index: int = 5, node: str = "node_1", *, seconds: float = 300.0, jurisdiction: str = "MY") -> LeaseRow:
    evidence = {kind: {"grade": "G2"} for kind in ("sandbox", "canary", "inventory", "site")}
    entry = {"type": "node.lease/v1", "jurisdiction": jurisdiction, "evidence": evidence}
    return LeaseRow(index, json.dumps(entry), node, jurisdiction, NOW + round(seconds * 1000), 1000.0 + seconds)


def replica(number: int, *, model: str = MODEL, node: str = "node_1", address: str = "", slots: int = 4) -> ReplicaRow:
    return ReplicaRow(10 + number, f"replica_{number}", model, node, address or f"unix:/test/{number}", "openai", slots)


def person(number: int = 1, *, citizenship: str = "MY", expires: int = NOW + 86_400_000) -> PersonRow:
    attributes = Attributes(citizenship, "substantial", ("user",))
    return PersonRow(f"person_{number}", "tenant_1", f"who{number}", attributes, expires, 1)


def key(
    number: int = 1,
    secret: str = SECRET,
    *,
    expires: int = NOW + 86_400_000,
    models: tuple[str, ...] = (),
) -> KeyRow:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return KeyRow(f"key_{number}", digest, f"person_{number}", f"which{number}", expires, models)


def roll(**changes: Any) -> Roll:
    """Two keys of nationals and one of a foreigner; `changes` replace fields."""
    made = Roll(
        tenants=(TenantRow("tenant_1", base64.b64encode(EPOCH_KEY).decode(), "house"),),
        people=(person(1), person(2), person(3, citizenship="SG")),
        keys=(key(1), key(2, OTHER_SECRET), key(3, FOREIGN_SECRET)),
    )
    return replace(made, **changes)


def snapshot(*, strict: bool = False, **changes: Any) -> Snapshot:
    """The people of `roll`, two models, a replica under a lease; `changes` replace fields, also those of the roll."""
    shipped = bundle.load()
    charter = charters.starter("test.daulat.example")
    if strict:
        charter = charter.replace("strict = false", "strict = true ")
    made = Snapshot(
        number=1,
        origin="test.daulat.example/2026",
        charter=CharterRef(1, charter),
        policy=PolicyRef(2, shipped.version, shipped.rules, shipped.schema),
        limits=Limits(),
        roll=roll(),
        models=(_model(MODEL, 3), _model(EMBEDDER, 4, embeds=True)),
        leases=(lease(),),
        replicas=(replica(1), replica(9, model=EMBEDDER)),
    )
    people = {name: changes.pop(name) for name in ("tenants", "people", "keys", "quotas", "prices") if name in changes}
    return replace(made, **{"roll": roll(**people), **changes})


@functools.cache
def _cedar() -> CedarDecider:
    shipped = bundle.load()
    return CedarDecider(shipped.rules, shipped.schema)


def world(clock: StillClock, taken: Snapshot | None = None, **changes: Any) -> World:
    """A world over `snapshot(**changes)`, decided by the shipped rules in Cedar."""
    taken = taken or snapshot(**changes)
    return World(taken, Directory(taken.roll), CachedDecider(_cedar()), clock, WORKER)

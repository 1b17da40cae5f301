"""Small complete logs for tests: lawful as they stand, and able to lie in exactly the way a test asks for.

`STORY` is a log in which everything happens once: charter, keys, policy, an operator's action, a model, canaries,
leases, a replica, answers, a denial, a refusal, a failure, the end. Entries have names; `Ref` is the index of a named
entry. `write(changes)` writes it, with fields of named entries replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

from daulat.audit.walk import Terms
from daulat.core import commitments, entries
from daulat.core.promise import Promise, signed_text
from daulat.errors import NotFound
from daulat.ledger import receipts
from daulat.ledger.edge import RightEdge
from daulat.policy.cedar import CedarDecider
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog import merkle
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Signer, Verifier

NAME = "ai.example"
ORIGIN = f"{NAME}/2026"
SIGNER = Signer(ORIGIN, bytes(range(32)))
WORKER = Signer(f"{NAME}/worker", bytes(range(32, 64)))
STRANGER = Signer(f"{NAME}/worker", bytes(range(64, 96)))
VERIFIER = Verifier(SIGNER.vkey)
EPOCH_KEY = bytes(range(96, 128))
T0 = 1_750_000_000_000  # June 2025: in the past wherever the tests run
DAY = 86_400_000
REQUEST = b'{"model":"tiny","messages":[{"role":"user","content":"Capital of Malaysia?"}]}'
RESPONSE = b'{"choices":[{"message":{"role":"assistant","content":"Kuala Lumpur"}}]}'


@dataclass(frozen=True)
class Ref:
    """The log index of a named entry."""

    name: str


@dataclass(frozen=True)
class Step:
    """One entry to be written; fields as `entries.encode` takes them, or raw bytes."""

    name: str
    type: str
    fields: Mapping[str, Any] | bytes


def charter_text(
    *, approvals: int = 0, profile: str = "evaluation", country: str = "MY", name: str = NAME, issuers: str = ""
) -> str:
    """A charter from before `people.issuers`, where none are given as a TOML list."""
    named = f"\nissuers = {issuers}" if issuers else ""
    floor = "" if profile == "evaluation" else "floor = 1\n"
    return f"""profile = "{profile}"
approvals = {approvals}
{floor}strict = false
[jurisdiction]
country = "{country}"
site = "a test"
[people]
operators = ["MY"]
users = ["MY"]
assurance = "substantial"{named}
[models]
formats = ["gguf"]
licences = ["mit"]
[nodes]
sandbox = "G2"
canary = "G2"
lease_seconds = 300
[log]
name = "{name}"
margin_seconds = 30
"""


def charter(**given: Any) -> dict[str, Any]:
    """The fields of a `charter/v1` that say what its text says."""
    text = charter_text(**given)
    return {
        "profile": given.get("profile", "evaluation"),
        "jurisdiction": given.get("country", "MY"),
        "approvals": given.get("approvals", 0),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "text": text,
    }


def rules() -> list[dict[str, str]]:
    """The shipped rules, as the files of a `policy/v1`."""
    found = sorted(resources.files("daulat.policy").joinpath("rules").iterdir(), key=lambda item: item.name)
    return [policy_file(item.name, item.read_text()) for item in found]


def policy_file(name: str, text: str) -> dict[str, str]:
    return {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}


def counters(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "cached_prompt_tokens": 0, "completion_tokens": completion}


def request_id(number: int) -> str:
    return f"req_{number:032x}"


def inference(number: int, at: int, took: int = 400, **changes: Any) -> dict[str, Any]:
    """A lawful request with sequence number `number`, admitted at T0 + `at`; `changes` as in `changed`."""
    id_ = request_id(number)
    seal = {
        kind: commitments.commit(commitments.salt(EPOCH_KEY, id_, kind), kind, body)
        for kind, body in (("request", REQUEST), ("response", RESPONSE))
    }
    admission = {
        "request_id": id_,
        "time": T0 + at,
        "action": "chat.completions",
        "tenant": "tttttttttttttttttttttt",
        "principal": "pppppppppppppppppppppp",
        "key": "kkkkkkkkkkkkkkkkkkkkkk",
        "attributes": {"citizenship": "MY", "assurance": "substantial", "roles": ["user"]},
        "effect": "allow",
        "policies": ["use.permit"],
        "snapshot": 3,
        "policy": Ref("policy"),
        "model": Ref("model"),
        "replica": Ref("started"),
        "lease": Ref("lease"),
        "worker": Ref("worker"),
        "sequence": number,
        "requested_model": "tiny",
        "stream": False,
        "request": seal["request"],
    }
    completion = {
        "time": T0 + at + took,
        "outcome": "ok",
        "status": 200,
        "error": None,
        "attempts": [{"replica": Ref("started"), "lease": Ref("lease"), "outcome": "ok"}],
        "usage": {"prompt_tokens": 10, "cached_tokens": 2, "completion_tokens": 5},
        "overhead": 0,
        "response": seal["response"],
    }
    return changed({"admission": admission, "completion": completion}, changes)


UNSERVED: dict[str, Any] = {
    "completion.outcome": "denied",
    "completion.attempts": [],
    "completion.usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0},
}
REFUSED = {
    **UNSERVED,
    "admission.effect": "deny",
    "admission.attributes.citizenship": "XX",
    "admission.policies": ["use.citizenship"],
    "completion.status": 403,
    "completion.error": "permission_denied",
}
LIMITED = {
    **UNSERVED,
    "admission.effect": "deny",
    "admission.policies": ["gateway.rate"],
    "admission.replica": None,
    "admission.lease": None,
    "completion.status": 429,
    "completion.error": "rate_limit_exceeded",
}
UNDER_RENEWED = {
    "admission.lease": Ref("renewed"),
    "completion.attempts": [{"replica": Ref("started"), "lease": Ref("renewed"), "outcome": "ok"}],
}
FAILED = {
    **UNDER_RENEWED,
    "completion.outcome": "failed",
    "completion.status": 502,
    "completion.error": "engine_dead",
    "completion.attempts": [{"replica": Ref("started"), "lease": Ref("renewed"), "outcome": "failed"}],
    "completion.usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0},
}


def lease(at: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "time": T0 + at,
        "charter": Ref("charter"),
        "policy": Ref("policy"),
        "node": "node-1",
        "jurisdiction": "MY",
        "not_before": T0 + at,
        "expires": T0 + at + 300_000,
        "evidence": {kind: {"grade": grade} for kind, grade in
                     (("sandbox", "G2"), ("canary", "G2"), ("inventory", "G1"), ("site", "G1"))},
        "canary": Ref("probe"),
        "decision": {"effect": "allow", "policies": ["place.permit"], "attributes": {}},
        "replaces": None,
    }  # fmt: skip
    return changed(fields, changes)


def probe(at: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "time": T0 + at,
        "node": "node-1",
        "replica": "replica-1",
        "started": None,
        "nonce": "00" * 16,
        "outcome": "contained",
        "probes": [],
        "counters": counters(0, 0),
    }
    return changed(fields, changes)


def started(at: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "time": T0 + at,
        "replica": "replica-1",
        "node": "node-1",
        "lease": Ref("lease"),
        "model": Ref("model"),
        "engine": {"name": "stub", "version": "1", "parameters": {"slots": 2, "context": 1000}},
        "device": {"kind": "cpu", "product": "stub", "count": 1},
        "sandbox": {"grade": "G2"},
        "counters": counters(0, 0),
    }
    return changed(fields, changes)


def stopped(at: int, **changes: Any) -> dict[str, Any]:
    fields = {"time": T0 + at, "replica": "replica-1", "started": Ref("started"), "reason": "the service ended"}
    return changed({**fields, "counters": counters(32, 14), "exact": True}, changes)


def model(at: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "time": T0 + at,
        "charter": Ref("charter"),
        "policy": Ref("policy"),
        "model": "tiny",
        "digest": "d" * 64,
        "format": "gguf",
        "licence": "mit",
        "origin": "tests",
        "signed_by": None,
        "derived_from": None,
        "files": [],
        "templates": [],
        "decision": {
            "effect": "allow",
            "policies": ["models.permit"],
            "attributes": {"operator": "oooooooooooooooooooooo", "citizenship": "MY"},
        },
        "restates": None,
    }
    return changed(fields, changes)


def policy(at: int, **changes: Any) -> dict[str, Any]:
    fields = {"time": T0 + at, "charter": Ref("charter"), "previous": None, "version": "1", "files": rules()}
    return changed({**fields, "restates": None}, changes)


def key(at: int, purpose: str, vkey: str, **changes: Any) -> dict[str, Any]:
    fields = {"time": T0 + at, "charter": Ref("charter"), "purpose": purpose, "name": vkey.partition("+")[0]}
    return changed({**fields, "vkey": vkey, "not_after": None, "replaces": None, "signatures": []}, changes)


def action(at: int, **changes: Any) -> dict[str, Any]:
    fields = {"time": T0 + at, "charter": Ref("charter"), "operator": "o" * 22, "action": "key.create"}
    return changed({**fields, "subject": "k" * 22, "detail": {}, "approvals": []}, changes)


DEPLOYED = {"action": "deployment.apply", "subject": "d" * 64, "detail": {"deployment": "tiny"}}


def happened(at: int, **changes: Any) -> dict[str, Any]:
    fields = {"time": T0 + at, "charter": Ref("charter"), "tenant": "t" * 22, "person": "p" * 22, "event": "signed-in"}
    return changed({**fields, "issuer": "https://id.example", "detail": {}}, changes)


def story() -> list[Step]:
    """A lawful log, in which everything happens at least once."""
    opening = {"time": T0, "origin": ORIGIN, "previous": None, **charter(), "restates": None}
    counted = {"from": T0 + 6000, "to": T0 + 7000, "counts": {"invalid_api_key": 3}, "principals": {}}
    return [
        Step("charter", "charter/v1", opening),
        Step("log-key", "key/v1", key(10, "log", SIGNER.vkey)),
        Step("policy", "policy/v1", policy(20)),
        Step("worker", "key/v1", key(30, "worker", WORKER.vkey)),
        Step("action", "operator.action/v1", action(40, **DEPLOYED)),
        Step("model", "model.admitted/v1", model(50)),
        Step("probe", "canary/v1", probe(60)),
        Step("lease", "node.lease/v1", lease(70)),
        Step("started", "replica.started/v1", started(80)),
        Step("answer", entries.INFERENCE, inference(1, 1000)),
        Step("denied", entries.INFERENCE, inference(3, 2000, 1, **REFUSED)),
        Step("stream", entries.INFERENCE, inference(2, 1500, 900, **{"admission.stream": True})),
        Step("limited", entries.INFERENCE, inference(4, 3000, 1, **LIMITED)),
        Step("refusals", "refusals/v1", {"time": T0 + 7000, "worker": Ref("worker"), **counted}),
        Step("canary", "canary/v1", probe(9000, started=Ref("started"), counters=counters(16, 10))),
        Step("renewed", "node.lease/v1", lease(9100, canary=Ref("canary"), replaces=Ref("lease"))),
        Step("answer-2", entries.INFERENCE, inference(5, 10_000, **UNDER_RENEWED)),
        Step("canary-2", "canary/v1", probe(11_000, started=Ref("started"), counters=counters(24, 14))),
        Step("failed", entries.INFERENCE, inference(6, 12_000, **FAILED)),
        Step("stopped", "replica.stopped/v1", stopped(13_000)),
    ]


def changed(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with fields replaced; `a.b` descends."""
    copied = dict(fields)
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        if rest:
            copied[head] = changed(copied[head], {rest: value})
        elif head not in copied:
            raise KeyError(path)
        else:
            copied[head] = value
    return copied


def after(steps: Sequence[Step], name: str, *new: Step) -> list[Step]:
    """The steps, with new ones behind the named one."""
    at = [step.name for step in steps].index(name) + 1
    return [*steps[:at], *new, *steps[at:]]


def without(steps: Sequence[Step], *names: str) -> list[Step]:
    return [step for step in steps if step.name not in names]


@dataclass
class Published:
    """A log as an auditor sees it (`audit.log.LogSource`, `tlog.tiles.TileSource`): files that a test may change."""

    files: dict[str, bytes]
    signed: bytes
    entries: list[bytes]
    names: dict[str, int]
    blobs: dict[str, bytes] = field(default_factory=dict)

    def checkpoint(self) -> bytes:
        return self.signed

    def read(self, path: str) -> bytes:
        if path not in self.files:
            raise NotFound(f"{path} does not exist")
        return self.files[path]

    def stream(self, paths: Iterable[str]) -> Iterator[bytes]:
        return map(self.read, paths)

    def blob(self, digest: str) -> bytes:
        if digest not in self.blobs:
            raise NotFound(f"no blob {digest}")
        return self.blobs[digest]

    def receipt(self, name: str) -> dict[str, Any]:
        index = self.names[name]
        head = checkpoints.parse(self.signed.partition(b"\n\n")[0] + b"\n")
        id_ = entries.decode(self.entries[index])["admission"]["request_id"]
        kinds: tuple[commitments.Kind, ...] = ("request", "response")
        salts = {kind: commitments.salt(EPOCH_KEY, id_, kind) for kind in kinds}
        gathered = receipts.gather(self, head.size, index)
        return receipts.build(self, head, self.signed, SIGNER.vkey, index, gathered, salts)

    def promise(
        self, *names: str, of: str, signer: Signer = WORKER, deadline: int = T0 + 700_000, **other: Any
    ) -> Promise:
        """The promise for entry `of`, in one group commit with the entries `names`."""
        wanted = [*names, of]
        members = [self._member(name) for name in wanted]
        leaves = [merkle.leaf_hash(_leaf(*member)) for member in members]
        root, path = merkle.root(leaves), merkle.inclusion_path(len(leaves) - 1, leaves)
        id_, admission = members[-1]
        made = Promise(id_, ORIGIN, self.names["worker"], 7, len(members), len(members) - 1, admission, path, root,
                       T0 + 700_000, b"")  # fmt: skip
        made = replace(made, **other)
        text = signed_text(made.origin, made.worker, made.batch, made.size, made.root, made.deadline)
        return replace(made, signature=signer.sign_bytes(text))

    def _member(self, name: str) -> tuple[str, bytes]:
        entry = self.entries[self.names[name]]
        return json.loads(entry)["admission"]["request_id"], merkle.leaf_hash(entries.admission_bytes(entry))


def _leaf(id_: str, admission: bytes) -> bytes:
    return b"daulat/promise-leaf/v1\n" + id_.encode() + b"\n" + admission


def encode(step: Step, names: Mapping[str, int]) -> bytes:
    """One entry's bytes, its references resolved."""
    if isinstance(step.fields, bytes):
        return step.fields
    fields = _resolved(step.fields, names)
    if step.type != entries.INFERENCE:
        return entries.encode(step.type, fields)
    return entries.join_inference(_json(fields["admission"]), _json(fields["completion"]))


def write(
    changes: Mapping[str, Mapping[str, Any] | bytes] | None = None,
    steps: Sequence[Step] | None = None,
    *,
    signer: Signer = SIGNER,
) -> Published:
    """Publish the steps (by default `story()`), with fields of named entries changed, or their bytes replaced."""
    found = []
    for step in story() if steps is None else steps:
        change = (changes or {}).get(step.name, {})
        if isinstance(change, bytes) or isinstance(step.fields, bytes):
            found.append(replace(step, fields=change or step.fields))
        else:
            found.append(replace(step, fields=changed(step.fields, change)))
    missing = set(changes or {}) - {step.name for step in found}
    if missing:
        raise KeyError(str(missing))
    names = {step.name: index for index, step in enumerate(found)}
    return publish([encode(step, names) for step in found], names, signer=signer)


def publish(data: Sequence[bytes], names: Mapping[str, int] | None = None, *, signer: Signer = SIGNER) -> Published:
    """Entries as a log: bundles, tiles and a signed checkpoint, written by the sequencer's own edge."""
    edge = RightEdge(0, Published({}, b"", [], {}))
    files = dict(edge.extend(data))
    signed = checkpoints.sign(Checkpoint(signer.name, edge.size, edge.root()), [signer])
    return Published(files, signed, list(data), dict(names or {}))


def terms(**given: Any) -> Terms:
    """A day later, decisions run again with the real rules."""
    return replace(Terms(now=T0 + DAY, decider=CedarDecider), **given)


def _resolved(value: Any, names: Mapping[str, int]) -> Any:
    if isinstance(value, Ref):
        return names[value.name]
    if isinstance(value, dict):
        return {key: _resolved(item, names) for key, item in value.items()}
    return [_resolved(item, names) for item in value] if isinstance(value, list) else value


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

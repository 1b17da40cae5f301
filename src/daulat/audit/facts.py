"""What the checks need to know of each entry, with its types checked: small frozen values, without the long texts.

`core.entries.decode` has seen to names and order of fields. Here every value that a rule reads
must have the right type.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from daulat.core import charter as charters
from daulat.core import manifest
from daulat.core.ceremony import Ceremony, Seat
from daulat.core.charter import GRADES, Charter
from daulat.core.consent import Proposed
from daulat.core.decision import grade
from daulat.core.manifest import ModelFile
from daulat.core.principal import VOUCHED
from daulat.errors import ConfigError, VerificationFailed

ELSEWHERE: Final = "external"  # evidence about an engine that Daulat does not run: it has no sandbox and no canary
EVIDENCE: Final = ("sandbox", "canary", "inventory", "site", ELSEWHERE)
_DEFAULT_CONTEXT: Final = 8192
_DEFAULT_SLOTS: Final = 8
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class CharterFacts:
    """A `charter/v1` entry, its text parsed."""

    index: int
    time: int
    charter: Charter
    sha256: str
    restates: Any


@dataclass(frozen=True, slots=True)
class CeremonyFacts:
    """A `ceremony/v1` entry; `signatures` stand in the order of its operators."""

    index: int
    time: int
    charter: int
    ceremony: Ceremony
    signatures: tuple[bytes, ...]
    restates: Any


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """`files` are (name, hex SHA-256, text or None where it is a blob)."""

    index: int
    time: int
    charter: int
    version: str
    files: tuple[tuple[str, str, str | None], ...]


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A `key/v1` entry; `not_after` in Unix milliseconds."""

    index: int
    time: int
    purpose: str
    vkey: str
    not_after: int | None
    replaces: int | None


@dataclass(frozen=True, slots=True)
class ProposalFacts:
    """A `proposal/v1` entry; `key` is its proposer's."""

    index: int
    time: int
    charter: int
    proposed: Proposed
    key: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ApprovalFacts:
    """An `approval/v1` entry; `key` is the approver's."""

    index: int
    time: int
    proposal: int
    key: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`described` are the fields of the entry that a decision sees."""

    index: int
    time: int
    charter: int
    policy: int
    described: Mapping[str, Any]
    effect: str
    policies: tuple[str, ...]
    operator: str  # a pseudonym, and the citizenship that the decision saw
    citizenship: str
    restated: bool  # it says that an older shard has it


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """`evidence` holds the grades alone. Times are Unix milliseconds."""

    index: int
    time: int
    charter: int
    policy: int
    node: str
    jurisdiction: str
    not_before: int
    expires: int
    evidence: Mapping[str, Mapping[str, str]]
    canary: int | None
    effect: str
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """`slots` and `context` bound what may be in flight; defaults where the entry does not say."""

    index: int
    time: int
    replica: str
    node: str
    lease: int
    model: int
    counters: Mapping[str, int] | None
    slots: int
    context: int
    engine: str  # in words, as the entry says
    device: str
    answers: str = ""  # how they are checked; "": the entry does not say


@dataclass(frozen=True, slots=True)
class CanaryFacts:
    """A `canary/v1` entry as far as leases and counters rest on it."""

    index: int
    time: int
    node: str
    replica: str
    started: int | None
    outcome: str
    counters: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One replica that was asked, under which lease (log indices), and how that ended."""

    replica: int
    lease: int
    outcome: str


@dataclass(frozen=True, slots=True)
class InferenceFacts:
    """An `inference/v1` entry; `finished` is the completion's time."""

    request_id: str
    time: int
    action: str
    tenant: str
    principal: str
    attributes: Mapping[str, Any]
    effect: str
    policies: tuple[str, ...]
    policy: int
    model: int | None
    replica: int | None
    lease: int | None
    worker: int
    sequence: int
    requested_model: str
    request: str
    finished: int
    outcome: str
    status: int
    error: str | None
    attempts: tuple[Attempt, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    overhead: int
    response: str | None

    @property
    def used(self) -> bool:
        """Whether an engine did anything for it."""
        return bool(self.attempts or self.prompt_tokens or self.completion_tokens or self.overhead)


def charter(index: int, entry: Mapping[str, Any]) -> CharterFacts:
    """Raises VerificationFailed where the entry contradicts the text it carries."""
    text = _get(entry, "text", str)
    if hashlib.sha256(text.encode()).hexdigest() != _get(entry, "sha256", str):
        raise VerificationFailed("the charter's text does not have the SHA-256 that its entry gives")
    try:
        parsed = charters.parse(text, location=f"charter/v1 at {index}")
    except ConfigError as error:
        raise VerificationFailed(f"the charter cannot be read: {error.message}") from None
    said = (_get(entry, "profile", str), _get(entry, "jurisdiction", str), _get(entry, "approvals", int))
    if said != (parsed.profile, parsed.country, parsed.approvals):
        raise VerificationFailed("the charter's entry says something other than its text")
    if _get(entry, "origin", str).rpartition("/")[0] != parsed.name:
        raise VerificationFailed(f"the charter names the log {parsed.name!r}, its entry the origin {entry['origin']!r}")
    return CharterFacts(index, _time(entry), parsed, entry["sha256"], entry["restates"])


def ceremony(index: int, entry: Mapping[str, Any]) -> CeremonyFacts:
    seats = tuple(
        Seat(
            _get(item, "vkey", str),
            _get(item, "citizenship", str),
            _get(item, "assurance", str),
            natural(item, "expires"),
        )
        for item in _get(entry, "operators", list)
    )
    origin, sha256, rules, roster = (_get(entry, name, str) for name in ("origin", "sha256", "rules", "roster"))
    held = Ceremony(origin, natural(entry, "begun"), sha256, rules, _strings(entry, "models"), roster, seats)
    signatures = tuple(map(_signature_of, _strings(entry, "signatures")))
    return CeremonyFacts(index, _time(entry), _get(entry, "charter", int), held, signatures, entry["restates"])


def policy(index: int, entry: Mapping[str, Any]) -> PolicyFacts:
    files = []
    for item in _get(entry, "files", list):
        name, digest, text = _get(item, "name", str), _get(item, "sha256", str), _nullable(item, "text", str)
        if text is not None and hashlib.sha256(text.encode()).hexdigest() != digest:
            raise VerificationFailed(f"policy file {name[:80]!r} does not have the SHA-256 that its entry gives")
        files.append((name, digest, text))
    return PolicyFacts(index, _time(entry), _get(entry, "charter", int), _get(entry, "version", str), tuple(files))


def key(index: int, entry: Mapping[str, Any]) -> KeyFacts:
    return KeyFacts(
        index,
        _time(entry),
        _get(entry, "purpose", str),
        _get(entry, "vkey", str),
        _nullable(entry, "not_after", int),
        _nullable(entry, "replaces", int),
    )


def proposal(index: int, entry: Mapping[str, Any], origin: str) -> ProposalFacts:
    id_, action, prior, payload = (_get(entry, name, str) for name in ("proposal", "action", "prior", "payload"))
    proposed = Proposed(origin, id_, action, prior, payload, natural(entry, "expires"))
    if words := proposed.wrong():
        raise VerificationFailed(words)
    return ProposalFacts(
        index, _time(entry), _get(entry, "charter", int), proposed, _get(entry, "key", int), signature(entry)
    )


def approval(index: int, entry: Mapping[str, Any]) -> ApprovalFacts:
    return ApprovalFacts(index, _time(entry), _get(entry, "proposal", int), _get(entry, "key", int), signature(entry))


def identity(entry: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    """The event of an `identity/v1`, and the roles that it gives."""
    for name in ("tenant", "person"):
        _nullable(entry, name, str)
    _get(entry, "issuer", str)
    detail = _get(entry, "detail", dict)
    return _get(entry, "event", str), frozenset(_strings(detail, "roles") if "roles" in detail else ())


def model(index: int, entry: Mapping[str, Any]) -> ModelFacts:
    described: dict[str, Any] = {name: _get(entry, name, str) for name in ("model", "digest", "format", "licence")}
    described |= {"origin": _get(entry, "origin", str), "signed_by": entry["signed_by"]}
    files = [
        ModelFile(_get(file, "path", str), _get(file, "sha256", str), _get(file, "size", int))
        for file in _get(entry, "files", list)
    ]
    if not manifest.holds(described["digest"], files):
        raise VerificationFailed(f"model {described['model'][:80]!r} has another digest than the files it lists")
    effect, policies = _decision(entry)
    attributes = _get(entry["decision"], "attributes", dict)
    return ModelFacts(
        index,
        _time(entry),
        _get(entry, "charter", int),
        _get(entry, "policy", int),
        described,
        effect,
        policies,
        _get(attributes, "operator", str),
        _get(attributes, "citizenship", str),
        entry["restates"] is not None,
    )


def lease(index: int, entry: Mapping[str, Any]) -> LeaseFacts:
    given = _get(entry, "evidence", dict)
    grades = {kind: grade(given, kind) for kind in EVIDENCE}
    effect, policies = _decision(entry)
    return LeaseFacts(
        index,
        _time(entry),
        _get(entry, "charter", int),
        _get(entry, "policy", int),
        _get(entry, "node", str),
        _get(entry, "jurisdiction", str),
        _get(entry, "not_before", int),
        _get(entry, "expires", int),
        {kind: {"grade": GRADES[number - 1]} for kind, number in grades.items() if number},
        _nullable(entry, "canary", int),
        effect,
        policies,
    )


def stored(index: int, entry: Mapping[str, Any]) -> tuple[int, str, int, int]:
    """Charter, jurisdiction, beginning and end of a `storage.lease/v1`.

    Raises:
        VerificationFailed: one of them has another type.
    """
    given = _get(entry, "evidence", dict)
    if not grade(given, "site"):
        raise VerificationFailed(f"entry {index}: a storage place without any word on where it lies")
    begins, ends = _get(entry, "not_before", int), _get(entry, "expires", int)
    return _get(entry, "charter", int), _get(entry, "jurisdiction", str), begins, ends


def erasure(index: int, entry: Mapping[str, Any]) -> None:
    """Raises VerificationFailed: an `erasure/v1` does not say who was erased, and how much of them."""
    if _get(entry, "scope", str) not in {"person", "tenant"}:
        raise VerificationFailed(f"entry {index}: an erasure is of a person or a tenant")
    _get(entry, "subject", str)
    if min(_get(entry, name, int) for name in ("keys", "objects", "rows")) < 0:
        raise VerificationFailed(f"entry {index}: an erasure of fewer things than none")


def replica(index: int, entry: Mapping[str, Any]) -> ReplicaFacts:
    engine = entry["engine"] if isinstance(entry["engine"], dict) else {}
    parameters = engine.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    return ReplicaFacts(
        index,
        _time(entry),
        _get(entry, "replica", str),
        _get(entry, "node", str),
        _get(entry, "lease", int),
        _get(entry, "model", int),
        counters(entry),
        _first(parameters, ("slots", "n_parallel", "parallel"), _DEFAULT_SLOTS),
        _first(parameters, ("context", "context_length", "n_ctx"), _DEFAULT_CONTEXT),
        _in_words(engine, ("name", "version")),
        _in_words(entry["device"], ("count", "kind", "product")),
        str(engine.get("answers", "")),
    )


def canary(index: int, entry: Mapping[str, Any]) -> CanaryFacts:
    return CanaryFacts(
        index,
        _time(entry),
        _get(entry, "node", str),
        _get(entry, "replica", str),
        _nullable(entry, "started", int),
        _get(entry, "outcome", str),
        counters(entry),
    )


def counters(entry: Mapping[str, Any]) -> Mapping[str, int] | None:
    """An engine's own counters, or None where they were not read; `checked_...`: of these, for answer checks."""
    value = _nullable(entry, "counters", dict)
    if value is None:
        return None
    counted = {name: natural(value, name) for name in ("prompt_tokens", "completion_tokens")}
    checked = {name: natural(value, name) for name in (f"checked_{kind}" for kind in counted) if name in value}
    return counted | checked


def inference(entry: Mapping[str, Any]) -> InferenceFacts:
    admission, completion = entry["admission"], entry["completion"]
    usage = _get(completion, "usage", dict)
    attributes = _get(admission, "attributes", dict)
    if not isinstance(attributes.get("citizenship"), str) or not isinstance(attributes.get("assurance"), str):
        raise VerificationFailed("the attributes are not {citizenship, assurance, roles}")
    _strings(attributes, "roles")
    _get({"issuer": VOUCHED, **attributes}, "issuer", str)
    natural({"until": 0, **attributes}, "until")
    return InferenceFacts(
        request_id=_get(admission, "request_id", str),
        time=_time(admission),
        action=_get(admission, "action", str),
        tenant=_get(admission, "tenant", str),
        principal=_get(admission, "principal", str),
        attributes=attributes,
        effect=_get(admission, "effect", str),
        policies=_strings(admission, "policies"),
        policy=_get(admission, "policy", int),
        model=_nullable(admission, "model", int),
        replica=_nullable(admission, "replica", int),
        lease=_nullable(admission, "lease", int),
        worker=_get(admission, "worker", int),
        sequence=natural(admission, "sequence"),
        requested_model=_get(admission, "requested_model", str),
        request=_get(admission, "request", str),
        finished=_time(completion),
        outcome=_get(completion, "outcome", str),
        status=_get(completion, "status", int),
        error=_nullable(completion, "error", str),
        attempts=tuple(
            Attempt(_get(item, "replica", int), _get(item, "lease", int), _get(item, "outcome", str))
            for item in _get(completion, "attempts", list)
        ),
        prompt_tokens=natural(usage, "prompt_tokens"),
        cached_tokens=natural(usage, "cached_tokens"),
        completion_tokens=natural(usage, "completion_tokens"),
        overhead=natural(completion, "overhead"),
        response=_nullable(completion, "response", str),
    )


def natural(value: Any, name: str) -> int:
    number = _get(value, name, int)
    if number < 0:
        raise VerificationFailed(f"{name} is negative")
    return number


def _time(entry: Mapping[str, Any]) -> int:
    return natural(entry, "time")


def signature(entry: Mapping[str, Any]) -> bytes:
    """The 64 bytes of an entry's own signature."""
    return _signature_of(_get(entry, "signature", str))


def _signature_of(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:  # also of characters beyond ASCII
        raise VerificationFailed("a signature is not base64") from None
    if len(raw) != 64 or base64.b64encode(raw).decode() != text:  # noqa: PLR2004  Ed25519's
        raise VerificationFailed("a signature is not the base64 of 64 bytes")
    return raw


def _decision(entry: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    decision = _get(entry, "decision", dict)
    return _get(decision, "effect", str), _strings(decision, "policies")


def _strings(value: Any, name: str) -> tuple[str, ...]:
    items = _get(value, name, list)
    if not all(isinstance(item, str) for item in items):
        raise VerificationFailed(f"{name} is not a list of strings")
    return tuple(items)


def _first(parameters: Mapping[str, Any], names: tuple[str, ...], default: int) -> int:
    found = (parameters.get(name) for name in names)
    return next((value for value in found if type(value) is int and value > 0), default)


def _in_words(value: Any, names: tuple[str, ...]) -> str:
    """Some members of an object whose other members depend on the engine or device, as one line."""
    members = value if isinstance(value, Mapping) else {}
    return " ".join(str(members[name])[:128] for name in names if isinstance(members.get(name), str | int))


def _get(value: Any, name: str, kind: type[_T]) -> _T:
    item = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
        raise VerificationFailed(f"{name} is not a {kind.__name__}")
    return item


def _nullable(value: Mapping[str, Any], name: str, kind: type[_T]) -> _T | None:
    return None if value.get(name) is None else _get(value, name, kind)

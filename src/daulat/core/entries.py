"""The log's entry types: which fields, in which order, and which of them point at other entries.

An entry is one UTF-8 JSON object without insignificant white space, at most 65,535 bytes (the length prefix of a
C2SP entry bundle is 16 bits), whose first key is `type`. Field order is part of the format: it is what makes an
entry's bytes, and so its RFC 6962 leaf hash, reproducible. `SHAPES` is the one table that writers, receipts and the
audit share. Times are integers, milliseconds since the Unix epoch. No entry holds personal data: people and tenants
are keyed pseudonyms, prompts and answers salted commitments (`core.commitments`).

An `inference/v1` entry nests the two records that the gateway journalled, byte for byte:

    {"type":"inference/v1","admission":{...},"completion":{...}}

The admission's bytes are what the signed promise committed to before the first byte of the answer left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.errors import VerificationFailed

MAX_ENTRY_BYTES: Final = 65_535
MAX_INLINE_TEXT: Final = 32_768  # longer content is named by SHA-256 and served under /log/blob/
MAX_CLIENT_STRING: Final = 128  # client-supplied strings beyond this are replaced by their hash

INFERENCE: Final = "inference/v1"
HISTORY: Final = frozenset({"previous", "replaces"})  # references to what was before: nothing lawful rests on them
_INFERENCE_HEAD: Final = b'{"type":"inference/v1","admission":'
_INFERENCE_MIDDLE: Final = b',"completion":'


@dataclass(frozen=True, slots=True)
class Shape:
    """The ordered field names of one entry type, and the fields that hold log indices.

    A path such as `decision.policy` descends into objects; `attempts[].lease` into each element of a list.
    A reference may be null where `optional` names it.
    """

    fields: tuple[str, ...]
    references: tuple[tuple[str, str], ...] = ()  # (path, entry type it must point at)
    optional: frozenset[str] = frozenset()


SHAPES: Final[Mapping[str, Shape]] = {
    # What this installation promises. `text` is charter.toml itself.
    "charter/v1": Shape(
        ("type", "time", "origin", "previous", "profile", "jurisdiction", "approvals", "sha256", "text", "restates"),
        (("previous", "charter/v1"),),
        frozenset({"previous"}),
    ),
    # The Cedar rules and schema in force. `files`: [{"name", "sha256", "text"}]; text null when over 32 KiB.
    "policy/v1": Shape(
        ("type", "time", "charter", "previous", "version", "files", "restates"),
        (("charter", "charter/v1"), ("previous", "policy/v1")),
        frozenset({"previous"}),
    ),
    # A verification key. purpose: "log" | "worker" | "operator". `signatures`: note signature lines, for rotation.
    # An operator's has the pseudonym of its holder as its name.
    "key/v1": Shape(
        ("type", "time", "charter", "purpose", "name", "vkey", "not_after", "replaces", "signatures"),
        (("charter", "charter/v1"), ("replaces", "key/v1")),
        frozenset({"replaces"}),
    ),
    # `decision`: {"effect", "policies", "attributes"}. `files`: [{"path", "sha256", "size"}].
    # `derived_from`: null or {"digest", "recipe"}. `templates`: [{"name", "sha256"}].
    "model.admitted/v1": Shape(
        (
            "type",
            "time",
            "charter",
            "policy",
            "model",
            "digest",
            "format",
            "licence",
            "origin",
            "signed_by",
            "derived_from",
            "files",
            "templates",
            "decision",
            "restates",
        ),
        (("charter", "charter/v1"), ("policy", "policy/v1")),
    ),
    # `evidence`: {"sandbox", "canary", "inventory", "site"}, each {"grade": "G1".."G4", ...}. `decision` as above.
    "node.lease/v1": Shape(
        (
            "type",
            "time",
            "charter",
            "policy",
            "node",
            "jurisdiction",
            "not_before",
            "expires",
            "evidence",
            "canary",
            "decision",
            "replaces",
        ),
        (
            ("charter", "charter/v1"),
            ("policy", "policy/v1"),
            ("canary", "canary/v1"),
            ("replaces", "node.lease/v1"),
        ),
        frozenset({"canary", "replaces"}),
    ),
    "node.revoked/v1": Shape(
        ("type", "time", "node", "lease", "reason"),
        (("lease", "node.lease/v1"),),
    ),
    # `engine`: {"name", "version", "parameters", "answers"}; `device`: {"kind", "product", "count"}; `sandbox`: the
    # applied facts. `answers`: how they are checked, "likelihoods" | "plain" | "none"; older entries do not say.
    "replica.started/v1": Shape(
        ("type", "time", "replica", "node", "lease", "model", "engine", "device", "sandbox", "counters"),
        (("lease", "node.lease/v1"), ("model", "model.admitted/v1")),
    ),
    # `counters`: the engine's own, since its start: {"prompt_tokens", "cached_prompt_tokens", "completion_tokens"}, and
    # of these, for its supervisor's own answer checks: {"checked_prompt_tokens", "checked_completion_tokens"}.
    # `exact`: whether they were read after the last request (false: the engine died, these are the last seen).
    # `started` is null for an engine that came up and was never routed to: wrong answers, or no lease.
    "replica.stopped/v1": Shape(
        ("type", "time", "replica", "started", "reason", "counters", "exact"),
        (("started", "replica.started/v1"),),
        frozenset({"started"}),
    ),
    # outcome: "contained" | "escaped" | "silent". `probes`: [{"kind", "target", "outcome", "detail"}].
    # `started` is null for the probe that precedes the first lease. `counters` as above, null when unread.
    "canary/v1": Shape(
        ("type", "time", "node", "replica", "started", "nonce", "outcome", "probes", "counters"),
        (("started", "replica.started/v1"),),
        frozenset({"started"}),
    ),
    # Where sealed objects may be written, for an hour. `place`: hex SHA-256 of its address; `kind`: "folder" | "s3";
    # `evidence`: {"site", "region"}, each {"grade", ...}.
    "storage.lease/v1": Shape(
        (
            "type",
            "time",
            "charter",
            "kind",
            "place",
            "jurisdiction",
            "not_before",
            "expires",
            "evidence",
            "replaces",
        ),
        (("charter", "charter/v1"), ("replaces", "storage.lease/v1")),
        frozenset({"replaces"}),
    ),
    # Keys and identifiers that were destroyed: `scope` is "person" | "tenant", `subject` their pseudonym until then.
    # `keys` and `objects` of the vault, `rows` of the control database: how many there were.
    "erasure/v1": Shape(
        ("type", "time", "charter", "scope", "subject", "keys", "objects", "rows"),
        (("charter", "charter/v1"),),
    ),
    # Objects that a tenant's retention rule took away. `tenant`: its pseudonym, null where it was erased meanwhile;
    # `rule`: `core.retention.Rule`; `deleted`: how many, by the same fields. One `batch` counts once.
    "retention/v1": Shape(
        ("type", "time", "charter", "tenant", "batch", "rule", "deleted"),
        (("charter", "charter/v1"),),
    ),
    # Somebody's data was given out: `subject` their pseudonym, `held` how much of each kind (`core.export.HELD`),
    # `sealed` whether under a passphrase, `digest` the archive's SHA-256 in hex.
    "export/v1": Shape(
        ("type", "time", "charter", "subject", "held", "sealed", "digest"),
        (("charter", "charter/v1"),),
    ),
    INFERENCE: Shape(
        ("type", "admission", "completion"),
        (
            ("admission.worker", "key/v1"),
            ("admission.policy", "policy/v1"),
            ("admission.model", "model.admitted/v1"),
            ("admission.replica", "replica.started/v1"),
            ("admission.lease", "node.lease/v1"),
            ("completion.attempts[].replica", "replica.started/v1"),
            ("completion.attempts[].lease", "node.lease/v1"),
        ),
        frozenset({"admission.model", "admission.replica", "admission.lease"}),
    ),
    # `counts`: {reason: n} before authentication; `principals`: {pseudonym: n} denials beyond ten a second.
    "refusals/v1": Shape(
        ("type", "time", "worker", "from", "to", "counts", "principals"),
        (("worker", "key/v1"),),
    ),
    "key.revoked/v1": Shape(
        ("type", "time", "key", "reason"),
        (("key", "key/v1"),),
    ),
    # The key ceremony: `core.ceremony` says what each of `operators` has signed. `origin` and `sha256` are the log and
    # the charter it was held for; `operators`: [{"vkey", "citizenship", "assurance", "expires"}], `signatures` theirs.
    "ceremony/v1": Shape(
        (
            "type",
            "time",
            "charter",
            "origin",
            "begun",
            "sha256",
            "rules",
            "models",
            "roster",
            "operators",
            "signatures",
            "restates",
        ),
        (("charter", "charter/v1"),),
    ),
    # What an operator did alone: `action` such as "key.create"; `subject` a pseudonym or digest, never a name.
    "operator.action/v1": Shape(
        ("type", "time", "charter", "operator", "action", "subject", "detail", "approvals"),
        (("charter", "charter/v1"),),
    ),
    # What happened about who somebody is: `event` is one of `core.identity.EVENTS`. `tenant` and `person` are
    # pseudonyms, null where nobody is known by them; `issuer` is the OpenID issuer, or "operator". `detail` by event.
    "identity/v1": Shape(
        ("type", "time", "charter", "tenant", "person", "event", "issuer", "detail"),
        (("charter", "charter/v1"),),
    ),
    # Somebody who is known asked for something and did not get it: `action` what, `code` the error's, both pseudonyms
    # (of an auditor, who is in no tenant, the token's digest). Inference that is refused is `inference/v1`.
    "access.refused/v1": Shape(
        ("type", "time", "charter", "tenant", "principal", "action", "code"),
        (("charter", "charter/v1"),),
    ),
    # What an operator asks others to agree to: `core.consent` says what `signature`, base64 of 64 bytes, is over.
    # `prior` and `payload` are hex SHA-256, `expires` Unix milliseconds.
    "proposal/v1": Shape(
        ("type", "time", "charter", "proposal", "action", "prior", "payload", "expires", "key", "signature"),
        (("charter", "charter/v1"), ("key", "key/v1")),
    ),
    "approval/v1": Shape(
        ("type", "time", "proposal", "key", "signature"),
        (("proposal", "proposal/v1"), ("key", "key/v1")),
    ),
    # What an operator tried and may not do: `attempt` is proposal, approval, break-glass or review, `operator` the
    # pseudonym of the key that was named, `reason` one word. `proposal`: its id, null where it had none.
    "consent.refused/v1": Shape(
        ("type", "time", "charter", "attempt", "proposal", "operator", "reason"),
        (("charter", "charter/v1"),),
    ),
    # What was done because enough others had agreed, once. The act is the proposal's; `detail` says of it what may be
    # public.
    "operator.action/v2": Shape(
        ("type", "time", "proposal", "approvals", "subject", "detail"),
        (("proposal", "proposal/v1"), ("approvals[]", "approval/v1")),
    ),
    # What one operator does alone, because it cannot wait: `core.glass` says what `signature` is over. `origin` is the
    # log that it was broken in, another one where a later shard restates it because its review is still open.
    "break-glass/v1": Shape(
        (
            "type",
            "time",
            "charter",
            "origin",
            "proposal",
            "action",
            "prior",
            "payload",
            "expires",
            "cause",
            "reason",
            "vkey",
            "signature",
            "restates",
        ),
        (("charter", "charter/v1"),),
    ),
    # What was done of it, once, and what others said of it: `verdict` is one of `core.glass.VERDICTS`.
    "operator.action/v3": Shape(
        ("type", "time", "glass", "subject", "detail"),
        (("glass", "break-glass/v1"),),
    ),
    "review/v1": Shape(
        ("type", "time", "glass", "verdict", "key", "signature"),
        (("glass", "break-glass/v1"), ("key", "key/v1")),
    ),
    "review.closed/v1": Shape(
        ("type", "time", "glass", "reviews"),
        (("glass", "break-glass/v1"), ("reviews[]", "review/v1")),
    ),
}

ADMISSION_FIELDS: Final = (
    "request_id",  # ours, never the client's
    "time",
    "action",  # one of core.decision.INFERENCE_ACTIONS
    "tenant",  # pseudonyms, keyed per tenant and epoch
    "principal",
    "key",
    "attributes",  # {"citizenship", "assurance", "roles"}: the coarse attributes the decision saw
    "effect",  # "allow" | "deny"
    "policies",  # @id of the rules that decided
    "snapshot",
    "policy",  # log indices from here
    "model",
    "replica",
    "lease",
    "worker",
    "sequence",  # unique under `worker`, ascending
    "requested_model",  # as the client named it, capped or hashed
    "stream",
    "request",  # commitment to the request body, base64
)
COMPLETION_FIELDS: Final = (
    "time",
    "outcome",  # "ok" | "denied" | "failed" | "aborted" | "interrupted"
    "status",  # HTTP status sent, 0 when none was
    "error",  # error code or null
    "attempts",  # [{"replica", "lease", "outcome"}]
    "usage",  # {"prompt_tokens", "cached_tokens", "completion_tokens"}
    "overhead",  # prompt tokens beyond `usage` that the gateway spent on its behalf (prefix warm-up, `n` answers)
    "response",  # commitment to the response body, base64, null when no body was sent
)


def encode(type_: str, fields: Mapping[str, Any]) -> bytes:
    """Serialise a control entry in its fixed field order.

    Raises:
        ValueError: a field is missing or unknown, or the entry exceeds 65,535 bytes.
    """
    shape = SHAPES[type_]
    given = {"type", *fields}
    if given != set(shape.fields):
        missing, unknown = set(shape.fields) - given, given - set(shape.fields)
        raise ValueError(f"{type_}: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}")
    values = {"type": type_, **fields}
    data = json.dumps(
        {name: values[name] for name in shape.fields}, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    ).encode()
    if len(data) > MAX_ENTRY_BYTES:
        raise ValueError(f"{type_}: {len(data)} bytes, at most {MAX_ENTRY_BYTES} fit an entry")
    return data


def join_inference(admission: bytes, completion: bytes) -> bytes:
    """The `inference/v1` entry of two journalled records, each a JSON object, byte for byte."""
    return b"".join((_INFERENCE_HEAD, admission, _INFERENCE_MIDDLE, completion, b"}"))


def admission_bytes(entry: bytes) -> bytes:
    """The exact bytes of the admission record inside an `inference/v1` entry.

    Raises:
        VerificationFailed: the entry is not laid out as `join_inference` does.
    """
    if not entry.startswith(_INFERENCE_HEAD):
        raise VerificationFailed("not an inference/v1 entry in its fixed layout")
    start = len(_INFERENCE_HEAD)
    try:
        text = entry.decode()
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"inference/v1 entry holds no admission record: {error}") from None
    if not text.startswith(_INFERENCE_MIDDLE.decode(), end):
        raise VerificationFailed("inference/v1 entry: the completion does not follow the admission")
    return text[start:end].encode()


def decode(entry: bytes) -> dict[str, Any]:
    """Parse an entry and check its shape: known type, exact fields, exact order, and the one way of writing them.

    Raises:
        VerificationFailed: with the reason, naming type and field.
    """
    if len(entry) > MAX_ENTRY_BYTES:
        raise VerificationFailed(f"an entry of {len(entry)} bytes, at most {MAX_ENTRY_BYTES} fit")
    try:
        text = entry.decode()
        value = json.loads(text, object_pairs_hook=_unique_keys)
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"entry is not JSON in UTF-8: {error}") from None
    # What two readers could take for two things (white space, needless escapes, half surrogates, odd numbers) is none.
    if written != text:
        raise VerificationFailed("entry is not written in its one form: no white space, no escape that is not needed")
    if not isinstance(value, dict) or next(iter(value), None) != "type":
        raise VerificationFailed("entry is not a JSON object whose first key is 'type'")
    shape = SHAPES.get(value["type"]) if isinstance(value["type"], str) else None
    if shape is None:
        raise VerificationFailed(f"unknown entry type {value['type']!r}")
    _expect_fields(value, shape.fields, value["type"])
    if value["type"] == INFERENCE:
        _expect_fields(value["admission"], ADMISSION_FIELDS, "inference/v1 admission")
        _expect_fields(value["completion"], COMPLETION_FIELDS, "inference/v1 completion")
    return value


def references(entry: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Yield (path, index, type it must point at) for each reference of a decoded entry.

    Raises:
        VerificationFailed: a reference that may not be null is, or is not an index.
    """
    shape = SHAPES[entry["type"]]
    for path, target in shape.references:
        for value in _at(entry, path):
            if value is None and path in shape.optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise VerificationFailed(f"{entry['type']}: {path} is {value!r}, expected the index of a {target}")
            yield path, value, target


def _at(value: Any, path: str) -> Iterator[Any]:
    head, _, rest = path.partition(".")
    name = head.removesuffix("[]")
    if not isinstance(value, Mapping) or name not in value:
        raise VerificationFailed(f"field {name!r} is missing")
    items = value[name] if head.endswith("[]") else [value[name]]
    if not isinstance(items, list):
        raise VerificationFailed(f"field {name!r} is not a list")
    for item in items:
        if rest:
            yield from _at(item, rest)
        else:
            yield item


def _expect_fields(value: Any, fields: tuple[str, ...], what: str) -> None:
    if not isinstance(value, dict):
        raise VerificationFailed(f"{what} is not an object")
    if tuple(value) != fields:
        raise VerificationFailed(f"{what}: fields are {list(value)}, expected {list(fields)} in this order")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value

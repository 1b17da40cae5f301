"""What a receipt that holds means, in plain words: what is proven, who vouches for the rest, what is not proven."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from daulat.audit.chain import Chain
from daulat.audit.facts import ELSEWHERE, EVIDENCE, CeremonyFacts, InferenceFacts, LeaseFacts
from daulat.core.principal import VOUCHED
from daulat.tlog.checkpoint import Checkpoint

UNWITNESSED: Final = "unwitnessed: the operator could have shown others another log"
_BODIES: Final = 2
_BY: Final = {
    "G1": "the node's own word, which nobody else checked",
    "G2": "enforced by the node's kernel and probed; whoever is root on the node is not bound by it",
    "G3": "vouched for by another organisation",
    "G4": "observed from outside the node",
}
_WHOSE: Final = (
    "another organisation vouches for what and where it is; neither files nor sandbox were seen",
    "what and where it is, and which model it holds, is the operator's word alone",
)
_OUTCOMES: Final = {
    "ok": "it was answered in full",
    "denied": "it was refused",
    "failed": "it failed",
    "aborted": "the client left before the end",
    "interrupted": "the service was interrupted before the end",
}


def proven(head: Checkpoint, index: int, chain: Chain, request: InferenceFacts) -> Iterator[str]:
    """What follows from the log's signature, the hashes and the entries."""
    yield (
        f"entry {index} of the log {head.origin} is about request {request.request_id}; the log's key has signed a "
        f"checkpoint of {head.size} entries that covers it, so it cannot be changed or taken back unnoticed"
    )
    done = f"{_OUTCOMES[request.outcome]} (HTTP status {request.status})"
    rules = ", ".join(request.policies) or "no rule"
    verb = "permitted" if request.effect == "allow" else "refused"
    yield f"the log says: {verb} by {rules} under policy entry {request.policy}, and {done}"
    if request.model is not None:
        model = chain.models[request.model].described
        held = "which is a statement about a server outside Daulat, with" if _outside(model) else "whose file has"
        yield f"the log says: model {model['model']}, {held} SHA-256 {model['digest']} (entry {request.model})"
    if request.effect == "allow" and request.lease is not None:
        lease = chain.leases[request.lease]
        charter = chain.charters[lease.charter].charter
        yield (
            f"lease {lease.index} of node {lease.node} in {lease.jurisdiction} was in force at the admission "
            f"({when(request.time)}), and lawful under the charter (entry {lease.charter}), which promises "
            f"{charter.country}"
        )
    if chain.ceremony is not None:
        yield f"the log says: {ceremony(chain.ceremony, chain)}"
    for attempt in request.attempts:
        yield f"the log says: replica entry {attempt.replica} was asked under lease {attempt.lease}: {attempt.outcome}"


def ceremony(held: CeremonyFacts, chain: Chain) -> str:
    """The key ceremony of a log or of a receipt."""
    seats, charter = held.ceremony.seats, chain.charters[held.charter].charter
    where = f"entry {held.index}"
    if held.restates is not None:
        where += f", held for {held.ceremony.origin} and restated here"
    return (
        f"put into production by a key ceremony ({where}, begun {when(held.ceremony.begun)}): {len(seats)} operators "
        f"signed it, each with their own key; no charter asks for fewer than {charter.floor or 0} approvals after it"
    )


def opened(kind: str, length: int) -> str:
    """A body was given, and is the one committed to."""
    return f"the {kind} given here ({length} bytes) is, byte for byte, the one that the entry commits to"


def promised(*, in_time: bool) -> str:
    """A promise was given, and is kept."""
    kept = "and it was kept in time" if in_time else "and it was kept; when, this receipt does not show"
    return f"a worker whose key the log certifies had promised this very admission before the answer began, {kept}"


def decided(request: InferenceFacts, asked: int) -> str:
    """Decisions were run again, with the same result."""
    if not asked or any(name.startswith("gateway.") for name in request.policies):
        return "the refusal was the gateway's own, which no policy decides"
    return "the decision, run again here from the log's policy and charter, comes out as the entry says"


def vouched(chain: Chain, request: InferenceFacts) -> Iterator[str]:
    """What is somebody's word, and whose."""
    yield "the operator: every time in the log, and that a pseudonym stands for one person or tenant"
    if chain.ceremony is not None:
        yield "those in the room of the key ceremony: that as many keys are as many people, of the citizenships named"
    seen = request.attributes
    roles = ", ".join(seen["roles"]) or "none"
    issuer = seen.get("issuer", VOUCHED)
    who = "an operator" if issuer == VOUCHED else f"{issuer}, in a token that the operator says it checked"
    yield (
        f"{who}: that the caller is of citizenship {seen['citizenship'] or 'unknown'} "
        f"(assurance {seen['assurance']}) and has the roles {roles}"
    )
    if request.attempts:
        yield "the engine: the token counts; an audit of the whole log holds them against its counters"
    if request.lease is not None:
        yield from _evidence(chain.leases[request.lease])
    if request.model is not None:
        signed_by = chain.models[request.model].described["signed_by"]
        if signed_by:
            yield f"{signed_by}: that the model is its work (as the operator recorded it)"


def _outside(model: Mapping[str, Any]) -> bool:
    return bool(model["format"] == ELSEWHERE)


def _evidence(lease: LeaseFacts) -> Iterator[str]:
    for kind in EVIDENCE:
        grade = lease.evidence.get(kind, {}).get("grade")
        if grade is not None and kind == ELSEWHERE:
            yield f"the engine of node {lease.node} runs outside Daulat, {grade}: {_WHOSE[grade == 'G1']}"
        elif grade is not None:
            yield f"evidence {kind!r} of node {lease.node}, {grade}: {_BY[grade]}"


def unproven(*, opened: Sequence[str], promised: Sequence[str], decided: Sequence[str]) -> Iterator[str]:
    """What this verification did not show."""
    if len(opened) < _BODIES:
        yield "which request or answer this is about: give both bodies (--request, --response) to see"
    if not promised:
        yield "that the entry is the one promised before the answer began: give the Daulat-Promise header (--promise)"
    if not decided:
        yield "that the policy decides as the entry says: install daulat[serve], which can run it again"
    yield "that this model was deployed under the name that was asked for: only an audit of the whole log shows"
    yield "that the log omits nothing else, and that no engine was used past it: only an audit of the whole log shows"
    yield "that root on the machine did not read or change memory, or move the machine: software cannot show that"
    yield "that the answer is true, or good"


def witnesses(unknown: int) -> str:
    """What stands behind the log's being one and the same for everybody. `unknown`: signatures of unknown keys."""
    if not unknown:
        return UNWITNESSED
    return f"{UNWITNESSED} ({unknown} signatures of keys not known here are not counted as witnesses)"


def unknown_use(replica: int, requests: int, tokens: int) -> str:
    """For how much of a replica's use its counters prove nothing."""
    return (
        f"replica {replica}: {requests} requests that ended early, whose tokens nobody knows: up to {tokens} of each "
        "kind, around them, could have been used past the gateway"
    )


def when(milliseconds: int) -> str:
    """A log's time for people, or the number where it is no date."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"

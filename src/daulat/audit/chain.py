"""The chain `charter -> evidence -> lease -> route -> receipt`, replayed: each rule that makes an answer lawful.

A receipt and a whole log are checked by the same rules. `Chain` keeps the control entries' facts by log index; entries
must be added in ascending order. Rules yield findings; they never raise for what an entry says, only for its types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from daulat.audit import ceremony as ceremonies
from daulat.audit import facts, rotation
from daulat.audit.consent import Consent
from daulat.audit.facts import InferenceFacts
from daulat.audit.finding import Finding
from daulat.audit.glass import Glasses
from daulat.audit.names import Names
from daulat.core import entries
from daulat.core.charter import ASSURANCE, GRADES, Charter, irreversible
from daulat.core.decision import INFERENCE_ACTIONS, grade
from daulat.core.identity import EVENTS
from daulat.core.ids import REQUEST_ID
from daulat.core.principal import VOUCHED
from daulat.core.rotation import statement
from daulat.errors import VerificationFailed
from daulat.tlog.note import Verifier

# How long after its time a revocation, a stop or a new policy may still be unknown to a worker.
EFFECT_SLACK_MS: Final = 5_000
OUTCOMES: Final = frozenset({"ok", "denied", "failed", "aborted", "interrupted"})
_CANARY_OUTCOMES: Final = frozenset({"contained", "escaped", "silent"})
COMMITMENT: Final = re.compile(r"[A-Za-z0-9+/]{43}=\Z")
_GRADE_2: Final = 2
_LONGEST_STORED_MS: Final = 3_600_000
GATEWAY: Final = "gateway."  # refusals that the gateway makes without asking policy
_OK_STATUS: Final = range(200, 300)
TypeOf = Callable[[int], str | None]


def check_references(index: int, entry: Mapping[str, Any], type_of: TypeOf) -> Iterator[Finding]:
    """Every reference of an entry points backwards, at an entry of the right type.

    Raises:
        VerificationFailed: a reference is not an index.
    """
    for path, target, wanted in entries.references(entry):
        if target >= index:
            yield Finding("reference", f"{path} points forward, to {target}", index)
        elif type_of(target) != wanted:
            yield Finding("reference", f"{path} points at {target}, a {type_of(target)}, expected {wanted}", index)


class Chain:
    """Control entries' facts by log index, and what has ended since."""

    def __init__(self, origin: str, *, whole: bool = False) -> None:
        """`whole`: all control entries come, not only those that one receipt rests on."""
        self.origin, self._whole = origin, whole
        self.charters: dict[int, facts.CharterFacts] = {}
        self.policies: dict[int, facts.PolicyFacts] = {}
        self.keys: dict[int, facts.KeyFacts] = {}
        self.models: dict[int, facts.ModelFacts] = {}
        self.leases: dict[int, facts.LeaseFacts] = {}
        self.replicas: dict[int, facts.ReplicaFacts] = {}
        self.canaries: dict[int, facts.CanaryFacts] = {}
        self.revoked: dict[int, int] = {}  # lease -> time
        self.stopped: dict[int, int] = {}  # replica -> time
        self.superseded: dict[int, int] = {}  # policy -> time
        self.ceremony: facts.CeremonyFacts | None = None
        self.consent = Consent(self.keys)
        self.glasses = Glasses(origin, self.keys, self.consent)
        self.names = Names()

    def add(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        """Take in a control entry whose references have been checked, and check it.

        Raises:
            VerificationFailed: a value has a wrong type, or contradicts another in the same entry.
        """
        rule = {
            "charter/v1": self._charter,
            "ceremony/v1": self._ceremony,
            "policy/v1": self._policy,
            "key/v1": self._key,
            "model.admitted/v1": self._model,
            "node.lease/v1": self._lease,
            "storage.lease/v1": self._storage,
            "erasure/v1": self._erasure,
            "retention/v1": self._retention,
            "export/v1": self._export,
            "node.revoked/v1": self._revoked,
            "replica.started/v1": self._replica,
            "replica.stopped/v1": self._stopped,
            "canary/v1": self._canary,
            "key.revoked/v1": self._key_revoked,
            "operator.action/v1": self._alone,
            "identity/v1": self._identity,
            "proposal/v1": self._proposal,
            "approval/v1": self._approval,
            "operator.action/v2": self._agreed,
            "break-glass/v1": self._glass,
            "operator.action/v3": self.glasses.acted,
            "review/v1": self.glasses.reviewed,
            "review.closed/v1": self.glasses.closed,
        }.get(entry["type"])
        if rule is not None:
            yield from rule(index, entry)

    def _charter(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        new = facts.charter(index, entry)
        if entry["origin"] != self.origin:
            yield Finding("charter", f"the charter is for {entry['origin']!r}, the log is {self.origin!r}", index)
        if self.charters:
            yield from _amended(self.charters[max(self.charters)].charter, new.charter, index)
        yield from self.consent.rests(index, entry, self._needed())
        self.charters[index] = new

    def _ceremony(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        held = facts.ceremony(index, entry)
        if self.ceremony is not None and self.ceremony.ceremony != held.ceremony:
            yield Finding("ceremony", "a second key ceremony: from the first one on operators come by consent", index)
        charter = self.charters[held.charter]
        if held.restates is not None:
            wrong = list(ceremonies.unsigned(held.ceremony, held.signatures))
            if self._whole and not self.restates:
                wrong.append("a ceremony restated from an older shard, and this log continues none")
        else:
            wrong = list(ceremonies.wrong(held.ceremony, held.signatures, charter.charter, held.time))
            if (held.ceremony.origin, held.ceremony.charter) != (self.origin, charter.sha256):
                wrong.append("a ceremony that was held for another log, or for another charter")
            if any(before.charter.approvals for at, before in self.charters.items() if at < held.charter):
                wrong.append("a ceremony where operators already had to agree: they could have been replaced by it")
        for words in wrong:
            yield Finding("ceremony", words, index)
        self.ceremony = self.ceremony or held
        self.consent.ceremony(held)

    @property
    def restates(self) -> bool:
        """Whether this log goes on from an older shard."""
        return 0 in self.charters and self.charters[0].restates is not None

    def _policy(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        policy = facts.policy(index, entry)
        if self.policies:
            self.superseded.setdefault(max(self.policies), policy.time)
        self.policies[index] = policy
        yield from self.consent.rests(index, entry, self._needed() if len(self.policies) > 1 else 0)

    def _key(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        key = facts.key(index, entry)
        Verifier(key.vkey)
        self.keys[index] = key
        yield from self.consent.certified(key, self._needed(), carried=self.restates)
        # A receipt need not hold the key before: nothing rests on it. In a whole log the references were looked at.
        old = None if key.replaces is None else self.keys.get(key.replaces)
        if old is not None and (words := rotation.wrong(old, key, entry["signatures"])):
            yield Finding("rotation", words, index)
        if old is not None and key.purpose == "log":
            text = statement(old.vkey, key.vkey)
            yield from self.consent.rotated(index, text, self._needed(), carried=self.restates)
        before = [known.vkey for known in self.keys.values() if known.purpose == "log" and known.index != index]
        if key.purpose == "log" and key.replaces is None and any(vkey != key.vkey for vkey in before):
            yield Finding("rotation", "another key of the log, which the one before it does not vouch for", index)

    def _model(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        model = self.models[index] = facts.model(index, entry)
        yield from self.consent.rests(index, entry, self._needed())
        charter = self.charters[model.charter].charter
        if model.effect != "allow":
            yield Finding("model", "a model was admitted although the decision was not to", index)
        for what, promised in (("format", charter.formats), ("licence", charter.licences)):
            if model.described[what] not in promised:
                words = f"a model of {what} {model.described[what][:80]!r} was admitted, the charter promises others"
                yield Finding("model", words, index)

    def _lease(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        lease = self.leases[index] = facts.lease(index, entry)
        charter = self.charters[lease.charter].charter
        if lease.effect != "allow":
            yield Finding("lease", "a lease was granted although the decision was not to", index)
        if lease.jurisdiction != charter.country:
            words = f"a lease in {lease.jurisdiction!r}, the charter promises {charter.country!r}"
            yield Finding("jurisdiction", words, index)
        if lease.not_before < lease.time - EFFECT_SLACK_MS:
            yield Finding("lease", "a lease that begins before it was granted", index)
        if not 0 < lease.expires - lease.not_before <= charter.lease_seconds * 1000:
            yield Finding("lease", f"a lease not of at most {charter.lease_seconds} s, as the charter says", index)
        asked = (("sandbox", charter.sandbox), ("canary", charter.canary))
        for kind, least in ((facts.ELSEWHERE, charter.external),) if facts.ELSEWHERE in lease.evidence else asked:
            if least not in GRADES or grade(lease.evidence, kind) < GRADES.index(least) + 1:
                yield Finding("lease", f"evidence {kind!r} is weaker than the charter's {least or 'none'}", index)
        yield from self._lease_canary(lease)

    def _lease_canary(self, lease: facts.LeaseFacts) -> Iterator[Finding]:
        canary = None if lease.canary is None else self.canaries[lease.canary]
        if canary is None:
            if grade(lease.evidence, "canary") >= _GRADE_2:
                yield Finding("canary", "a lease claims a canary's evidence and names none", lease.index)
        elif canary.outcome != "contained" or canary.node != lease.node:
            words = f"a lease for {lease.node} rests on a canary {canary.outcome!r} on {canary.node}"
            yield Finding("canary", words, lease.index)

    def _storage(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        charter, jurisdiction, begins, ends = facts.stored(index, entry)
        country = self.charters[charter].charter.country
        if jurisdiction != country:
            words = f"data was stored in {jurisdiction[:40]!r}, the charter promises {country!r}"
            yield Finding("jurisdiction", words, index)
        if not begins < ends <= begins + _LONGEST_STORED_MS:
            yield Finding("lease", "a storage place was leased for no time, or for more than an hour", index)

    def _erasure(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        facts.erasure(index, entry)
        yield from self.consent.erased(index, entry, self._needed(), carried=self.restates)

    def _retention(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self.consent.retention.deleted(index, entry, carried=self.restates or not self._whole)

    def _export(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self.consent.exported(index, entry, self._needed(), carried=self.restates)

    def _revoked(self, _index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        time = facts.natural(entry, "time")
        # What is revoked is the node: the named lease and every earlier one of that node.
        for index, lease in self.leases.items():
            if index == entry["lease"] or (lease.node == entry["node"] and lease.expires > time):
                self.revoked.setdefault(index, time)
        yield from ()

    def _replica(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        replica = self.replicas[index] = facts.replica(index, entry)
        lease = self.leases[replica.lease]
        if lease.node != replica.node:
            yield Finding("replica", f"started on {replica.node} under a lease for {lease.node}", index)
        if not lease.not_before <= replica.time < lease.expires:
            yield Finding("replica", f"started outside the time of its lease {lease.index}", index)

    def _stopped(self, _index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        time = facts.natural(entry, "time")
        if entry["started"] is not None:  # else it was never routed to
            self.stopped.setdefault(entry["started"], time)
        facts.counters(entry)
        yield from ()

    def _canary(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        canary = self.canaries[index] = facts.canary(index, entry)
        if canary.outcome not in _CANARY_OUTCOMES:
            yield Finding("canary", f"unknown outcome {canary.outcome[:40]!r}", index)
        started = None if canary.started is None else self.replicas[canary.started]
        if started is not None and (started.node, started.replica) != (canary.node, canary.replica):
            yield Finding("canary", f"names {canary.replica}, but points at the start of {started.replica}", index)
        if canary.outcome == "escaped":
            if canary.started is not None:
                self.stopped.setdefault(canary.started, canary.time)
            yield Finding("escape", f"the canary got out of the sandbox of {canary.replica}", index, lie=False)

    def _key_revoked(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self.consent.revoked(index, entry["key"], facts.natural(entry, "time"), self._needed())

    def _alone(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        self.names.acted(entry)
        yield from self.consent.alone(index, entry, self.charters[entry["charter"]].charter.approvals)

    @staticmethod
    def _identity(index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        event, roles = facts.identity(entry)
        if event not in EVENTS:
            yield Finding("identity", f"unknown event {event[:40]!r}", index)
        if {"operator", "auditor"} <= roles:
            yield Finding("identity", "somebody operates and audits, and these exclude each other", index)

    def _proposal(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self.consent.proposed(facts.proposal(index, entry, self.origin))

    def _approval(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self.consent.approved(facts.approval(index, entry))

    def _agreed(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        latest = max(self.charters)
        yield from self.consent.done(index, entry, (latest, self.charters[latest].charter), self._needed())

    def _glass(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self.glasses.broken(index, entry)
        if entry["restates"] is not None and self._whole and not self.restates:
            yield Finding("glass", "glass restated from an older shard, and this log continues none", index)

    def _needed(self) -> int:
        """How many others must agree to what could weaken the promise now."""
        return self.charters[max(self.charters)].charter.approvals if self.charters and self._whole else 0

    def settle(self, now: int) -> Iterator[Finding]:
        """What is still open at a whole log's end, where the charter in force then says how long it may be."""
        if self.charters:
            yield from self.glasses.settle(now, self.charters[max(self.charters)].charter.review_ms)

    def promised(self) -> set[Charter]:
        """The charters that what was checked rests on; of a whole log with a ceremony, the one in force at its end."""
        if self._whole and self.ceremony is not None:
            return {self.charters[max(self.charters)].charter}
        return {item.charter for item in self.charters.values()}

    def lasts(self, request: InferenceFacts) -> tuple[int, int]:
        """First and last admission time for which `check` says of an equal request what it says of this one."""
        ends = [time for time in (self.keys[request.worker].not_after,) if time is not None]
        ends += _after(self.superseded, request.policy)
        starts = [0]
        if until := request.attributes.get("until"):
            ends.append(until - 1)
        if request.effect == "allow" and request.lease is not None:
            lease = self.leases[request.lease]
            starts.append(lease.not_before)
            ends += [lease.expires - 1, *_after(self.revoked, request.lease)]
            if request.replica is not None:
                starts.append(self.replicas[request.replica].time)
                ends += _after(self.stopped, request.replica)
        return max(starts), min(ends, default=1 << 62)

    def check(self, index: int, request: InferenceFacts) -> Iterator[Finding]:
        """Every rule for one `inference/v1` entry whose references have been checked."""
        for kind, words in self._rules(request):
            yield Finding(kind, words, index)
        if self._whole and request.effect == "allow" and request.model is not None:
            digest = self.models[request.model].described["digest"]
            yield from self.names.answered(index, request.requested_model, digest, carried=self.restates)

    def _rules(self, request: InferenceFacts) -> Iterator[tuple[str, str]]:
        key = self.keys[request.worker]
        if key.purpose != "worker":
            yield "worker", f"admitted under a key for {key.purpose!r}, expected a worker's"
        if key.not_after is not None and request.time > key.not_after:
            yield "worker", "admitted under an expired worker's key"
        for wrong in _shape(request):
            yield "shape", wrong
        if request.finished < request.time:
            yield "time", "finished before it was admitted"
        if request.cached_tokens > request.prompt_tokens:
            yield "usage", "more cached prompt tokens than prompt tokens"
        ended = self.superseded.get(request.policy)
        if ended is not None and request.time > ended + EFFECT_SLACK_MS:
            yield "policy", f"decided under policy {request.policy}, which another had replaced by then"
        yield from _outcome(request)
        if request.effect == "allow":
            yield from self._allowed(request)

    def _allowed(self, request: InferenceFacts) -> Iterator[tuple[str, str]]:
        if request.lease is None or request.model is None:
            yield "lease", "permitted without a lease or without a model"
            return
        yield from self._eligible(request)
        yield from self._lease_lives(request, request.lease, request.time)
        if self.models[request.model].effect != "allow":
            yield "model", f"permitted for model {request.model}, which was not admitted"
        if request.replica is not None:
            yield from self._route(request, request.replica, request.lease)
        for attempt in request.attempts:
            if (attempt.replica, attempt.lease) != (request.replica, request.lease):
                # A later attempt began at some time between admission and the end.
                yield from self._lease_lives(request, attempt.lease, request.finished)
                yield from self._route(request, attempt.replica, attempt.lease)
            stopped = self.stopped.get(attempt.replica)
            if attempt.outcome == "ok" and stopped is not None and request.time > stopped + EFFECT_SLACK_MS:
                yield "replica", f"answered by replica {attempt.replica} after it had stopped"

    def _eligible(self, request: InferenceFacts) -> Iterator[tuple[str, str]]:
        """The charter is held against the answer itself: the rules are the operator's, and could permit anything."""
        charter = self.charters[self.policies[request.policy].charter].charter
        citizenship, assurance = request.attributes["citizenship"], request.attributes["assurance"]
        if citizenship not in charter.users:
            users = ", ".join(charter.users)
            yield "citizenship", f"permitted to citizenship {citizenship[:20]!r}, the charter promises {users} only"
        if assurance not in ASSURANCE or ASSURANCE.index(assurance) < ASSURANCE.index(charter.assurance):
            yield "citizenship", f"permitted at assurance {assurance[:20]!r}, the charter asks for {charter.assurance}"
        issuer, until = request.attributes.get("issuer", VOUCHED), request.attributes.get("until", 0)
        if charter.issuers is not None and issuer not in charter.issuers:
            words = f"permitted on the word of {issuer[:80]!r}, the charter counts {', '.join(charter.issuers)} only"
            yield "citizenship", words
        if until and request.time >= until:
            yield "citizenship", f"permitted on a citizenship that was known until {until} only"
        if not request.policies or any(name.startswith(GATEWAY) for name in request.policies):
            yield "decision", "permitted, and by no rule of the policy"

    def _lease_lives(self, request: InferenceFacts, index: int, latest: int) -> Iterator[tuple[str, str]]:
        lease = self.leases[index]
        if lease.not_before > latest or request.time >= lease.expires:
            yield "lease", f"admitted at {request.time}, lease {index} was for {lease.not_before} to {lease.expires}"
        if lease.effect != "allow":
            yield "lease", f"lease {index} was not granted"
        country = self.charters[lease.charter].charter.country
        if lease.jurisdiction != country:
            yield "jurisdiction", f"computed in {lease.jurisdiction!r}, the charter promises {country!r}"
        revoked = self.revoked.get(index)
        if revoked is not None and request.time > revoked + EFFECT_SLACK_MS:
            yield "lease", f"admitted under lease {index} after it had been revoked"

    def _route(self, request: InferenceFacts, index: int, lease: int) -> Iterator[tuple[str, str]]:
        replica = self.replicas[index]
        if replica.node != self.leases[lease].node:
            yield "replica", f"replica {index} runs on {replica.node}, lease {lease} is for {self.leases[lease].node}"
        if replica.model != request.model:
            yield "replica", f"replica {index} serves model {replica.model}, the decision was about {request.model}"
        if replica.time > request.finished:
            yield "replica", f"replica {index} started after the request had ended"


def _amended(old: Charter, new: Charter, index: int) -> Iterator[Finding]:
    changed = [field.name for field in fields(Charter) if getattr(old, field.name) != getattr(new, field.name)]
    if changed:
        yield Finding("charter", f"the charter changed here: {', '.join(changed)}", index, lie=False)
    if (words := irreversible(old, new)) is not None:
        yield Finding("charter", words, index)


def _shape(request: InferenceFacts) -> Iterator[str]:
    if request.action not in INFERENCE_ACTIONS:
        yield f"unknown action {request.action[:40]!r}"
    if request.effect not in {"allow", "deny"} or request.outcome not in OUTCOMES:
        yield f"unknown effect {request.effect[:40]!r} or outcome {request.outcome[:40]!r}"
    if not REQUEST_ID.match(request.request_id):
        yield "the request id is not of Daulat's form"
    if not all(COMMITMENT.match(value) for value in (request.request, request.response) if value is not None):
        yield "a commitment is not the base64 of 32 bytes"


def _after(ended: Mapping[int, int], index: int) -> list[int]:
    return [ended[index] + EFFECT_SLACK_MS] if index in ended else []


def _outcome(request: InferenceFacts) -> Iterator[tuple[str, str]]:
    served = request.outcome == "ok" or request.status in _OK_STATUS or request.used
    if request.effect == "deny" and served:
        yield "denied", f"served (outcome {request.outcome[:20]!r}, status {request.status}) although refused"
    if request.outcome == "denied" and (request.used or request.status in _OK_STATUS):
        yield "denied", "served although its outcome says denied"
    if request.outcome == "ok" and request.effect == "allow":
        if request.status not in _OK_STATUS or request.response is None:
            sent = "no" if request.response is None else "a"
            yield "outcome", f"outcome ok with status {request.status} and {sent} response"
        if not request.attempts or request.attempts[-1].outcome != "ok":
            yield "outcome", "outcome ok, but no replica's attempt is"


def shortfalls(chain: Chain) -> Iterator[str]:
    """What holds, and is less than it should be, in words. Each once."""
    for charter in chain.promised():
        if charter.profile == "evaluation":
            yield 'profile "evaluation": this installation was never put into production by a key ceremony'
        elif chain.ceremony is None:
            yield f'profile "{charter.profile}", and no key ceremony is shown that put it into production'
        if charter.approvals == 0:
            yield "approvals 0: one operator alone may change anything"
    outside = [lease.evidence for lease in chain.leases.values() if facts.ELSEWHERE in lease.evidence]
    inside = [lease.evidence for lease in chain.leases.values() if facts.ELSEWHERE not in lease.evidence]
    kinds = [kind for kind in facts.EVIDENCE if kind != facts.ELSEWHERE]
    for kind in sorted(kind for kind in kinds if any(grade(evidence, kind) < _GRADE_2 for evidence in inside)):
        yield f"evidence {kind!r} of a lease is G1 or absent: nobody but the operator vouches for it"
    for name in sorted({evidence[facts.ELSEWHERE]["grade"] for evidence in outside}):
        whose = "the operator's word alone" if name == GRADES[0] else "another organisation's word"
        yield f"an engine outside Daulat may answer ({name}): no sandbox, no canary, its model and its place {whose}"
    if any(replica.answers == "none" for replica in chain.replicas.values()):
        yield "an engine's answers are not checked: nothing would show that it computes nonsense"
    if any(not model.described["signed_by"] for model in chain.models.values()):
        yield "a model is not signed by its maker: only its digest is known"


def expect_none(findings: Iterator[Finding]) -> None:
    """For receipts: the first finding ends the check.

    Raises:
        VerificationFailed: with the finding's words.
    """
    for finding in findings:
        if finding.lie:
            raise VerificationFailed(str(finding))

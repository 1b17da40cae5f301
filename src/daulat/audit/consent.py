"""The rule of two persons, checked from the log alone: what could weaken the promise was agreed to, once, by enough.

`core.consent` says what is signed. Operators are told apart by the pseudonyms that their keys bear; whose vouching says
that two pseudonyms are two people, the log shows as well.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from daulat.audit import facts
from daulat.audit.facts import CeremonyFacts, KeyFacts, ProposalFacts
from daulat.audit.finding import Finding
from daulat.audit.retention import Retention
from daulat.core.charter import Charter
from daulat.core.consent import (
    ALONE,
    CHARTER,
    ERASURES,
    LOG_KEY,
    LONGEST_MS,
    MODEL,
    OPERATOR,
    POLICY,
    Kind,
    Proposed,
    naming,
)
from daulat.core.export import ACT as EXPORT
from daulat.core.export import HELD
from daulat.core.principal import VOUCHED
from daulat.core.retention import SET as RETENTION
from daulat.errors import VerificationFailed
from daulat.tlog.note import Verifier

_SAID_BY: Final = {
    "charter/v1": (CHARTER, "sha256"),
    "policy/v1": (POLICY, "version"),
    "model.admitted/v1": (MODEL, "digest"),
}


ADD, RENEW, REVOKE = "operator.add", "operator.renew", "operator.revoke"


class Consent:
    """Proposals, approvals and what was done of them. Entries come in ascending order, their references checked."""

    def __init__(self, keys: Mapping[int, KeyFacts]) -> None:
        """`keys`: of the log, by index, as they come to be known."""
        self._keys = keys
        self._proposals: dict[int, ProposalFacts] = {}
        self._approvals: dict[int, facts.ApprovalFacts] = {}
        self._revoked: dict[int, int] = {}  # key -> time
        self._ids: set[str] = set()
        self._done: set[int] = set()
        self.agreed: set[tuple[str, str]] = set()  # (action, payload) of what was done, and is not in force yet
        self._urgent: dict[tuple[str, str], int] = {}  # the same by breaking glass, and until when (Unix milliseconds)
        self.had: dict[str, set[str]] = {MODEL: set()}  # payloads by action: the one in force; of models all there were
        # Operators' vkeys that were agreed to and are not certified yet, and until when, where that was agreed to.
        self._coming: dict[str, int | None] = {}
        self._vouched: dict[str, tuple[str, ...]] = {}  # citizenship, assurance and issuer, of whom this log tells
        self._leaving: set[str] = set()  # and those whose end was agreed to
        self._known: set[str] = set()  # operators' vkeys that were certified here, once
        self.carried: dict[str, int | None] = {}  # of these, what an older shard is said to have had, and until when
        self.rotations: dict[str, int] = {}  # payloads of what an older shard has to have agreed to, and where they are
        self.erasing: set[tuple[str, str]] = set()  # (scope, subject) that it was agreed to erase
        self.erased_later: dict[tuple[str, str], int] = {}  # that an older shard has to have agreed to, and where
        self.retention = Retention()
        self._exports: Counter[str] = Counter()  # by subject, how often it was agreed to and not done yet

    def proposed(self, proposal: ProposalFacts) -> Iterator[Finding]:
        """Take in a proposal, and check it."""
        self._proposals[proposal.index] = proposal
        if proposal.proposed.proposal in self._ids:
            yield Finding("consent", "a second proposal of one id", proposal.index)
        self._ids.add(proposal.proposed.proposal)
        if not 0 < proposal.proposed.expires - proposal.time <= LONGEST_MS:
            yield Finding(
                "consent", "a proposal that ends before it begins, or after more than 31 days", proposal.index
            )
        yield from self._signed("proposal", proposal, proposal)

    def approved(self, approval: facts.ApprovalFacts) -> Iterator[Finding]:
        """Take in an approval, and check it."""
        self._approvals[approval.index] = approval
        proposal = self._proposals[approval.proposal]
        if not proposal.time <= approval.time <= proposal.proposed.expires:
            yield Finding("consent", "an approval from before or after its proposal", approval.index)
        yield from self._signed("approval", proposal, approval)

    def ceremony(self, held: CeremonyFacts) -> None:
        """From then on nobody else's key signs anything, and what it names may come into force."""
        seats = {seat.vkey for seat in held.ceremony.seats}
        if held.restates is None:
            for index, key in self._keys.items():
                if key.purpose == OPERATOR and key.vkey not in seats:
                    self._revoked.setdefault(index, held.time)
            self._coming |= dict.fromkeys(seats - self._known)
            for seat in held.ceremony.seats:
                self._vouched[seat.vkey] = (seat.citizenship, seat.assurance, VOUCHED)
            self.agreed.add((POLICY, _payload(held.ceremony.rules)))
        self.agreed |= {(MODEL, _payload(model)) for model in held.ceremony.models} - self._admitted()

    def certified(self, key: KeyFacts, needed: int, *, carried: bool) -> Iterator[Finding]:
        """A key. An operator's comes by consent, or by a ceremony. `carried`: this log goes on from an older shard."""
        if key.purpose != OPERATOR:
            return
        if needed and key.vkey not in self._coming:
            if carried and key.vkey not in self._known:
                self.carried[key.vkey] = key.not_after
            else:
                yield Finding("approvals", "an operator's key that nobody had agreed to", key.index)
        if longer(key.not_after, self._coming.pop(key.vkey, None)):
            yield Finding("approvals", "an operator's key for longer than had been agreed to", key.index)
        self._known.add(key.vkey)

    def rotated(self, index: int, statement: bytes, needed: int, *, carried: bool) -> Iterator[Finding]:
        """The log's own key was replaced. `carried`: a shard begins so, and the one before has the agreement."""
        payload = hashlib.sha256(statement).hexdigest()
        if carried:
            self.rotations[payload] = index
        elif needed and (LOG_KEY, payload) not in self.agreed:
            yield Finding("approvals", "the log's key was replaced, and nobody had agreed to that", index)

    def revoked(self, index: int, key: int, time: int, needed: int) -> Iterator[Finding]:
        """From then on this key signs nothing. Nobody takes an operator's away alone."""
        if needed and self._keys[key].purpose == OPERATOR and self._keys[key].vkey not in self._leaving:
            yield Finding("approvals", "an operator's key was revoked, and nobody had agreed to that", index)
        renewed = [at for at, known in self._keys.items() if known.vkey == self._keys[key].vkey]
        for at in renewed if self._keys[key].purpose == OPERATOR else [key]:
            self._revoked.setdefault(at, time)

    def urgent(self, made: Proposed) -> None:
        """What glass was broken for may come into force, until its end."""
        self._urgent[made.action, made.payload] = made.expires

    def may_sign(self, vkey: str, time: int) -> bool:
        """Whether this is an operator's key, and was valid then."""
        return any(
            key.vkey == vkey and key.purpose == OPERATOR and self._valid(key, time) for key in self._keys.values()
        )

    def operators(self) -> dict[str, int | None]:
        """The vkeys of those who may sign at the end of what was read, and until when; None: for good."""
        found: dict[str, int | None] = {}
        for at, key in self._keys.items():
            if key.purpose != OPERATOR or at in self._revoked:
                continue
            if key.vkey not in found or longer(key.not_after, found[key.vkey]):
                found[key.vkey] = key.not_after
        return found

    def alone(self, index: int, entry: Mapping[str, Any], needed: int) -> Iterator[Finding]:
        """An act of one operator, where the charter asks `needed` others to agree."""
        action = str(entry["action"])[:40]  # of a strange log, anything
        roles = entry["detail"].get("roles") if isinstance(entry["detail"], dict) else None
        manages = (
            action in {"person.add", "person.change"}
            and roles is not None
            and (not isinstance(roles, list) or OPERATOR in roles)
        )
        if needed and (action not in ALONE or manages):
            words = f"{action!r} was done by one operator, and needs the approval of {needed} others"
            yield Finding("approvals", words, index)

    def done(
        self, index: int, entry: Mapping[str, Any], charter: tuple[int, Charter], needed: int
    ) -> Iterator[Finding]:
        """An act that was agreed to, under the charter in force then. Whose time was over by then does not count."""
        proposal, time = self._proposals[entry["proposal"]], facts.natural(entry, "time")
        if proposal.index in self._done:
            yield Finding("consent", f"proposal {proposal.index} was carried out a second time", index)
        self._done.add(proposal.index)
        if time > proposal.proposed.expires:
            yield Finding("consent", f"proposal {proposal.index} was carried out after its end", index)
        if proposal.charter != charter[0]:
            yield Finding("consent", f"proposal {proposal.index} was made under another charter", index)
        given = [self._approvals[approval] for approval in entry["approvals"]]
        if any(approval.proposal != proposal.index for approval in given):
            yield Finding("consent", "carried out on approvals of another proposal", index)
        standing = [each for each in given if self._stands(self._keys[each.key].vkey, time, charter[1])]
        others = {self._holder(approval.key) for approval in standing} - {self._holder(proposal.key)}
        detail = entry["detail"] if isinstance(entry["detail"], dict) else {}
        if proposal.proposed.action == RENEW:  # nobody vouches for themselves
            others -= {str(entry["subject"]), str(detail.get("key")).partition("+")[0]}
        if len(others) < needed:
            yield Finding("approvals", f"done with the approval of {len(others)} others, {needed} are needed", index)
        self.agreed.add((proposal.proposed.action, proposal.proposed.payload))
        if isinstance(detail.get("key"), str):
            yield from self._operator(index, proposal.proposed.action, detail)
        self._follows(proposal.proposed.action, entry)

    def _follows(self, action: str, entry: Mapping[str, Any]) -> None:
        """What may be done from now on, because it was agreed to."""
        if action == RETENTION:
            self.retention.set(entry)
        if action == EXPORT:
            self._exports[str(entry["subject"])] += 1
        if scope := ERASURES.get(action):
            self.erasing.add((scope, str(entry["subject"])))

    def _operator(self, index: int, action: str, detail: Mapping[str, Any]) -> Iterator[Finding]:
        """An operator comes, stays for longer or leaves: what of it is to follow."""
        vkey = detail["key"]
        if action == RENEW and (vkey not in self._known or vkey not in self.operators()):
            yield Finding("consent", "somebody was renewed who is no operator here", index)
        if action == REVOKE:
            self._leaving.add(vkey)
        if action in {ADD, RENEW}:
            end = detail.get("expires")
            self._coming[vkey] = None if action == ADD else end if type(end) is int else 0
            if {"citizenship", "assurance", "issuer"} <= detail.keys():
                self._vouched[vkey] = tuple(str(detail[name]) for name in ("citizenship", "assurance", "issuer"))

    def _stands(self, vkey: str, time: int, charter: Charter) -> bool:
        """Whether this operator's approval counted then, as far as the log tells what was vouched for them."""
        fit = vkey not in self._vouched or not charter.unfit(*self._vouched[vkey])
        return fit and self.may_sign(vkey, time)

    def erased(self, index: int, entry: Mapping[str, Any], needed: int, *, carried: bool) -> Iterator[Finding]:
        """Somebody's keys were destroyed, while `needed` others had to agree to it. `carried`: perhaps in an older
        shard: the vault was away, or the erasure was repeated after a control database had been set back."""
        what = (entry["scope"], entry["subject"])
        if not needed or what in self.erasing:
            return
        if carried:
            self.erased_later.setdefault(what, index)
        else:
            yield Finding("approvals", f"a {str(entry['scope'])[:20]} was erased, and nobody has agreed to it", index)

    def exported(self, index: int, entry: Mapping[str, Any], needed: int, *, carried: bool) -> Iterator[Finding]:
        """Somebody's data was given out: each agreement is good for once. `carried`: an older shard may have it.

        Raises:
            VerificationFailed: a value has a wrong type.
        """
        if not isinstance(entry["held"], dict) or set(entry["held"]) != set(HELD):
            raise VerificationFailed(f"an export counts {', '.join(HELD)}")
        for name in HELD:
            facts.natural(entry["held"], name)
        subject = entry["subject"]
        if not isinstance(subject, str) or not isinstance(entry["digest"], str) or type(entry["sealed"]) is not bool:
            raise VerificationFailed("an export names whose it is, its digest, and whether it is sealed")
        if needed and not carried and not self._exports[subject]:
            yield Finding("approvals", "somebody's data was given out, and nobody has agreed to it", index)
        self._exports[subject] -= bool(self._exports[subject])

    def rests(self, index: int, entry: Mapping[str, Any], needed: int) -> Iterator[Finding]:
        """A charter, rules or a model that came into force while `needed` others had to agree to it.

        What is in force already is nothing new, and a model that was admitted once stays so. An agreement is good for
        once: who agreed to a charter did not agree to come back to it later, nor to another one that waits beside it.
        """
        action, field = _SAID_BY[entry["type"]]
        digest = str(entry[field])
        payload = _payload(digest)
        had = self.had.setdefault(action, set())
        urgent = self._urgent.get((action, payload), -1) >= facts.natural(entry, "time")
        agreed = (action, payload) in self.agreed or urgent
        if needed and payload not in had and not agreed and entry.get("restates") is None:
            words = f"{action} to {digest[:16]} was agreed to by nobody, {needed} are needed"
            yield Finding("approvals", words, index)
        if action == MODEL:
            self.agreed.discard((action, payload))
        else:
            self.agreed = {agreed for agreed in self.agreed if agreed[0] != action}
        self.had[action] = {payload} | (had if action == MODEL else set())

    def _signed(
        self, kind: Kind, proposal: ProposalFacts, by: ProposalFacts | facts.ApprovalFacts
    ) -> Iterator[Finding]:
        key = self._keys[by.key]
        if key.purpose != OPERATOR:
            yield Finding(
                "consent", f"a {kind} signed by a key for {key.purpose[:20]!r}, expected an operator's", by.index
            )
        if not self._valid(key, by.time):
            yield Finding("consent", f"a {kind} signed by a key that was not valid then", by.index)
        try:
            Verifier(key.vkey).verify_bytes(proposal.proposed.statement(kind), by.signature)
        except VerificationFailed as error:
            yield Finding("consent", f"a {kind}: {error.message}", by.index)

    def _valid(self, key: KeyFacts, time: int) -> bool:
        ends = [end for end in (key.not_after, self._revoked.get(key.index)) if end is not None]
        return key.time <= time <= min(ends, default=time)

    def _admitted(self) -> set[tuple[str, str]]:
        return {(MODEL, payload) for payload in self.had[MODEL]}

    def _holder(self, key: int) -> str:
        return Verifier(self._keys[key].vkey).name


def longer(end: int | None, than: int | None) -> bool:
    """Whether one end (Unix milliseconds) is after another; None is the one after all others."""
    return than is not None and (end is None or end > than)


def _payload(digest: str) -> str:
    """The digest of the payload that names this one."""
    return hashlib.sha256(naming(digest)).hexdigest()

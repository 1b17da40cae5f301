"""What a log's new shard begins with, held against the end of the shard before it: nothing changes between the two.

Within one shard `audit.consent` sees every change. Its first charter, rules, models and operators restate those of an
older one, which only an audit of both can show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from daulat.audit.chain import Chain
from daulat.audit.consent import longer
from daulat.audit.facts import CeremonyFacts
from daulat.audit.finding import Finding
from daulat.core.charter import Charter, irreversible
from daulat.core.consent import CHARTER, LOG_KEY, MODEL, POLICY, naming


@dataclass(frozen=True, slots=True)
class Opening:
    """What a shard claims to have from the one before. Digests and versions as they stand in the entries."""

    charter: Charter
    sha256: str
    rules: str | None
    models: frozenset[str]
    operators: Mapping[str, int | None]  # vkeys, and until when; None: for good
    ceremony: CeremonyFacts | None
    glasses: Mapping[str, object]  # broken, and their review still open; by proposal
    rotations: Mapping[str, int]  # changes of the log's key, by their payload's digest: where
    erased: Mapping[tuple[str, str], int]  # scopes and subjects of erasures, and where


@dataclass(frozen=True, slots=True)
class Closing:
    """What was in force at a shard's end, and what had been agreed to and was not in force yet."""

    charter: Charter
    sha256: str
    rules: str | None
    models: frozenset[str]  # digests of payloads
    operators: Mapping[str, int | None]
    agreed: frozenset[tuple[str, str]]
    ceremony: CeremonyFacts | None
    glasses: Mapping[str, object]
    erasing: frozenset[tuple[str, str]]  # scopes and subjects, of older shards too


def opening(chain: Chain) -> Opening | None:
    """None where nothing could be read, or nothing is restated."""
    if not chain.restates:
        return None
    first, rules = chain.charters[0], chain.policies[min(chain.policies)].version if chain.policies else None
    models = frozenset(model.described["digest"] for model in chain.models.values() if model.restated)
    restated = chain.ceremony if chain.ceremony is not None and chain.ceremony.restates is not None else None
    consent, glasses = chain.consent, chain.glasses.restated()
    return Opening(
        first.charter,
        first.sha256,
        rules,
        models,
        consent.carried,
        restated,
        glasses,
        consent.rotations,
        consent.erased_later,
    )


def closing(chain: Chain) -> Closing | None:
    """None where no charter could be read."""
    if not chain.charters:
        return None
    last, rules = chain.charters[max(chain.charters)], chain.policies[max(chain.policies)] if chain.policies else None
    consent = chain.consent
    return Closing(
        last.charter,
        last.sha256,
        None if rules is None else rules.version,
        frozenset(consent.had[MODEL]),
        _until(consent.operators(), chain.ceremony),
        frozenset(consent.agreed),
        chain.ceremony,
        chain.glasses.open(),
        frozenset(consent.erasing | consent.erased_later.keys()),
    )


def compare(old: Closing, new: Opening) -> Iterator[Finding]:
    """What the new shard begins with and the old one did not end with, and nobody had agreed to."""
    if words := irreversible(old.charter, new.charter):
        yield Finding("charter", f"the charter changed with the shard: {words}", 0)
    if _ceremony(old.ceremony) != _ceremony(new.ceremony):
        yield Finding("ceremony", "the key ceremony is another than that of the shard before, or is missing", 0)
    if old.glasses != new.glasses:
        words = "the broken glass whose review is open is not that which the shard before left open"
        yield Finding("glass", words, 0)
    if old.charter.approvals:
        yield from _unagreed(old, new)


def _unagreed(old: Closing, new: Opening) -> Iterator[Finding]:
    for action, before, after in ((CHARTER, old.sha256, new.sha256), (POLICY, old.rules, new.rules)):
        if after not in {None, before} and (action, _payload(str(after))) not in old.agreed:
            yield Finding("approvals", f"{action} with the new shard, which nobody had agreed to", 0)
    for payload, index in new.rotations.items():
        if (LOG_KEY, payload) not in old.agreed:
            words = "the log's key changed with the shard, and nobody had agreed to that in the one before"
            yield Finding("approvals", words, index)
    for (scope, subject), index in new.erased.items():
        if (scope, subject) not in old.erasing:
            words = f"a {scope} was erased, and nobody has agreed to it here or in a shard before"
            yield Finding("approvals", words, index)
    for digest in sorted(new.models):
        if (payload := _payload(digest)) not in old.models and (MODEL, payload) not in old.agreed:
            yield Finding("approvals", f"model {digest[:16]} is not one of the shard before, as it says", 0)
    yield from _operators(old.operators, new.operators)


def _operators(old: Mapping[str, int | None], new: Mapping[str, int | None]) -> Iterator[Finding]:
    for vkey in sorted(new):
        who = f"operator {vkey.partition('+')[0]}"
        if vkey not in old:
            yield Finding("approvals", f"{who} had no key in the shard before", 0)
        elif longer(new[vkey], old[vkey]):
            yield Finding("approvals", f"{who} stays for longer than in the shard before", 0)


def _until(operators: Mapping[str, int | None], held: CeremonyFacts | None) -> dict[str, int | None]:
    """With what the ceremony says: whoever had a key before it kept that one."""
    found = dict(operators)
    for seat in () if held is None else held.ceremony.seats:
        if seat.vkey in found and longer(seat.expires, found[seat.vkey]):
            found[seat.vkey] = seat.expires
    return found


def _ceremony(held: CeremonyFacts | None) -> object:
    return None if held is None else (held.ceremony, held.signatures)


def _payload(digest: str) -> str:
    return hashlib.sha256(naming(digest)).hexdigest()

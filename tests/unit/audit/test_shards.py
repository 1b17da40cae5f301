"""Two shards of one log: what changed between them, and nobody had agreed to, is a lie that only both can show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support import consents, logs
from tests.support.consents import ONE, PRODUCTION, held
from tests.support.logs import T0, VERIFIER, Step, terms

from daulat.audit import shards
from daulat.audit.log import Report, audit
from daulat.tlog.note import Signer

BEFORE = {"origin": "ai.example/2025", "index": 0}


def older(*more: Step) -> shards.Closing:
    report = audit(logs.write(None, [*consents.story(), *more]), VERIFIER, terms())
    assert report.holds, report.findings.kept
    assert report.closing is not None
    return report.closing


def newer(*more: Step, **changes: Any) -> Report:
    """A shard that restates everything of the older one; its operators and its model have no consent of their own."""
    what = held(PRODUCTION, origin="ai.example/2025")
    restated = {**consents.ceremony(PRODUCTION, what=what), "restates": BEFORE}
    steps = logs.without(consents.story(), *(f"model-consent-{name}" for name in ("proposal", "two", "three", "done")))
    given = {"charter": {"restates": BEFORE}, "policy": {"restates": BEFORE}, "model": {"restates": BEFORE}}
    given["ceremony"] = {name: restated[name] for name in ("origin", "signatures", "restates")}
    for name, fields in changes.items():
        given[name.replace("_", "-")] = {**given.get(name, {}), **fields}
    return audit(logs.write(given, [*steps, *more]), VERIFIER, terms())


def compared(old: shards.Closing, report: Report) -> str:
    assert report.holds, [str(finding) for finding in report.findings.kept if finding.lie]
    assert report.opening is not None
    return " ".join(str(finding) for finding in shards.compare(old, report.opening))


def was(old: shards.Closing) -> shards.Closing:
    """The older shard's end, whose ceremony was held for the older shard's own name."""
    assert old.ceremony is not None
    restated = newer().opening
    assert restated is not None
    return replace(old, ceremony=restated.ceremony)


@pytest.fixture(scope="module")
def old() -> shards.Closing:
    return was(older())


def test_what_is_restated_as_it_was_holds(old: shards.Closing) -> None:
    assert compared(old, newer()) == ""


def test_a_charter_that_changed_exactly_when_the_shard_rolled_is_found(old: shards.Closing) -> None:
    text = logs.charter_text(approvals=2, profile="production").replace('"substantial"', '"low"')
    said = {**PRODUCTION, "text": text, "sha256": logs.policy_file("", text)["sha256"]}
    found = compared(old, newer(charter=said))
    assert "charter.change with the new shard, which nobody had agreed to" in found
    agreed = consents.proposed(8, "charter.change", consents.named(said["sha256"]))
    there = was(older(*consents.steps(agreed, "agreed", at=20_000)))
    assert compared(there, newer(charter=said)) == ""


def test_a_charter_that_left_production_with_the_shard_is_found(old: shards.Closing) -> None:
    said = logs.charter(approvals=1, profile="production")
    text = said["text"].replace("floor = 1\n", "")
    report = newer(charter={**said, "text": text, "sha256": logs.policy_file("", text)["sha256"]})
    assert "the floor is 1 for good" in compared(old, report)


def test_rules_models_and_operators_of_a_new_shard_are_those_of_the_old_one(old: shards.Closing) -> None:
    assert "policy.change with the new shard" in compared(old, newer(policy={"version": "2" * 64}))
    digest = {"digest": "e" * 64}
    assert "model eeeeeeeeeeeeeeee is not one of the shard before" in compared(old, newer(model=digest))
    sock = Signer("s" * 22, bytes([44] * 32))
    found = compared(old, newer(key_three={"vkey": sock.vkey, "name": sock.name}))
    assert "operator ssssssssssssssssssssss had no key in the shard before" in found


def test_an_operator_who_was_revoked_does_not_come_back_with_a_new_shard() -> None:
    leaving = consents.steps(consents.proposed(9, "operator.revoke", "9" * 64), "leaving", at=20_000)
    leaving[-1] = replace(leaving[-1], fields={**leaving[-1].fields, "detail": {"key": ONE.vkey}})
    gone = Step("gone", "key.revoked/v1", {"time": T0 + 20_010, "key": logs.Ref("key-one"), "reason": "left"})
    assert f"operator {ONE.name} had no key" in compared(was(older(*leaving, gone)), newer())


def test_an_operator_does_not_stay_for_longer_because_the_shard_rolled() -> None:
    until = T0 + 400 * consents.DAY_MS
    ends = {f"key_{who}": {"not_after": until} for who in ("one", "two", "three")}
    plain = was(older())
    short = replace(plain, operators=dict.fromkeys(plain.operators, until - 1))
    assert f"operator {ONE.name} stays for longer than in the shard before" in compared(short, newer(**ends))
    assert "stays for longer" in compared(short, newer()), "for good is longer still"
    assert compared(replace(plain, operators=dict.fromkeys(plain.operators, until)), newer(**ends)) == ""
    renewed = was(older(*consents.renewed()))
    assert compared(renewed, newer(key_one={"not_after": consents.UNTIL})) == ""


def test_whoever_had_a_key_before_the_ceremony_stays_as_long_as_it_says() -> None:
    seats = {seat.vkey: seat.expires for seat in consents.SEATS}
    report = audit(logs.write({"key-one": {"not_after": T0 + consents.DAY_MS}}, consents.story()), VERIFIER, terms())
    assert report.closing is not None
    assert report.closing.operators[ONE.vkey] == seats[ONE.vkey]


def test_an_erasure_of_a_new_shard_was_agreed_to_in_the_old_one_or_is_found(old: shards.Closing) -> None:
    """The vault was away over the roll, or it was repeated after a control database had been set back."""
    said = {"scope": "person", "subject": "d" * 22, "keys": 0, "objects": 0, "rows": 3}
    later = newer(Step("erasure", "erasure/v1", {"time": T0 + 60, "charter": logs.Ref("charter"), **said}))
    words = "a person was erased, and nobody has agreed to it here or in a shard before"
    assert words in compared(old, later)
    agreed = consents.steps(consents.proposed(8, "person.erase", "8" * 64), "erase", at=20_000)
    agreed[-1] = replace(agreed[-1], fields={**agreed[-1].fields, "subject": "d" * 22})
    assert compared(was(older(*agreed)), later) == ""
    assert later.closing is not None
    assert ("person", "d" * 22) in later.closing.erasing, "and so it may be repeated in the shard after"


def test_a_ceremony_that_is_missing_or_another_is_found(old: shards.Closing) -> None:
    assert "the key ceremony is another" in compared(replace(old, ceremony=None), newer())
    opening = newer().opening
    assert opening is not None
    found = [str(finding) for finding in shards.compare(old, replace(opening, ceremony=None))]
    assert any("or is missing" in words for words in found)


def test_what_begins_a_log_of_its_own_restates_nothing() -> None:
    assert audit(logs.write(), VERIFIER, terms()).opening is None

"""The rule of two persons, from the log alone: what was not agreed to by enough, once, in time, is a lie."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import consents, logs
from tests.support.consents import (
    DAY_MS,
    ONE,
    PRODUCTION,
    THREE,
    TWO,
    approval,
    done,
    named,
    proposal,
    proposed,
    signed,
)
from tests.support.logs import T0, VERIFIER, Ref, Step, terms

from daulat.audit import receipt as receipts
from daulat.audit.log import Report, audit
from daulat.core.consent import ALONE, Proposed

IT = proposed(7, "erasure.person", "e" * 64)


def audited(steps: Sequence[Step], changes: Mapping[str, Any] | None = None, **charter: Any) -> Report:
    said = logs.charter(**charter) if charter else PRODUCTION
    signed = {"ceremony": consents.ceremony(said)} if any(step.name == "ceremony" for step in steps) else {}
    return audit(logs.write({"charter": said, **signed, **(changes or {})}, steps), VERIFIER, terms())


def story(*, what: Proposed = IT) -> list[Step]:
    """The story by consent, and one more act, "it", that was agreed to."""
    return logs.after(consents.story(), "model", *consents.steps(what, at=51))


def words(report: Report) -> str:
    return " ".join(str(finding) for finding in report.findings.kept if finding.lie)


def lies(changes: Mapping[str, Any], *, steps: Sequence[Step] | None = None) -> str:
    report = audited(story() if steps is None else steps, changes)
    assert not report.holds
    return words(report)


def test_what_two_others_agreed_to_holds() -> None:
    report = audited(story())
    assert report.holds, words(report)
    assert not any("approvals" in short or "profile" in short for short in report.short)


def test_what_one_agreed_to_is_enough_where_the_charter_asks_for_one() -> None:
    fewer = {"it-done": {"approvals": [Ref("it-two")]}}
    assert audited(story(), fewer, approvals=1, profile="production").holds
    assert "approval of 1 others, 2 are needed" in lies(fewer)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"it-done": {"approvals": []}}, "approval of 0 others"),
        ({"it-done": {"approvals": [Ref("it-two"), Ref("it-two")]}}, "approval of 1 others"),
        ({"it-done": {"approvals": [Ref("model-consent-two"), Ref("it-three")]}}, "approvals of another proposal"),
        ({"it-done": {"proposal": Ref("model-consent-proposal")}}, "carried out a second time"),
        ({"it-done": {"time": T0 + DAY_MS + 1}}, "carried out after its end"),
        ({"it-proposal": {"payload": "f" * 64}}, "not aaaaaaaaaaaaaaaaaaaaaa's over these bytes"),
        ({"it-proposal": {"prior": "1" * 64}}, "over these bytes"),
        ({"it-proposal": {"action": "operator.add"}}, "over these bytes"),
        ({"it-proposal": {"expires": T0 + DAY_MS - 1}}, "over these bytes"),
        ({"it-proposal": {"proposal": consents.MODEL.proposal}}, "a second proposal of one id"),
        ({"it-proposal": {"key": Ref("key-two")}}, "not bbbbbbbbbbbbbbbbbbbbbb's over these bytes"),
        ({"it-proposal": {"key": Ref("worker")}}, "signed by a key for 'worker', expected an operator's"),
        ({"it-two": {"key": Ref("worker")}}, "signed by a key for 'worker', expected an operator's"),
        ({"it-two": {"signature": signed("proposal", IT, TWO)}}, "over these bytes"),
        ({"it-two": {"signature": signed("approval", replace(IT, payload="f" * 64), TWO)}}, "over these bytes"),
        ({"it-two": {"signature": signed("approval", replace(IT, origin="other.example/1"), TWO)}}, "over these bytes"),
        ({"it-two": {"signature": signed("approval", IT, THREE)}}, "over these bytes"),
        ({"it-two": {"signature": "AAAA"}}, "base64 of 64 bytes"),
        ({"it-two": {"signature": "\u00e9"}}, "not base64"),
        ({"it-two": {"time": T0 + DAY_MS + 1}}, "before or after its proposal"),
        ({"it-two": {"time": T0 + 50}}, "before or after its proposal"),
        ({"key-two": {"not_after": T0 + 51}}, "a key that was not valid then"),
        ({"key-two": {"time": T0 + 60}}, "a key that was not valid then"),
    ],
)
def test_anything_less_is_a_lie(changes: Mapping[str, Any], expected: str) -> None:
    assert expected in lies(changes)


def test_the_proposer_does_not_count_among_those_who_agree() -> None:
    own = Step("it-one", "approval/v1", approval(52, IT, "one", "it-proposal"))
    steps = logs.after(story(), "it-three", own)
    assert "approval of 1 others" in lies({"it-done": {"approvals": [Ref("it-one"), Ref("it-two")]}}, steps=steps)


def test_two_keys_of_one_holder_are_one_person() -> None:
    again = type(TWO)(TWO.name, bytes([99] * 32))
    changes = {
        "key-three": {"vkey": again.vkey, "name": again.name},
        "it-three": {"signature": signed("approval", IT, again)},
        "model-consent-three": {"signature": signed("approval", consents.MODEL, again)},
    }
    assert "approval of 1 others" in lies(changes)


def test_a_key_that_was_revoked_signs_nothing_more() -> None:
    gone = Step("gone", "key.revoked/v1", {"time": T0 + 51, "key": Ref("key-three"), "reason": "left"})
    found = lies({}, steps=logs.after(story(), "model", gone))
    assert "a key that was not valid then" in found
    assert "an operator's key was revoked, and nobody had agreed to that" in found
    leaving = consents.steps(proposed(9, "operator.revoke", "9" * 64), "leaving", at=60)
    leaving[-1] = replace(leaving[-1], fields={**leaving[-1].fields, "detail": {"key": THREE.vkey}})
    after = Step("gone", "key.revoked/v1", {**gone.fields, "time": T0 + 70})
    agreed = audited(logs.after(story(), "it-done", *leaving, after))
    assert agreed.holds, words(agreed)


RENEWED = [*consents.story(), *consents.renewed()]
SECOND = Step("key-more", "key/v1", logs.key(20_010, "operator", ONE.vkey, not_after=consents.UNTIL))


def test_an_operator_who_was_renewed_signs_with_the_new_certificate_when_the_old_one_is_over() -> None:
    after = consents.steps(IT, "after", at=20_500)
    mine = replace(after[0], fields={**after[0].fields, "key": Ref("key-again")})
    ends = {"key-one": {"not_after": T0 + 20_100}}
    report = audited([*RENEWED, mine, *after[1:]], ends)
    assert report.holds, words(report)
    assert "a key that was not valid then" in lies(ends, steps=[*RENEWED, *after])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"renewal-done": {"approvals": [Ref("renewal-two")]}}, "approval of 1 others"),
        ({"renewal-done": {"subject": TWO.name}}, "approval of 1 others"),
        ({"renewal-done": {"detail.key": TWO.vkey}}, "approval of 1 others"),
        ({"renewal-done": {"detail.key": logs.STRANGER.vkey}}, "renewed who is no operator here"),
        ({"renewal-done": {"detail.expires": consents.UNTIL - 1}}, "key for longer than had been agreed to"),
        ({"renewal-done": {"detail.expires": "long"}}, "key for longer than had been agreed to"),
        ({"renewal-done": {"detail": {}}}, "key that nobody had agreed to"),
        ({"key-again": {"not_after": None}}, "key for longer than had been agreed to"),
        ({"key-again": {"vkey": TWO.vkey, "name": TWO.name}}, "key that nobody had agreed to"),
        ({"renewal-proposal": {"payload": "f" * 64}}, "over these bytes"),
    ],
)
def test_a_renewal_that_the_others_did_not_agree_to_is_a_lie(changes: Mapping[str, Any], expected: str) -> None:
    assert audited(RENEWED).holds
    assert expected in lies(changes, steps=RENEWED)


def test_a_renewal_is_for_once_and_none_is_a_key_that_comes_again() -> None:
    assert "key that nobody had agreed to" in lies({}, steps=[*RENEWED, SECOND])
    assert "key that nobody had agreed to" in lies({}, steps=[*consents.story(), SECOND])


def test_who_was_renewed_and_revoked_signs_with_neither_certificate() -> None:
    leaving = consents.steps(proposed(9, "operator.revoke", "9" * 64), "leaving", at=20_100)
    leaving[-1] = replace(leaving[-1], fields={**leaving[-1].fields, "detail": {"key": ONE.vkey}})
    gone = Step("gone", "key.revoked/v1", {"time": T0 + 20_110, "key": Ref("key-again"), "reason": "left"})
    steps = [*RENEWED, *leaving, gone]
    assert audited(steps).holds
    assert "a key that was not valid then" in lies({}, steps=[*steps, *consents.steps(IT, "after", at=20_500)])
    back = replace(SECOND, fields=logs.key(20_120, "operator", ONE.vkey))
    assert "key that nobody had agreed to" in lies({}, steps=[*steps, back])


@pytest.mark.parametrize("of", ["key-two", "key-three"])
def test_who_has_expired_when_it_is_done_did_not_agree_to_it(of: str) -> None:
    ends = {of: {"not_after": T0 + 52}}
    assert audited(story(), ends).holds is False
    found = lies(ends)
    assert "approval of 1 others, 2 are needed" in found
    assert "a key that was not valid then" not in found, "it was when it approved"


@pytest.mark.parametrize("said", [{"assurance": "low"}, {"citizenship": "SG"}, {"assurance": "none"}])
def test_who_is_not_as_the_charter_asks_did_not_agree_as_far_as_the_log_tells(said: dict[str, str]) -> None:
    steps = [
        Step("after-proposal", "proposal/v1", proposal(20_300, IT, "two")),
        Step("after-one", "approval/v1", approval(20_301, IT, "one", "after-proposal")),
        Step("after-three", "approval/v1", approval(20_302, IT, "three", "after-proposal")),
        Step("after-done", "operator.action/v2", done(20_303, "after-proposal", "after-one", "after-three")),
    ]
    assert audited([*consents.story(), *consents.renewed(), *steps]).holds
    assert "approval of 1 others" in lies({}, steps=[*consents.story(), *consents.renewed(**said), *steps])


def test_a_proposal_lasts_a_month_at_most() -> None:
    for expires in (T0 + 51, T0 + 51 + 31 * DAY_MS + 1):
        assert "ends before it begins, or after" in words(audited(story(what=replace(IT, expires=expires))))


@pytest.mark.parametrize("name", ["proposal", "action", "prior", "payload"])
def test_a_proposal_holds_no_line_of_another(name: str) -> None:
    broken = getattr(IT, name) + "\n" + "0" * 64
    assert replace(IT, **{name: broken}).wrong()
    assert "proposal's" in lies({"it-proposal": {name: broken}})


def change(at: int, name: str, previous: str, **given: Any) -> Step:
    fields = {"time": T0 + at, "origin": logs.ORIGIN, "previous": Ref(previous), **logs.charter(**given)}
    return Step(name, "charter/v1", {**fields, "restates": None})


def test_a_charter_changes_by_consent_and_never_otherwise() -> None:
    new = change(20_001, "charter-2", "charter", approvals=1, profile="production")
    agreed = proposed(8, "charter.change", named(new.fields["sha256"]))  # type: ignore[call-overload, index]
    assert "charter.change" in words(audited([*story(), new]))
    by_consent = [*story(), *consents.steps(agreed, "charter-consent", at=20_000), new]
    report = audited(by_consent)
    assert report.holds, words(report)
    other = proposed(8, "charter.change", "0" * 64)
    assert "agreed to by nobody" in words(audited([*story(), *consents.steps(other, "other", at=20_000), new]))


def test_who_agreed_to_a_charter_once_did_not_agree_to_come_back_to_it() -> None:
    first = change(20_001, "charter-2", "charter", approvals=1, profile="production")
    there = proposed(8, "charter.change", named(first.fields["sha256"]))  # type: ignore[call-overload, index]
    back = change(20_003, "charter-3", "charter-2", approvals=2, profile="production")
    steps = [*story(), *consents.steps(there, "there", at=19_990), first, back]
    assert "agreed to by nobody, 1 are needed" in words(audited(steps)), "it was in force before, and is no more"
    again = change(20_005, "charter-4", "charter-3", approvals=1, profile="production")
    agreed = proposed(9, "charter.change", named(back.fields["sha256"]))  # type: ignore[call-overload, index]
    mine = [replace(step, fields={**step.fields, "charter": Ref("charter-2")}) if step.type == "proposal/v1" else step
            for step in consents.steps(agreed, "back", at=20_001)]  # fmt: skip
    lawful = [*story(), *consents.steps(there, "there", at=19_990), first, *mine, back]
    assert audited(lawful).holds, words(audited(lawful))
    assert "agreed to by nobody, 2 are needed" in words(audited([*lawful, again]))


def test_what_was_proposed_under_another_charter_is_void() -> None:
    same = change(20_001, "charter-2", "charter", approvals=2, profile="production")
    late = Step("late", "operator.action/v2", done(20_002, "it-proposal", "it-two", "it-three"))
    steps = [step for step in story() if step.name != "it-done"]
    assert "made under another charter" in words(audited([*steps, same, late]))


def test_rules_and_models_change_by_consent() -> None:
    rules = Step("policy-2", "policy/v1", logs.policy(20_010, previous=Ref("policy"), version="2" * 64))
    assert "policy.change" in words(audited([*story(), rules]))
    agreed = proposed(9, "policy.change", named("2" * 64))
    report = audited([*story(), *consents.steps(agreed, "rules", at=20_000), rules])
    assert report.holds, words(report)
    assert "model.admit" in words(audited(logs.story()))
    again = Step("model-2", "model.admitted/v1", logs.model(20_000))
    assert audited([*story(), again]).holds, "the same model once more is nothing new"


def test_what_an_evaluation_had_stays_when_it_goes_into_production() -> None:
    new = change(20_000, "charter-2", "charter", approvals=2, profile="production")
    again = Step("model-2", "model.admitted/v1", logs.model(20_001, charter=Ref("charter-2")))
    report = audited([*logs.story(), new, again], {}, approvals=0)
    assert report.holds, words(report)


@pytest.mark.parametrize("action", sorted(ALONE))
def test_what_cannot_weaken_the_promise_one_may_do_alone(action: str) -> None:
    assert audited(story(), {"action": {"action": action}}).holds


def test_every_other_act_needs_others() -> None:
    for action in ("operator.add", "backup.restore", "something.new", ""):
        assert "needs the approval of 2 others" in lies({"action": {"action": action}})


@pytest.mark.parametrize("roles", [["operator"], ["user", "operator"], "operator", {}])
def test_an_operator_who_was_added_as_a_person_is_added_alone(roles: Any) -> None:
    added = {"action": {"action": "person.add", "detail": {"roles": roles}}}
    assert "'person.add' was done by one operator" in lies(added)
    assert audited(story(), {"action": {"action": "person.add", "detail": {"roles": ["user"]}}}).holds


def test_a_receipt_rests_on_an_act_without_showing_who_agreed() -> None:
    made = logs.write({"charter": PRODUCTION}, story()).receipt("answer")
    assert receipts.verify(json.dumps(made).encode(), VERIFIER)


@settings(derandomize=True, deadline=None)
@given(
    st.builds(
        Proposed, st.text(), st.text(), st.text(), st.text(), st.text(), st.integers(min_value=0, max_value=1 << 62)
    )
)
def test_what_is_signed_says_one_thing_only(what: Proposed) -> None:
    if what.wrong() is None and "\n" not in what.origin:
        lines = what.statement("approval").decode().split("\n")
        assert lines[1:-1] == [what.origin, what.proposal, what.action, what.prior, what.payload, str(what.expires)]


def test_one_signs_for_itself() -> None:
    assert signed("approval", IT, ONE) != signed("approval", IT, TWO)
    assert proposal(1, IT)["signature"] != approval(1, IT, "one", "it-proposal")["signature"]

"""The key ceremony, from the log alone: who signed what, once, and what can never be taken back after it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.support import consents, logs
from tests.support.consents import DAY_MS, ONE, PRODUCTION, SEATS, TWO, held
from tests.support.logs import T0, VERIFIER, Ref, Step, terms

from daulat.audit import receipt as receipts
from daulat.audit.log import Report, audit
from daulat.core import charter as charters
from daulat.core.ceremony import Ceremony, Seat
from daulat.errors import ConfigError
from daulat.ledger import receipts as ledger
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.note import Signer


def audited(steps: Sequence[Step], **changes: Any) -> Report:
    return audit(logs.write(changes, steps), VERIFIER, terms())


def words(report: Report) -> str:
    return " ".join(str(finding) for finding in report.findings.kept if finding.lie)


def with_ceremony(**changes: Any) -> Report:
    return audited(consents.story(), ceremony=changes)


def test_an_audit_names_the_ceremony_and_no_shortfall_of_an_evaluation() -> None:
    report = audited(consents.story())
    assert report.holds, words(report)
    assert "3 operators signed it" in str(report.ceremony)
    assert not any("profile" in short or "approvals" in short for short in report.short)


def other(**changes: Any) -> dict[str, Any]:
    """The fields of another ceremony, which the three have signed."""
    return consents.ceremony(PRODUCTION, what=held(PRODUCTION, **changes))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"begun": T0 + 1}, "not signed"),
        ({"rules": "2" * 64}, "not signed"),
        ({"models": ["3" * 64]}, "not signed"),
        ({"roster": "4" * 64}, "not signed"),
        ({"signatures": []}, "0 signatures of 3 operators"),
        (other(origin="other.example/2026"), "held for another log"),
        (other(charter="5" * 64), "for another charter"),
        (other(seats=SEATS[:2]), "at least 3 are needed"),
        (other(begun=T0 - 40 * DAY_MS), "not finished within 31 days"),
        (other(begun=T0 + DAY_MS), "not finished within 31 days"),
        (other(seats=(replace(SEATS[0], citizenship="SG"), *SEATS[1:])), "is of 'SG'"),
        (other(seats=(replace(SEATS[0], assurance="low"), *SEATS[1:])), "vouched for at 'low'"),
        (other(seats=(replace(SEATS[0], expires=T0), *SEATS[1:])), "eligible no longer"),
        ({"restates": {"origin": "ai.example/2025", "index": 3}}, "this log continues none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_less_is_a_lie(fields: dict[str, Any], expected: str) -> None:
    report = with_ceremony(**{name: value for name, value in fields.items() if name not in {"time", "charter"}})
    assert not report.holds
    assert expected in words(report)


def test_each_signs_for_themselves_and_one_key_is_one_operator() -> None:
    made = held(PRODUCTION)
    mine = base64.b64encode(ONE.sign_bytes(made.statement())).decode()
    assert "not signed" in words(with_ceremony(signatures=[mine, mine, mine]))
    again = Signer(ONE.name, bytes([77] * 32))
    seats = (SEATS[0], SEATS[1], Seat(again.vkey, "MY", "high", T0 + DAY_MS))
    what = held(PRODUCTION, seats=seats)
    signatures = [base64.b64encode(who.sign_bytes(what.statement())).decode() for who in (ONE, TWO, again)]
    fields = {**consents.ceremony(PRODUCTION, what=what), "signatures": signatures}
    report = with_ceremony(**{name: fields[name] for name in ("operators", "signatures")})
    assert "two of a ceremony's keys are one operator's" in words(report)
    assert "two operators with one key" in list(held(PRODUCTION, seats=(SEATS[0],) * 3).wrong(
        charters.parse(PRODUCTION["text"])))  # fmt: skip


def test_there_is_one_ceremony_for_good() -> None:
    second = Step("second", "ceremony/v1", consents.ceremony(PRODUCTION, 45, held(PRODUCTION, begun=T0 + 1)))
    assert "a second key ceremony" in words(audited(logs.after(consents.story(), "key-three", second)))


def test_a_ceremony_never_comes_where_operators_had_to_agree_already() -> None:
    text = logs.charter(approvals=1, profile="production")
    first = logs.after(consents.story(), "policy", *[
        Step("charter-2", "charter/v1", {"time": T0 + 29, "origin": logs.ORIGIN, "previous": Ref("charter"), **text,
                                         "restates": None})])  # fmt: skip
    steps = [
        replace(step, fields={**consents.ceremony(text), "charter": Ref("charter-2")})
        if step.name == "ceremony"
        else step
        for step in first
    ]
    assert "could have been replaced by it" in words(audited(steps))


def test_whoever_was_an_operator_before_and_took_no_part_signs_nothing_after() -> None:
    old = Signer("z" * 22, bytes([50] * 32))
    evaluation = logs.charter()
    production = {"time": T0 + 28, "origin": logs.ORIGIN, "previous": Ref("charter"), **PRODUCTION, "restates": None}
    before = [Step("old", "key/v1", logs.key(25, "operator", old.vkey)), Step("charter-2", "charter/v1", production)]
    what = consents.proposed(9, "operator.add", "9" * 64)
    late = consents.proposal(60, what, key=Ref("old"), charter=Ref("charter-2"))
    late["signature"] = base64.b64encode(old.sign_bytes(what.statement("proposal"))).decode()
    steps = logs.after(consents.story(), "policy", *before)
    begun = {**consents.ceremony(PRODUCTION), "charter": Ref("charter-2")}
    steps = [
        replace(step, fields={**step.fields, **evaluation}) if step.name == "charter"
        else replace(step, fields=begun) if step.name == "ceremony"
        else replace(step, fields={**step.fields, "charter": Ref("charter-2")}) if step.type == "proposal/v1" else step
        for step in steps
    ]  # fmt: skip
    report = audited(steps)
    assert report.holds, words(report)
    assert not any("profile" in short for short in report.short), "what it was before is no shortfall of now"
    assert "a key that was not valid then" in words(
        audited(logs.after(steps, "model", Step("late", "proposal/v1", late)))
    )


def test_an_operators_key_that_nobody_agreed_to_is_a_lie() -> None:
    alone = Step("alone", "key/v1", logs.key(45, "operator", Signer("q" * 22, bytes([60] * 32)).vkey))
    assert "nobody had agreed to" in words(audited(logs.after(consents.story(), "key-three", alone)))
    again = Step("again", "key/v1", logs.key(45, "operator", ONE.vkey))
    assert "nobody had agreed to" in words(audited(logs.after(consents.story(), "key-three", again)))


def amended(**given: Any) -> str:
    text = logs.charter(**given)
    fields = {"time": T0 + 20_001, "origin": logs.ORIGIN, "previous": Ref("charter"), **text, "restates": None}
    agreed = consents.proposed(8, "charter.change", consents.named(text["sha256"]))
    steps = [*consents.story(), *consents.steps(agreed, "agreed", at=20_000), Step("charter-2", "charter/v1", fields)]
    return words(audited(steps))


def test_no_consent_leaves_production_or_goes_below_the_floor() -> None:
    assert "production has left for good" in amended(approvals=2)
    assert amended(approvals=1, profile="production") == ""
    text = logs.charter_text(approvals=2, profile="production")
    high = charters.parse(text.replace("floor = 1", "floor = 2"))
    for lower in (text, text.replace("approvals = 2", "approvals = 1")):
        assert "the floor is 2 for good" in str(charters.irreversible(high, charters.parse(lower)))
    assert charters.irreversible(charters.parse(text), high) is None
    with pytest.raises(ConfigError, match="below its own floor of 3"):
        charters.parse(text.replace("floor = 1", "floor = 3"))


def test_a_receipt_shows_the_ceremony_and_checks_it() -> None:
    made = logs.write(None, consents.story())
    verdict = receipts.verify(json.dumps(made.receipt("answer")).encode(), VERIFIER)
    assert any("put into production by a key ceremony" in said for said in verdict.proven)
    assert any("as many keys are as many people" in said for said in verdict.vouched)
    assert not any("profile" in short for short in verdict.short)
    forged = logs.write({"ceremony": {"roster": "4" * 64}}, consents.story())
    with pytest.raises(Exception, match="an operator has not signed"):
        receipts.verify(json.dumps(forged.receipt("answer")).encode(), VERIFIER)
    without = logs.write(None, logs.without(consents.story(), "ceremony"))
    verdict = receipts.verify(json.dumps(without.receipt("answer")).encode(), VERIFIER)
    assert any("no key ceremony is shown" in short for short in verdict.short)


def test_a_receipt_of_an_evaluation_has_no_ceremony_in_it() -> None:
    made = logs.write()
    size = checkpoints.parse(made.signed.partition(b"\n\n")[0] + b"\n").size
    assert not any(b"ceremony/v1" in entry for entry in ledger.gather(made, size, made.names["answer"]).values())


@pytest.mark.parametrize("value", ["a b", "a\nb", "", "\u00e9"])
def test_what_is_signed_says_one_thing_only(value: str) -> None:
    charter = charters.parse(PRODUCTION["text"])
    assert list(held(PRODUCTION).wrong(charter)) == []
    for changes in ({"origin": value}, {"rules": value}, {"models": (value,)}, {"roster": value}):
        assert list(Ceremony(**{**_fields(held(PRODUCTION)), **changes}).wrong(charter))


def _fields(what: Ceremony) -> dict[str, Any]:
    return {name: getattr(what, name) for name in Ceremony.__slots__}

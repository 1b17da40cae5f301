"""What was deleted by rule went by a rule that operators set: anything else that the log says of it is a lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.support import consents, logs
from tests.support.consents import proposed
from tests.support.logs import T0, VERIFIER, Ref, Step, terms

from daulat.audit.log import Report, audit

PRODUCTION = logs.charter(approvals=2, profile="production")
SET = proposed(8, "retention.set", "e" * 64)
TENANT, RULE = "d" * 22, {"files": 30, "completions": None}


def deleted(at: int, **changes: Any) -> dict[str, Any]:
    fields = {"time": T0 + at, "charter": Ref("charter"), "tenant": TENANT, "batch": "batch_1", "rule": RULE}
    return logs.changed({**fields, "deleted": {"files": 3, "completions": 0}}, changes)


def story(*more: Step) -> list[Step]:
    *steps, done = consents.steps(SET, at=52)
    rule = {"detail": {**RULE, "before": {"files": None, "completions": None}}}
    agreed = Step(done.name, done.type, logs.changed(done.fields, rule))
    return logs.after(consents.story(), "model", *steps, agreed, Step("deleted", "retention/v1", deleted(60)), *more)


def audited(changes: Mapping[str, Any], steps: list[Step] | None = None) -> Report:
    told = {"charter": PRODUCTION, **changes}
    return audit(logs.write(told, story() if steps is None else steps), VERIFIER, terms())


def words(report: Report) -> str:
    return " ".join(str(finding) for finding in report.findings.kept if finding.lie)


def test_what_went_by_a_rule_that_was_set_holds() -> None:
    report = audited({})
    assert report.holds, words(report)
    assert audited({"deleted": {"tenant": None}}).holds


def test_one_batch_told_of_twice_counts_once_and_says_the_same() -> None:
    again = Step("again", "retention/v1", deleted(61))
    assert audited({}, story(again)).holds
    other = Step("again", "retention/v1", deleted(61, deleted={"files": 4, "completions": 0}))
    assert "is told of twice, and differently [retention]" in words(audited({}, story(other)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tenant": "f" * 22}, "by a rule that nobody has set [retention]"),
        ({"rule": {"files": 7, "completions": None}}, "by a rule that nobody has set [retention]"),
        ({"deleted": {"files": 1, "completions": 1}}, "completions were deleted by a rule that keeps them [retention]"),
        ({"deleted": {"files": -1, "completions": 0}}, "files"),
        ({"deleted": {"files": 1}}, "counts files and completions"),
        ({"deleted": 3}, "counts files and completions"),
        ({"rule": {"files": 30}}, "how long they are kept"),
        ({"rule": {"files": True, "completions": None}}, "1 to 36500 days"),
        ({"batch": 1}, "names its batch"),
        ({"tenant": 1}, "its tenant or none"),
    ],
)
def test_what_is_otherwise_is_a_lie(changes: Mapping[str, Any], expected: str) -> None:
    report = audited({"deleted": changes})
    assert not report.holds
    assert expected in words(report)


def test_a_rule_that_does_not_say_what_it_is_was_not_set() -> None:
    assert "how long they are kept" in words(audited({"it-done": {"detail": {}}}))


def test_whatever_stands_in_it_the_audit_ends_with_a_report() -> None:
    """As `tests.fuzz.test_odd_entries` does with the entries that were there before."""
    odd: list[Any] = [None, True, -1, 0.5, 2**64, "", "x", [], [None], {}, {"": None}, {"files": {}, "completions": []}]
    for name in ("tenant", "batch", "rule", "deleted"):
        for value in odd:
            report = audited({"deleted": {name: value}})
            sound = (name == "tenant" and value is None) or (name == "batch" and isinstance(value, str))
            assert report.holds == sound, (name, value)
    for value in odd:
        assert not audited({"it-done": {"detail": value}}).holds, value

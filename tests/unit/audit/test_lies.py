"""Every lie that the auditor's guide names is told once, and found: the right finding, about the right entry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support import consents, lies, logs
from tests.support.logs import T0, VERIFIER, terms, write

from daulat.audit.log import Report, audit
from daulat.audit.walk import Terms

ROOT = Path(__file__).parents[3]


def found(report: Report, *, lie: bool = True) -> set[tuple[str, int | None]]:
    return {(finding.kind, finding.index) for finding in report.findings.kept if finding.lie == lie}


def test_the_story_itself_holds_and_falls_short_in_words() -> None:
    report = audit(write(), VERIFIER, terms())
    assert (report.holds, report.findings.kept, report.size) == (True, [], 20)
    assert report.decisions == 7
    begin = [words.partition(":")[0] for words in report.short]
    assert begin == [
        'profile "evaluation"',
        "approvals 0",
        "evidence 'inventory' of a lease is G1 or absent",
        "evidence 'site' of a lease is G1 or absent",
        "a model is not signed by its maker",
    ]


def test_an_installation_in_production_falls_short_in_less() -> None:
    vouched = {kind: {"grade": "G3"} for kind in ("sandbox", "canary", "inventory", "site")}
    changes = {
        "lease": {"evidence": vouched},
        "renewed": {"evidence": vouched},
        "model": {"signed_by": "its maker"},
    }
    report = audit(write(changes, consents.story()), VERIFIER, terms())
    assert (report.holds, report.short) == (True, ())


@pytest.mark.parametrize(("answers", "short"), [("none", True), ("plain", False), ("likelihoods", False)])
def test_an_engine_whose_answers_are_not_checked_falls_short(answers: str, short: bool) -> None:
    engine = {"name": "e", "version": "1", "parameters": {"slots": 2, "context": 256}, "answers": answers}
    report = audit(write({"started": {"engine": engine}}), VERIFIER, terms())
    assert report.holds
    assert ("an engine's answers are not checked" in " ".join(report.short)) == short


@pytest.mark.parametrize("case", lies.ALL, ids=lambda case: case.name)
def test_the_audit_names(case: lies.Case) -> None:
    log = case.make()
    report = audit(log, VERIFIER, terms())
    index = None if case.at is None else log.names[case.at]
    assert (case.kind, index) in found(report, lie=case.lie), [str(finding) for finding in report.findings.kept]
    assert report.holds != case.lie


@pytest.mark.parametrize("case", [case for case in lies.ALL if case.kind != "decision"], ids=lambda case: case.name)
def test_without_cedar_the_audit_still_names(case: lies.Case) -> None:
    log = case.make()
    report = audit(log, VERIFIER, Terms(now=T0 + logs.DAY))
    assert report.decisions is None
    assert (case.kind, None if case.at is None else log.names[case.at]) in found(report, lie=case.lie)


PROMISES = lies.promises(write())


@pytest.mark.parametrize("name", PROMISES)
def test_the_audit_says_of(name: str) -> None:
    kind, promise = PROMISES[name]
    log = write()
    report = audit(log, VERIFIER, terms(promises=(promise,)))
    kinds = {finding.kind for finding in report.findings.kept}
    assert kinds == (set() if kind is None else {kind})
    assert report.promises_kept == (kind is None)
    if kind is not None and "without its entry" not in name:
        assert report.findings.kept[0].index == log.names["answer"]


def test_a_promise_is_pending_until_its_deadline_and_others_logs_promises_are_not_ours() -> None:
    log = write()
    absent = lies.promises(log)["a promise without its entry"][1]
    report = audit(log, VERIFIER, terms(now=absent.deadline, promises=(absent,)))
    assert (report.holds, report.promises_pending) == (True, 1)
    other = log.promise(of="answer", origin="ai.other/2026")
    report = audit(log, VERIFIER, terms(promises=(other,)))
    assert (report.holds, report.promises_kept, report.promises_pending) == (True, 0, 0)


def test_a_gap_and_young_counters_are_lies_only_once_the_requests_must_have_ended() -> None:
    young = terms(now=T0 + 14_000)
    gap = audit(write(steps=[step for step in logs.story()[:14] if step.name != "stream"]), VERIFIER, young)
    assert gap.holds
    assert ("sequence", None) in found(gap, lie=False)
    used = audit(write({"canary": {"counters": logs.counters(17, 10)}}), VERIFIER, young)
    assert used.holds
    assert ("counters", 14) in found(used, lie=False)


def test_entries_of_the_future_are_a_lie() -> None:
    report = audit(write(), VERIFIER, terms(now=T0 - logs.DAY))
    assert ("time", None) in found(report)


def test_readings_whose_times_go_backwards_do_not_end_the_audit() -> None:
    """The log says what it likes: the search among readings must not fail for it."""
    steps = logs.after(
        logs.story(),
        "canary",
        logs.Step("again", "canary/v1", logs.probe(5000, started=logs.Ref("started"), counters=logs.counters(16, 10))),
        logs.Step("old", logs.entries.INFERENCE, logs.inference(7, 8000)),
    )
    report = audit(write(steps=steps), VERIFIER, terms())
    assert ("counters", 14) not in found(report)


def documented() -> set[str]:
    table = (ROOT / "docs" / "auditor.md").read_text().partition("| finding |")[2].partition("\n\n")[0]
    return {kind for line in table.splitlines()[2:] for kind in re.findall(r"`([a-z.]+)`", line.split("|")[1])}


def test_every_finding_is_documented_and_every_documented_one_is_tested() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src/daulat/audit").glob("*.py"))
    named = set(re.findall(r'Finding\(\s*"([a-z.]+)"', source))
    named |= set(re.findall(r'self\._add\("([a-z]+)"', source)) | set(re.findall(r'yield "([a-z]+)", ', source))
    named |= {"split", "log"}
    tested = {case.kind for case in lies.ALL} | {kind for kind, _ in PROMISES.values() if kind}
    tested |= {"split", "promise.origin"}  # tests/unit/cli/test_verify_and_audit.py
    assert named == documented() == tested

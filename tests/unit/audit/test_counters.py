"""An engine's own counters: readings ascend; what is remembered of a lost engine may lag behind its last reading."""

from __future__ import annotations

from typing import Any

from tests.support import logs
from tests.support.logs import VERIFIER, Ref, Step, write

from daulat.audit.counters import MOST_CHECKED
from daulat.audit.log import Report, audit
from daulat.audit.walk import Terms


def findings(**stopped: Any) -> list[str]:
    report = audit(write({"stopped": stopped}), VERIFIER, Terms(now=logs.T0 + logs.DAY))
    return [str(finding) for finding in report.findings.kept if finding.kind == "counters"]


def test_a_stop_that_counts_less_than_the_canary_before_it_is_a_lie_only_where_it_claims_to_be_exact() -> None:
    less = logs.counters(1, 1)
    (found,) = findings(counters=less, exact=True)
    assert "went backwards" in found
    assert findings(counters=less, exact=False) == []


def test_a_replica_that_was_never_routed_to_has_an_end_without_a_beginning_and_that_is_no_finding() -> None:
    report = audit(write({"stopped": {"started": None}}), VERIFIER, Terms(now=logs.T0 + logs.DAY))
    assert [str(finding) for finding in report.findings.kept if finding.lie] == []


def told(prompt: int, completion: int, checked_prompt: int, checked_completion: int) -> list[str]:
    """Findings where an engine's reading says this; the log shows use of 16 and 10 tokens by the first canary."""
    checked = {"checked_prompt_tokens": checked_prompt, "checked_completion_tokens": checked_completion}
    reading = {"counters": {**logs.counters(prompt, completion), **checked}}
    report = audit(
        write({"canary": reading, "canary-2": reading, "stopped": reading}), VERIFIER, Terms(now=logs.T0 + logs.DAY)
    )
    return [str(finding) for finding in report.findings.kept if finding.kind == "counters"]


def test_what_an_engine_counted_for_its_own_answer_checks_is_no_use_behind_the_gateways_back() -> None:
    assert told(16 + 400, 10 + 120, 400, 120) == []
    for more in (told(17 + 400, 10 + 120, 400, 120), told(16 + 400, 11 + 120, 400, 120)):
        assert "behind the gateway's back" in more[0]


def test_answer_checks_cannot_cloak_more_than_two_rounds() -> None:
    assert told(16 + MOST_CHECKED, 10, MOST_CHECKED, 0) == []
    found = told(17 + MOST_CHECKED, 10, MOST_CHECKED + 1, 0)
    assert f"answer checks claim {MOST_CHECKED + 1} prompt tokens" in found[0]


def test_answer_checks_that_are_taken_back_are_a_lie() -> None:
    checks = {"checked_prompt_tokens": 50, "checked_completion_tokens": 0}
    less = {"checked_prompt_tokens": 40, "checked_completion_tokens": 0}
    changed = {
        "canary": {"counters": {**logs.counters(66, 10), **checks}},
        "canary-2": {"counters": {**logs.counters(66, 10), **less}},
    }
    report = audit(write(changed), VERIFIER, Terms(now=logs.T0 + logs.DAY))
    assert any("answer checks claim -10 prompt tokens" in str(finding) for finding in report.findings.kept)


MINUTE = 60_000
CONTEXT = 1000  # of the replica in tests.support.logs
LEFT = {
    "completion.outcome": "aborted",
    "completion.error": "client_left",
    "completion.response": None,
    "completion.attempts": [{"replica": Ref("started"), "lease": Ref("lease"), "outcome": "aborted"}],
    "completion.usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 2},
}


def read(name: str, at: int, prompt: int, completion: int) -> Step:
    return Step(name, "canary/v1", logs.probe(at, started=Ref("started"), counters=logs.counters(prompt, completion)))


def dropped(*later: Step, **changes: Any) -> Report:
    """Nine requests that their client drops in the first minute, then what comes later."""
    steps = [step for step in logs.story()[:10] if step.name != "answer"]
    gone = {"admission.stream": True, **LEFT, **changes}
    steps += [Step(f"gone-{n}", "inference/v1", logs.inference(n, 1000 + n, **gone)) for n in range(1, 10)]
    return audit(write(steps=[*steps, *later]), VERIFIER, Terms(now=logs.T0 + logs.DAY))


def lies(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings.kept if finding.lie and finding.kind == "counters"]


def test_what_dropped_requests_may_have_used_makes_no_room_for_use_an_hour_later() -> None:
    """Whoever holds any key can send requests and drop them."""
    first = read("first", MINUTE, 90, 60)
    assert lies(dropped(first, read("next", 2 * MINUTE, 90 + 8000, 60))) == [], "it may be them"
    for minutes, kind in ((30, "prompt"), (60, "completion")):
        used = (90 + 500, 60) if kind == "prompt" else (90, 60 + 500)
        quiet = read("quiet", 12 * MINUTE, 90, 60)
        (found,) = lies(dropped(first, quiet, read("later", minutes * MINUTE, *used)))
        assert f"counted 500 {kind} tokens since entry 19, the log shows 0 and 0 requests of unknown use" in found
        assert "behind the gateway's back" in found


def test_a_request_that_an_engine_computes_for_long_is_not_behind_the_gateways_back() -> None:
    """Whole or given up: it may have been computed at any reading between its admission and its end."""
    readings = [read(f"reading-{n}", n * MINUTE, 0, 0) for n in range(1, 30)]
    asked = {"completion.usage": {"prompt_tokens": 400, "cached_tokens": 0, "completion_tokens": 300}}
    long = Step("long", "inference/v1", logs.inference(1, 1000, 40 * MINUTE, **asked))
    steps = [step for step in logs.story()[:10] if step.name != "answer"]
    for use in (long, Step("long", "inference/v1", logs.inference(1, 1000, 40 * MINUTE, **LEFT))):
        log = write(steps=[*steps, *readings, use, read("last", 41 * MINUTE, 400, 300)])
        assert lies(audit(log, VERIFIER, Terms(now=logs.T0 + logs.DAY))) == []


def test_the_report_says_for_how_many_tokens_the_counters_prove_nothing() -> None:
    report = dropped()
    (index,) = report.slack
    assert report.slack[index] == (9, 9 * CONTEXT)
    assert audit(write(steps=logs.story()[:14]), VERIFIER, Terms(now=logs.T0 + logs.DAY)).slack == {}


def test_what_an_engine_refused_as_the_clients_mistake_leaves_no_room() -> None:
    refused = {
        "completion.outcome": "failed",
        "completion.status": 400,
        "completion.error": "engine_refused",
        "completion.attempts": [{"replica": Ref("started"), "lease": Ref("lease"), "outcome": "failed"}],
        "completion.usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0},
        "completion.response": logs.inference(1, 0)["completion"]["response"],
    }
    report = dropped(read("first", MINUTE, 1, 0), **refused)
    assert report.slack == {}
    assert len(lies(report)) == 1
    assert dropped(**{**refused, "completion.error": "engine_failed", "completion.status": 502}).slack != {}

"""An engine's own counters: readings ascend; what is remembered of a lost engine may lag behind its last reading."""

from __future__ import annotations

from typing import Any

from tests.support import logs
from tests.support.logs import VERIFIER, write

from daulat.audit.counters import MOST_CHECKED
from daulat.audit.log import audit
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

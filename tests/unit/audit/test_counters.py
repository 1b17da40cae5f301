"""An engine's own counters: readings ascend; what is remembered of a lost engine may lag behind its last reading."""

from __future__ import annotations

from typing import Any

from tests.support import logs
from tests.support.logs import VERIFIER, write

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

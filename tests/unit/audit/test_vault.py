"""What the log says of the vault: data stored elsewhere, and people erased without consent, are lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.support import consents, logs
from tests.support.consents import proposed
from tests.support.logs import T0, VERIFIER, Ref, Step, terms

from daulat.audit.log import Report, audit

PRODUCTION = logs.charter(approvals=2, profile="production")
ERASE = proposed(8, "person.erase", "e" * 64)
HOUR = 3_600_000


def place(at: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "time": T0 + at,
        "charter": Ref("charter"),
        "kind": "folder",
        "place": "a" * 64,
        "jurisdiction": "MY",
        "not_before": T0 + at,
        "expires": T0 + at + HOUR,
        "evidence": {"site": {"grade": "G1", "statement": "this machine"}},
        "replaces": None,
    }
    return logs.changed(fields, changes)


def erasure(at: int, **changes: Any) -> dict[str, Any]:
    fields = {"time": T0 + at, "charter": Ref("charter"), "scope": "person", "subject": "d" * 22}
    return logs.changed({**fields, "keys": 1, "objects": 2, "rows": 3}, changes)


def story() -> list[Step]:
    return logs.after(
        consents.story(),
        "model",
        Step("place", "storage.lease/v1", place(51)),
        *consents.steps(ERASE, at=52),
        Step("erasure", "erasure/v1", erasure(60)),
    )


def audited(changes: Mapping[str, Any], steps: Sequence[Step] | None = None, charter: Any = PRODUCTION) -> Report:
    told = {"charter": charter, **changes}
    return audit(logs.write(told, story() if steps is None else steps), VERIFIER, terms())


def words(report: Report) -> str:
    return " ".join(str(finding) for finding in report.findings.kept if finding.lie)


def test_a_place_at_home_and_an_erasure_that_was_agreed_to_hold() -> None:
    report = audited({})
    assert report.holds, words(report)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"place": {"jurisdiction": "SG"}}, "data was stored in 'SG', the charter promises 'MY'"),
        ({"place": {"jurisdiction": ""}}, "data was stored in ''"),
        ({"place": {"expires": T0 + 51 + HOUR + 1}}, "for more than an hour"),
        ({"place": {"expires": T0 + 51}}, "for no time"),
        ({"place": {"evidence": {}}}, "without any word on where it lies"),
        ({"erasure": {"subject": "f" * 22}}, "a person was erased, and nobody has agreed to it"),
        ({"erasure": {"scope": "tenant"}}, "a tenant was erased, and nobody has agreed to it"),
        ({"erasure": {"scope": "village"}}, "of a person or a tenant"),
        ({"erasure": {"keys": -1}}, "fewer things than none"),
        ({"erasure": {"rows": "3"}}, "rows"),
    ],
)
def test_what_is_otherwise_is_a_lie(changes: Mapping[str, Any], expected: str) -> None:
    report = audited(changes)
    assert not report.holds
    assert expected in words(report)


def test_an_erasure_that_nobody_proposed_is_a_lie_where_others_have_to_agree() -> None:
    alone = [step for step in story() if not step.name.startswith("it-")]
    assert "nobody has agreed" in words(audited({}, alone))

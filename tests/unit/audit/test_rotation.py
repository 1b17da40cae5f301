"""A log's key that changed: both keys have signed it, and nothing else will do."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import logs
from tests.support.logs import ORIGIN, SIGNER, STRANGER, Ref, Step, terms

from daulat.audit.log import Report, audit
from daulat.core.rotation import statement
from daulat.tlog.note import Signer, Verifier

NEW = Signer(ORIGIN, bytes(range(128, 160)))


def rotated(signatures: Any, *, purpose: str = "log", vkey: str = NEW.vkey) -> Report:
    """The story under the new key, with the change of keys in it."""
    change = logs.key(12, purpose, vkey, replaces=Ref("log-key"), signatures=signatures)
    steps = logs.after(logs.story(), "log-key", Step("log-key-2", "key/v1", change))
    return audit(logs.write(steps=steps, signer=NEW), Verifier(NEW.vkey), terms())


def words(report: Report) -> str:
    return " ".join(str(finding) for finding in report.findings.kept if finding.kind == "rotation" and finding.lie)


BOTH = [signer.sign(statement(SIGNER.vkey, NEW.vkey)) for signer in (SIGNER, NEW)]


def test_a_key_that_both_have_signed_for_holds_and_leads_back_to_the_old_one() -> None:
    report = rotated(BOTH)
    assert report.holds, [str(finding) for finding in report.findings.kept]
    assert report.replaced == SIGNER.vkey
    assert audit(logs.write(), Verifier(SIGNER.vkey), terms()).replaced is None


@pytest.mark.parametrize(
    ("signatures", "expected"),
    [
        ([], "old key has not signed"),
        (BOTH[1:], "old key has not signed"),
        (BOTH[:1], "new key has not signed"),
        ([STRANGER.renamed(ORIGIN).sign(statement(SIGNER.vkey, NEW.vkey)), BOTH[1]], "old key has not signed"),
        ([signer.sign(statement(NEW.vkey, SIGNER.vkey)) for signer in (SIGNER, NEW)], "old key has not signed"),
        ([*BOTH, "no signature line"], "old key has not signed"),
        ("\n".join(BOTH), "not a list"),
        ([1, 2], "not a list"),
    ],
)
def test_anything_less_is_a_lie(signatures: Any, expected: str) -> None:
    report = rotated(signatures)
    assert not report.holds
    assert expected in words(report)


def test_a_key_for_something_else_replaces_nothing_of_the_logs() -> None:
    assert "replaces one for 'log'" in words(rotated(BOTH, purpose="worker"))

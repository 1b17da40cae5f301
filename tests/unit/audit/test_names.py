"""The model that answered is one that operators had deployed under the name that was asked for."""

from __future__ import annotations

from typing import Any

from tests.support import lies, logs
from tests.support.logs import DEPLOYED, VERIFIER, Published, Step, action, terms, write

from daulat.audit.finding import Finding
from daulat.audit.log import Report, audit
from daulat.audit.names import across

OTHER = {**DEPLOYED, "subject": "e" * 64}
RESTATES = {"charter": {"restates": {"origin": "ai.example/2025", "index": 0}}}


def read(log: Published) -> Report:
    return audit(log, VERIFIER, terms())


def found(report: Report) -> list[int | None]:
    """Entries where another model answered than the name stood for; and nothing else may be wrong."""
    wrong = [finding for finding in report.findings.kept if finding.lie]
    assert all("never deployed under that name" in finding.words for finding in wrong), wrong
    return [finding.index for finding in wrong]


def apply(name: str, at: int, **changes: Any) -> Step:
    return Step(name, "operator.action/v1", action(at, **{**OTHER, **changes}))


def test_a_model_that_was_never_deployed_under_the_name_asked_for_is_found() -> None:
    log = write({"action": OTHER})
    assert found(read(log)) == [log.names[name] for name in ("answer", "stream", "answer-2", "failed")]
    (first, *_) = read(log).findings.kept
    assert first.kind == "model"
    assert "asked for 'tiny', and answered by model dddddddddddddddd" in first.words


def test_while_one_model_replaces_another_both_may_answer() -> None:
    for place in ("action", "answer"):
        steps = logs.after(logs.story(), place, apply("rollout", 45 if place == "action" else 1450))
        assert found(read(write(steps=steps))) == []


def test_stopping_a_deployment_gives_its_name_to_no_other_model() -> None:
    steps = logs.after(logs.story(), "action", apply("stop", 45, action="deployment.stop"))
    assert found(read(write(steps=steps))) == []


def test_each_name_asked_for_is_looked_up_also_among_many_requests_of_one_kind() -> None:
    """The fast way through a log knows routes again by their bytes, and the name is not in these."""
    steps = logs.after(logs.story()[:10], "action", apply("another", 45, detail={"deployment": "large"}))
    for number in range(2, 300):
        asked = {"admission.requested_model": "large"} if number in {150, 290} else {}
        steps.append(Step(f"a{number}", logs.entries.INFERENCE, logs.inference(number, 1000 + number, 1, **asked)))
    log = write(steps=steps)
    assert found(read(log)) == [log.names["a150"], log.names["a290"]]


def test_a_name_that_is_deployed_later_is_looked_up_again() -> None:
    steps = [step for step in logs.story()[:10] if step.name != "action"]
    many = [Step(f"a{n}", logs.entries.INFERENCE, logs.inference(n, 1000 + n, 1)) for n in range(2, 20)]
    log = write(steps=[*steps, *many[:9], apply("later", 1011), *many[9:]])
    assert found(read(log)) == [log.names[step.name] for step in many[9:]]


def test_a_name_of_which_the_log_does_not_tell_is_said_to_be_unproven() -> None:
    """As in logs from before there were deployments."""
    report = read(write(steps=logs.without(logs.story(), "action")))
    assert found(report) == []
    ((number, finding),) = across([report.names])
    assert (number, finding.lie) == (0, False)
    assert "nothing here says who deployed 'tiny'" in finding.words


def both(older: dict[str, Any], newer: dict[str, Any]) -> list[Finding]:
    reports = [read(write({"action": older})), read(write({**RESTATES, "action": newer}))]
    assert found(reports[1]) == []
    return [finding for number, finding in across([report.names for report in reports]) if number == 1]


def test_what_a_shard_does_not_tell_of_a_name_the_shards_before_it_do() -> None:
    nothing = {"detail": {"deployment": "unasked"}}
    assert both(DEPLOYED, OTHER) == [], "deployed before, and being replaced"
    assert both(DEPLOYED, nothing) == []
    for newer in (OTHER, nothing):
        (finding,) = both(OTHER, newer)
        assert finding.lie
    (finding,) = both(nothing, nothing)
    assert not finding.lie
    three = [read(write(changes)).names for changes in ({}, {**RESTATES, "action": nothing})]
    assert list(across([three[0], three[1], three[1]])) == []


def test_what_an_action_says_of_names_may_be_anything() -> None:
    for odd in ({"detail": []}, {"detail": {"deployment": 7}}, {"detail": {"deployment": None}}, {"detail": None}):
        assert found(read(write({"action": odd}))) == []
    assert found(read(lies.long_log())) == []

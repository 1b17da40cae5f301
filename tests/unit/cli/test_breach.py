"""`daulat breach`: from opening to the notice, over a real log's files and the control plane's own handlers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support import logs
from tests.support.logs import T0, Ref, Step
from tests.support.verbs import FakeControl, Shell, publish

from daulat.core.clock import SystemClock
from daulat.pipeline import breach
from daulat.processes.breaches import Breaches
from daulat.settings import Home

FROM, TO = "2025-06-15T15:06:40+00:00", "2025-06-15T23:07:20+08:00"  # T0, and 40 s later


@pytest.fixture
def control(home: Home) -> Iterator[FakeControl]:
    made = FakeControl(home)
    made.more = Breaches(made.rows, made.desk, SystemClock(), home).handlers(lambda use_case: use_case)
    with made.serving() as serving:
        yield serving


def into_the_log(run: Shell, control: FakeControl) -> None:
    """What the control plane has written stands behind a story in which everything happens once."""
    acts = [fields for _, fields in control.entries if fields["action"].startswith("breach.")]
    steps = [
        Step(f"breach-{number}", "operator.action/v1", {"time": T0 + 50_000, **fields, "charter": Ref("charter")})
        for number, fields in enumerate(acts)
    ]
    publish(run.home, logs.write(steps=[*logs.story(), *steps]))


def opened(run: Shell, *scope: str) -> dict[str, Any]:
    return dict(run("breach", "open", "--learned", TO, "--from", FROM, "--to", TO, *scope, "--json").value)


def test_from_opening_to_closing(run: Shell, control: FakeControl) -> None:
    found = opened(run)
    assert found["deadlines"]["commissioner"] == T0 + 40_000 + 72 * 3_600_000
    assert found["overdue"] == ["commissioner", "people"], "long ago"
    assert (
        f"{found['id']} is told" not in run("breach", "notified", found["id"], "--told", "commissioner", "--at", TO).err
    )
    into_the_log(run, control)
    listed = run("breach", "list", "--json")
    assert (listed.code, listed.value[0]["state"], listed.value[0]["overdue"]) == (1, "open", ["people"])
    assert "told 2025-06-15 15:07Z" in run("breach", "list").out
    closed = run("breach", "close", found["id"])
    assert closed.out == f"{found['id']} is closed.\n"
    assert f"no open breach '{found['id']}'" in run("breach", "close", found["id"]).err
    into_the_log(run, control)
    listed = run("breach", "list", "--json")
    assert (listed.code, listed.value[0]["state"], listed.value[0]["overdue"]) == (0, "closed", [])


def test_the_notice_is_assembled_from_the_log(run: Shell, control: FakeControl) -> None:
    found = opened(run)
    into_the_log(run, control)
    said = run("breach", "notice", found["id"], "--json").value
    assert said["breach_details"]["requests_answered"] == 4
    assert said["data_subjects"]["people"] == 1
    head = json.loads(run("log", "show", "--json", "--last", 1).out)
    assert said["evidence"][logs.ORIGIN]["size"] == head[0]["index"] + 1
    text = run("breach", "notice", found["id"]).out
    assert "occurred from            2025-06-15 15:06Z" in text
    assert f"replica.stopped/v1 {logs.stopped(0)['reason']}" in text
    assert "nature and cause         to be filled in by the data controller" in text


def test_a_scope_enters_the_log_as_a_pseudonym(run: Shell, control: FakeControl) -> None:
    opened(run, "--tenant", "first-agency", "--key", "first-key")
    (_, entry) = control.entries[-1]
    assert set(entry["detail"]) == {"learned", "from", "to", "tenant", "key"}
    assert "first" not in json.dumps(entry)
    created = next(fields for _, fields in control.entries if fields["action"] == "key.create")
    assert entry["detail"]["key"] == created["subject"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "yesterday"), "'yesterday' is not a time with its zone"),
        (("--from", "2025-06-15T15:06:40"), "is not a time with its zone"),
        (("--from", TO, "--to", FROM), "a breach begins before it ends"),
        (("--from", "2125-06-15T15:06:40Z"), "in the future"),
        (("--from", TO, "--learned", FROM), "before it began"),
        (("--from", FROM, "--key", "nobody"), "no key 'nobody'"),
        (("--from", FROM, "--tenant", "nobody"), "no tenant 'nobody'"),
    ],
)
def test_what_cannot_be_is_refused(run: Shell, control: FakeControl, arguments: tuple[str, ...], words: str) -> None:
    before = len(control.entries)
    said = run("breach", "open", *arguments)
    assert (said.code, words in said.err) == (1, True), said.err
    assert len(control.entries) == before


def test_nobody_was_told_in_the_future_or_before_it_was_known(run: Shell, control: FakeControl) -> None:
    found = opened(run)
    for at in (FROM, "2125-06-15T15:06:40Z"):
        said = run("breach", "notified", found["id"], "--told", "people", "--at", at)
        assert "after the breach was learned of" in said.err
    assert [fields["action"] for _, fields in control.entries].count(breach.NOTIFIED) == 0


def test_a_breach_that_no_log_tells_of(run: Shell) -> None:
    assert "there is no log" in run("breach", "list").err
    publish(run.home)
    assert run("breach", "list").out == "No breaches.\n"
    assert "tells of no breach 'breach_1'" in run("breach", "notice", "breach_1").err

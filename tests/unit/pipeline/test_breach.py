"""A breach's clocks and its notice, from a log in which everything happens once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support import logs
from tests.support.logs import T0, Step

from daulat.pipeline import breach
from daulat.pipeline.breach import Stands

HOUR = 3_600_000
ID = "breach_" + "1" * 24
WHOLE = {"learned": T0 + 20_000, "from": T0, "to": T0 + 19_000}


def act(at: int, action: str, /, **detail: Any) -> Step:
    return Step(f"{action}-{at}", "operator.action/v1", logs.action(at, action=action, subject=ID, detail=detail))


def read(*more: Step, changes: dict[str, Any] | None = None) -> list[Stands]:
    published = logs.write(changes, [*logs.story(), *more])
    return [(logs.ORIGIN, index, json.loads(entry)) for index, entry in enumerate(published.entries)]


def case(*more: Step) -> breach.Case:
    return breach.cases(read(act(21_000, breach.OPEN, **WHOLE), *more))[ID]


def test_the_clocks_start_when_it_was_learned_of() -> None:
    found = case()
    assert (found.opened, found.learned, found.closed) == (T0 + 21_000, T0 + 20_000, None)
    ends = found.deadlines()
    assert ends["commissioner"] == found.learned + 72 * HOUR
    assert ends["people"] == ends["commissioner"] + 7 * 24 * HOUR
    assert ends["further_information"] == ends["commissioner"] + 30 * 24 * HOUR
    assert found.overdue(ends["commissioner"]) == []
    assert found.overdue(ends["commissioner"] + 1) == ["commissioner"]
    assert found.overdue(ends["people"] + 1) == ["commissioner", "people"]


def test_what_follows_counts_from_the_notice_to_the_commissioner() -> None:
    told = T0 + HOUR
    found = case(act(22_000, breach.NOTIFIED, told="commissioner", at=told))
    assert found.deadlines()["people"] == told + 7 * 24 * HOUR
    assert found.deadlines()["further_information"] == told + 30 * 24 * HOUR
    assert found.overdue(told + 7 * 24 * HOUR + 1) == ["people"]


def test_too_late_is_overdue_for_good_and_the_first_notice_counts() -> None:
    late = T0 + 100 * HOUR
    steps = (
        act(22_000, breach.NOTIFIED, told="commissioner", at=late),
        act(23_000, breach.NOTIFIED, told="commissioner", at=T0 + 30_000),
        act(24_000, breach.CLOSE),
    )
    found = case(*steps)
    assert found.closed == T0 + 24_000
    assert found.overdue(late) == ["commissioner"]
    assert case(act(22_000, breach.CLOSE)).overdue(late) == [], "closed: nobody had to be told"


def test_entries_about_no_case_open_none() -> None:
    assert breach.cases(read()) == {}
    assert breach.cases(read(act(22_000, breach.NOTIFIED, told="people", at=T0), act(23_000, breach.CLOSE))) == {}


def test_the_extent_counts_answers_and_people_and_keeps_what_is_unusual() -> None:
    other = logs.inference(7, 12_500, **{"admission.principal": "q" * 22, **logs.UNDER_RENEWED})
    steps = (Step("another", "inference/v1", other), act(21_000, breach.OPEN, **WHOLE))
    found = breach.extent(case(), read(*steps))
    assert found.requests == 5, "two denials are no answers"
    assert found.by_tenant() == {"t" * 22: 2}
    assert found.refused == 3
    assert [item["type"] for item in found.chronology] == [
        "charter/v1", "key/v1", "policy/v1", "key/v1", "operator.action/v1", "model.admitted/v1", "replica.stopped/v1",
        "operator.action/v1",
    ]  # fmt: skip
    assert found.chronology[-1]["action"] == breach.OPEN
    assert found.chronology[-1]["entry"] == len(logs.story()) + 1


@pytest.mark.parametrize(
    ("scope", "requests"),
    [
        ({"tenant": "t" * 22}, 4),
        ({"tenant": "x" * 22}, 0),
        ({"key": "k" * 22}, 4),
        ({"key": "x" * 22}, 0),
        ({"replica": "replica-1"}, 4),
        ({"replica": "another"}, 0),
        ({"key": "k" * 22, "replica": "another"}, 0),
    ],
)
def test_a_scope_narrows_it(scope: dict[str, str], requests: int) -> None:
    log = read(act(21_000, breach.OPEN, **WHOLE, **scope))
    found = breach.cases(log)[ID]
    assert found.scope == scope
    assert breach.extent(found, log).requests == requests


@pytest.mark.parametrize(("begins", "ends", "requests"), [(0, 900, 0), (0, 1000, 1), (1401, 1499, 0), (2400, 2400, 1)])
def test_a_request_counts_that_was_under_way_at_any_time_of_it(begins: int, ends: int, requests: int) -> None:
    log = read()
    one = breach.Case(ID, T0, T0, T0 + begins, T0 + ends, {})
    assert breach.extent(one, log).requests == requests


def test_the_notice_says_what_a_log_knows_and_leaves_blank_what_it_cannot() -> None:
    found = case(act(22_000, breach.NOTIFIED, told="commissioner", at=T0 + HOUR))
    said = breach.notice(found, breach.extent(found, read()), {logs.ORIGIN: {"size": 20, "root_hash": "00"}})
    assert said["breach_details"]["requests_answered"] == 4
    assert said["breach_details"]["outcomes"] == {"failed": 1, "ok": 3}
    assert said["data_subjects"]["people"] == 1
    assert said["data_subjects"]["significant_scale"] is False
    assert said["told"] == {"commissioner": T0 + HOUR}
    assert said["evidence"] == {logs.ORIGIN: {"size": 20, "root_hash": "00"}}
    assert set(said["data_controller"].values()) == {"to be filled in by the data controller"}


def test_more_than_a_thousand_people_are_a_significant_scale() -> None:
    seen = breach.Extent(people={("t", str(number)) for number in range(1001)})
    assert breach.notice(case(), seen, {})["data_subjects"]["significant_scale"] is True
    seen.people.pop()
    assert breach.notice(case(), seen, {})["data_subjects"]["significant_scale"] is False

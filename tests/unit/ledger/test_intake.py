"""Each (worker, sequence) becomes exactly one entry; what a dead worker left open is interrupted."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.ledger import (
    NOW,
    HandClock,
    MemoryJournals,
    admission,
    answered,
    completion,
    request_id,
)

from daulat.core import entries
from daulat.errors import SealBroken
from daulat.ledger import records
from daulat.ledger.intake import Cursor, Intake, Open

LIMIT = 1000


def take(journals: MemoryJournals, intake: Intake | None = None, limit: int = LIMIT) -> list[dict[str, Any]]:
    taken = (intake or Intake({}, {})).take(journals, HandClock(), limit)
    return [json.loads(entry) for entry in taken]


def ids(taken: list[dict[str, Any]]) -> list[str]:
    return [entry["admission"]["request_id"] for entry in taken]


@pytest.fixture
def journals() -> MemoryJournals:
    made = MemoryJournals()
    made.begin(4)
    return made


def test_an_answer_is_the_two_records_byte_for_byte(journals: MemoryJournals) -> None:
    journals.write(4, *answered(1, 10))
    assert Intake({}, {}).take(journals, HandClock(), LIMIT) == [
        entries.join_inference(admission(10), completion(10)),
    ]


def test_entries_come_in_the_order_of_completion(journals: MemoryJournals) -> None:
    journals.write(4, (records.ADMISSION, 1, admission(1)), (records.ADMISSION, 2, admission(2)))
    journals.write(4, (records.COMPLETION, 2, completion(2)))
    intake = Intake({}, {})
    assert ids(take(journals, intake)) == [request_id(2)]
    assert set(intake.opened) == {(4, 1)}
    journals.write(4, (records.COMPLETION, 1, completion(1)))
    assert ids(take(journals, intake)) == [request_id(1)]
    assert take(journals, intake) == []
    assert intake.opened == {}


def test_what_is_open_and_where_reading_stands_survive_a_restart(journals: MemoryJournals) -> None:
    journals.write(4, (records.ADMISSION, 1, admission(1)), (records.ATTEMPT, 1, b'{"replica":8,"lease":6}'))
    intake = Intake({}, {})
    assert take(journals, intake) == []
    journals.write(4, (records.COMPLETION, 1, completion(1)))
    assert ids(take(journals, Intake(intake.cursors, intake.opened))) == [request_id(1)]


def test_a_living_workers_open_requests_wait(journals: MemoryJournals) -> None:
    journals.write(4, (records.ADMISSION, 1, admission(1)))
    assert take(journals) == []


def test_a_dead_workers_open_requests_are_interrupted_with_their_attempts(journals: MemoryJournals) -> None:
    journals.write(
        4, (records.ADMISSION, 1, admission(1)), (records.ADMISSION, 2, admission(2, replica=None, lease=None))
    )
    journals.write(4, (records.ATTEMPT, 1, b'{"replica":8,"lease":6}'), *answered(3, 3))
    journals.end(4)
    intake = Intake({}, {})
    third, first, second = take(journals, intake)
    assert third["completion"]["outcome"] == "ok"
    assert first["completion"] == {
        "time": NOW,
        "outcome": "interrupted",
        "status": 0,
        "error": "interrupted",
        "attempts": [
            {"replica": 7, "lease": 5, "outcome": "interrupted"},
            {"replica": 8, "lease": 6, "outcome": "interrupted"},
        ],
        "usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0},
        "overhead": 0,
        "response": None,
    }
    assert tuple(second["completion"]) == entries.COMPLETION_FIELDS
    assert second["completion"]["attempts"] == []
    assert intake.finished == {4}
    assert take(journals, intake) == []


def test_a_request_and_its_further_attempt_may_stand_in_one_group(journals: MemoryJournals) -> None:
    attempt = (records.ATTEMPT, 1, b'{"replica":8,"lease":6}')
    begun, ended = answered(1, 1)
    journals.write(4, begun, attempt, ended, (records.ADMISSION, 2, admission(2)), (records.ATTEMPT, 2, attempt[2]))
    intake = Intake({}, {})
    (entry,) = take(journals, intake)
    assert entry["completion"]["outcome"] == "ok"
    assert intake.opened == {(4, 2): Open(admission(2), [{"replica": 8, "lease": 6}])}


def test_an_interrupted_request_never_ended_before_it_began(journals: MemoryJournals) -> None:
    journals.write(4, (records.ADMISSION, 1, admission(1, time=NOW + 5000)))
    journals.end(4)
    (entry,) = take(journals)
    assert entry["completion"]["time"] == NOW + 5000


def test_a_promise_outlives_its_journal() -> None:
    (entry,) = take(MemoryJournals(), Intake({4: Cursor(0, 100, 3)}, {(4, 1): Open(admission(1))}))
    assert entry["completion"]["outcome"] == "interrupted"


def test_refusals_become_an_entry_of_their_own(journals: MemoryJournals) -> None:
    counted = {"from": NOW - 1000, "to": NOW, "counts": {"invalid_api_key": 3}, "principals": {}}
    journals.write(4, (records.REFUSALS, 0, json.dumps(counted).encode()))
    (taken,) = Intake({}, {}).take(journals, HandClock(), LIMIT)
    assert entries.decode(taken) == {"type": "refusals/v1", "time": NOW, "worker": 4, **counted}


def test_segments_follow_each_other(journals: MemoryJournals) -> None:
    journals.write(4, (records.ADMISSION, 1, admission(1)))
    journals.roll(4, 1)
    journals.write(4, (records.COMPLETION, 1, completion(1)))
    journals.roll(4, 2)
    intake = Intake({}, {})
    assert ids(take(journals, intake)) == [request_id(1)]
    assert intake.cursors[4].segment == 1
    assert intake.cursors[4].group == 2


def test_only_about_so_many_are_taken_at_once_and_the_rest_the_next_time(journals: MemoryJournals) -> None:
    journals.begin(5)
    for number in range(1, 6):
        journals.write(4, *answered(number, number))
        journals.write(5, *answered(number, 100 + number))
    journals.end(4)
    intake = Intake({}, {})
    taken = [ids(take(journals, intake, limit=2)) for _ in range(6)]
    assert [len(part) for part in taken] == [2, 2, 2, 2, 2, 0]
    assert len({found for part in taken for found in part}) == 10


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([[(records.ADMISSION, 1, admission(1))], [(records.ADMISSION, 1, admission(2))]], "admitted sequence 1 twice"),
        ([[(records.ADMISSION, 1, admission(1)), (records.ADMISSION, 1, admission(2))]], "admitted sequence 1 twice"),
        ([[*answered(1, 1), (records.COMPLETION, 1, completion(1))]], "completed twice"),
        ([[*answered(1, 1), (records.ATTEMPT, 1, b"{}")]], "not admitted"),
        ([[(records.COMPLETION, 1, completion(1))]], "not admitted"),
        ([[*answered(1, 1)], [(records.COMPLETION, 1, completion(1))]], "completed twice"),
        ([[(records.ATTEMPT, 1, b"{}")]], "not admitted"),
    ],
)
def test_a_journal_that_contradicts_itself_is_refused(
    journals: MemoryJournals, groups: list[list[tuple[int, int, bytes]]], words: str
) -> None:
    for group in groups:
        journals.write(4, *group)
    with pytest.raises(SealBroken, match=words):
        take(journals)


def test_a_changed_journal_is_refused_and_nothing_of_it_is_taken(journals: MemoryJournals) -> None:
    for number in range(1, 4):
        journals.write(4, *answered(number, number))
    data = bytearray(journals.files[4, 0])
    data[data.index(b"req_") + 8] ^= 1
    journals.files[4, 0] = bytes(data)
    with pytest.raises(SealBroken, match="the file was changed"):
        take(journals)


def test_a_missing_segment_is_noticed(journals: MemoryJournals) -> None:
    for segment in range(3):
        if segment:
            journals.roll(4, segment)
        journals.write(4, *answered(segment + 1, segment + 1))
    intake = Intake({}, {})
    del journals.files[4, 1]
    with pytest.raises(SealBroken):
        take(journals, intake)


def test_what_a_living_worker_writes_while_it_is_read_is_not_called_a_change(journals: MemoryJournals) -> None:
    """A reader may see the second of two groups, and of the first only what was there before."""
    journals.write(4, *answered(1, 1))
    start = len(journals.files[4, 0])
    journals.write(4, *answered(2, 2))
    middle = len(journals.files[4, 0])
    journals.write(4, *answered(3, 3))
    whole = journals.files[4, 0]
    seen = [whole[:start] + bytes(middle - start) + whole[middle:], whole]

    class Torn(MemoryJournals):
        def read(self, worker: int, segment: int, offset: int) -> bytes:
            return (seen.pop(0) if len(seen) > 1 else seen[0])[offset:]

    torn = Torn()
    torn.files, torn.locks = journals.files, journals.locks
    assert len(take(torn)) == 3


actions = st.lists(st.tuples(st.sampled_from("ACTX"), st.integers(0, 2), st.integers(0, 30)), max_size=60)


@given(actions, st.integers(1, 5))
def test_whatever_workers_do_each_admission_ends_as_exactly_one_entry(
    done: list[tuple[str, int, int]], limit: int
) -> None:
    """Any interleaving of admissions, attempts, completions and deaths, read in steps with restarts in between."""
    crew, intake, taken = Crew(), Intake({}, {}), list[dict[str, Any]]()
    for action, worker, pick in done:
        crew.act(action, worker, pick)
        if pick % 3 == 0:
            taken += take(crew.journals, intake, limit)
            intake = Intake(intake.cursors, intake.opened)
    for worker in crew.open:
        crew.journals.end(worker)
    while found := take(crew.journals, intake, limit):
        taken += found
    outcomes = Counter((_key(entry), entry["completion"]["outcome"]) for entry in taken)
    assert outcomes == Counter((key, "ok" if key in crew.completed else "interrupted") for key in crew.admitted)


class Crew:
    """Workers that admit (A), try again (T), complete (C) and die (X)."""

    def __init__(self) -> None:
        self.journals = MemoryJournals()
        self.open: dict[int, list[int]] = {}
        self.admitted: list[tuple[int, int]] = []
        self.completed: set[tuple[int, int]] = set()

    def act(self, action: str, worker: int, pick: int) -> None:
        if worker not in self.open:
            self.journals.begin(worker)
            self.open[worker] = []
        if not self.journals.alive(worker):
            return
        mine = self.open[worker]
        if action == "A":
            sequence = 1 + sum(owner == worker for owner, _ in self.admitted)
            self.journals.write(worker, (records.ADMISSION, sequence, admission(sequence, worker=worker)))
            self.admitted.append((worker, sequence))
            mine.append(sequence)
        elif action == "T" and mine:
            self.journals.write(worker, (records.ATTEMPT, mine[pick % len(mine)], b'{"replica":8,"lease":6}'))
        elif action == "C" and mine:
            sequence = mine.pop(pick % len(mine))
            self.journals.write(worker, (records.COMPLETION, sequence, completion(sequence)))
            self.completed.add((worker, sequence))
        elif action == "X":
            self.journals.end(worker)


def _key(entry: dict[str, Any]) -> tuple[int, int]:
    """Worker and sequence; the ids of these requests are their sequences."""
    return entry["admission"]["worker"], int(entry["admission"]["request_id"].removeprefix("req_"), 16)

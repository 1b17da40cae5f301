"""Group commit: who is told what, when, and that nobody is told anything once durability is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.ledger import NOW, HandClock, HandLoop, MemorySegments, admission, completion, request_id

from daulat.audit.promises import check_kept, check_signature
from daulat.core.promise import parse_header
from daulat.ledger import records
from daulat.ledger.journal import Journal
from daulat.tlog.note import Signer, Verifier

SIGNER = Signer("worker", bytes(range(32)))
PROMISE_MS = 630_000


class Bench:
    """A journal over memory, with its loop in the test's hands."""

    def __init__(self) -> None:
        self.segments, self.loop, self.clock = MemorySegments(), HandLoop(), HandClock()
        self.told: list[Any] = []
        self.fatal: list[BaseException] = []
        self.signed: list[bytes] = []
        self.journal = Journal(
            self.segments,
            worker=9,
            origin="test/1",
            sign=self._sign,
            promise_ms=PROMISE_MS,
            clock=self.clock,
            loop=self.loop,
            on_fatal=self.fatal.append,
        )

    def _sign(self, text: bytes) -> bytes:
        self.signed.append(text)
        return SIGNER.sign_bytes(text)

    def admit(self, number: int) -> None:
        sequence = self.journal.next_sequence()
        assert sequence == number
        self.journal.admit(sequence, request_id(number), admission(number), self.told.append)

    def complete(self, number: int, *, patient: bool = False) -> None:
        told = f"completed {number}"
        self.journal.complete(number, completion(number), lambda: self.told.append(told), patient=patient)

    def wait(self, count: int) -> list[Any]:
        self.loop.run(lambda: len(self.told) >= count)
        return self.told


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.segments.before = lambda _: None
    made.journal.close()


class Gate:
    """Holds commits up until it is opened; `reached` says that one has come."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def __call__(self, _group: bytes) -> None:
        self.reached.set()
        assert self._open.wait(20)

    def open(self) -> None:
        self._open.set()


def test_nobody_is_told_before_the_group_is_durable(bench: Bench) -> None:
    gate = bench.segments.before = Gate()
    bench.admit(1)
    bench.loop.run(gate.reached.is_set)
    bench.loop.run_ready()
    assert bench.told == []
    gate.open()
    bench.wait(1)
    assert [group.number for group in bench.segments.groups] == [0]


def test_a_quiet_journal_commits_at_once_and_what_comes_meanwhile_shares_the_next_group(bench: Bench) -> None:
    gate = bench.segments.before = Gate()
    bench.admit(1)
    bench.loop.run(gate.reached.is_set)
    for number in range(2, 7):
        bench.admit(number)
    gate.open()
    bench.wait(6)
    assert [[record.sequence for record in group.records] for group in bench.segments.groups] == [[1], [2, 3, 4, 5, 6]]
    assert bench.journal.commits == 2
    assert bench.loop.timers == []


def test_every_promise_is_the_workers_and_covers_its_record(bench: Bench) -> None:
    for number in range(1, 8):
        bench.admit(number)
    told = bench.wait(7)
    assert len(bench.segments.groups) == len(bench.signed) == 1
    verifier = Verifier(SIGNER.vkey)
    for number, header in enumerate(told, 1):
        promise = parse_header(header)
        assert (promise.request_id, promise.origin, promise.worker) == (request_id(number), "test/1", 9)
        assert (promise.batch, promise.size, promise.index) == (0, 7, number - 1)
        assert promise.deadline == NOW + PROMISE_MS
        check_signature(promise, verifier)
        check_kept(promise, admission(number))


def test_records_and_callbacks_keep_the_order_in_which_they_came(bench: Bench) -> None:
    gate = bench.segments.before = Gate()
    bench.admit(1)
    bench.loop.run(gate.reached.is_set)
    bench.complete(1)
    bench.admit(2)
    bench.journal.attempt(2, b"{}", lambda: bench.told.append("attempt 2"))
    bench.complete(2)
    gate.open()
    told = bench.wait(5)
    second = bench.segments.groups[1].records
    assert [(chr(record.kind), record.sequence) for record in second] == [("C", 1), ("A", 2), ("T", 2), ("C", 2)]
    assert [item for item in told if not item.startswith("id=")] == ["completed 1", "attempt 2", "completed 2"]
    assert [parse_header(item).request_id for item in told if item.startswith("id=")] == [request_id(1), request_id(2)]


def test_a_group_that_promises_nothing_is_not_signed(bench: Bench) -> None:
    bench.admit(1)
    bench.wait(1)
    bench.complete(1)
    bench.wait(2)
    assert len(bench.segments.groups) == 2
    assert len(bench.signed) == 1


def test_a_denial_is_one_group_and_one_answer(bench: Bench) -> None:
    sequence = bench.journal.next_sequence()
    bench.journal.admit_complete(sequence, request_id(1), admission(1), completion(1), bench.told.append)
    bench.wait(1)
    (group,) = bench.segments.groups
    assert [record.kind for record in group.records] == [records.ADMISSION, records.COMPLETION]
    check_kept(parse_header(bench.told[0]), admission(1))


def test_a_group_has_at_most_1024_records(bench: Bench) -> None:
    for number in range(1, 1501):
        bench.admit(number)
    bench.wait(1500)
    assert [len(group.records) for group in bench.segments.groups] == [1024, 476]
    sequences = [record.sequence for group in bench.segments.groups for record in group.records]
    assert sequences == list(range(1, 1501))


def keep_coming(bench: Bench, numbers: Iterator[int], then: Callable[[], None] = lambda: None) -> None:
    """One is admitted with each turn of the loop."""
    for number in numbers:
        bench.loop.call_soon(keep_coming, bench, numbers, then)
        bench.admit(number)
        then()
        return


def test_who_comes_turn_after_turn_shares_one_commit(bench: Bench) -> None:
    keep_coming(bench, iter(range(1, 21)))
    bench.wait(20)
    assert [len(group.records) for group in bench.segments.groups] == [20]
    assert not bench.loop.timers


def test_nobody_waits_for_long_however_many_come(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("daulat.ledger.journal.time.monotonic", lambda: now[0])

    def later() -> None:
        now[0] += 0.002

    bench.segments.before = (gate := Gate())
    keep_coming(bench, iter(range(1, 21)), later)
    bench.loop.run(gate.reached.is_set)
    assert bench.journal.commits == 1
    gate.open()
    bench.wait(20)
    assert 5 <= len(bench.segments.groups[0].records) <= 6


def test_who_is_patient_shares_the_commit_of_who_is_not(bench: Bench) -> None:
    bench.admit(1)
    bench.wait(1)
    bench.loop.held = True
    bench.complete(1, patient=True)
    bench.loop.run_ready()
    assert (len(bench.told), bench.journal.commits) == (1, 1)
    bench.admit(2)
    bench.wait(3)
    assert [len(group.records) for group in bench.segments.groups] == [1, 2]
    bench.loop.let_go()
    bench.loop.run_ready()
    assert bench.journal.commits == 2


def test_patience_ends(bench: Bench) -> None:
    bench.admit(1)
    bench.admit(2)
    bench.wait(2)
    bench.loop.held = True
    bench.complete(1, patient=True)
    bench.complete(2, patient=True)
    bench.loop.run_ready()
    assert len(bench.told) == 2
    bench.loop.let_go()
    assert bench.wait(4)[2:] == ["completed 1", "completed 2"]
    assert len(bench.loop.timers) == 1
    assert 0 < bench.loop.timers[0] <= 0.003
    assert bench.journal.commits == 2


def test_patience_that_ends_during_a_commit_is_followed_by_the_next_one(bench: Bench) -> None:
    bench.admit(1)
    bench.wait(1)
    bench.loop.held = True
    bench.complete(1, patient=True)
    gate = bench.segments.before = Gate()
    bench.admit(2)  # takes the completion along
    bench.loop.run(gate.reached.is_set)
    bench.journal.attempt(2, b"{}", lambda: bench.told.append("attempt"))
    bench.loop.let_go()
    bench.loop.run_ready()
    assert bench.journal.commits == 2
    gate.open()
    bench.wait(4)
    assert bench.journal.commits == 3


def test_who_is_patient_is_told_at_the_end_all_the_same(bench: Bench) -> None:
    bench.admit(1)
    bench.wait(1)
    bench.loop.held = True
    bench.complete(1, patient=True)
    bench.journal.close()
    bench.loop.run_ready()
    assert bench.told[1:] == ["completed 1"]


def test_callbacks_may_ask_for_more(bench: Bench) -> None:
    sequence = bench.journal.next_sequence()
    bench.journal.admit(sequence, request_id(1), admission(1), lambda _: bench.complete(1))
    bench.wait(1)
    assert [record.kind for group in bench.segments.groups for record in group.records] == [
        records.ADMISSION,
        records.COMPLETION,
    ]


def test_after_a_failed_commit_nobody_is_told_anything_any_more(bench: Bench) -> None:
    bench.admit(1)
    bench.wait(1)

    def fail(_group: bytes) -> None:
        raise OSError(5, "Input/output error")

    bench.segments.before = fail
    bench.admit(2)
    bench.complete(1)
    bench.loop.run(lambda: bool(bench.fatal))
    bench.segments.before = lambda _: None  # the disk seems well again: what it holds is unknown all the same
    bench.admit(3)
    bench.loop.run_ready()
    bench.journal.close()
    bench.loop.run_ready()
    assert len(bench.told) == 1
    assert [str(error) for error in bench.fatal] == ["[Errno 5] Input/output error"]
    assert len(bench.segments.groups) == 1
    assert not bench.segments.closed


def test_a_signature_that_fails_ends_the_journal_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_text: bytes) -> bytes:
        raise ValueError("no key")

    monkeypatch.setattr(bench.journal, "_sign", fail)
    bench.admit(1)
    bench.loop.run(lambda: bool(bench.fatal))
    assert bench.told == []
    assert bench.segments.groups == []


def test_close_commits_what_is_pending_and_then_tells(bench: Bench) -> None:
    for number in range(1, 1101):
        bench.admit(number)
    bench.journal.refuse("invalid_api_key")
    bench.journal.close()
    assert bench.segments.closed
    assert sum(len(group.records) for group in bench.segments.groups) == 1101
    bench.loop.run_ready()
    assert len(bench.told) == 1100


def refusals(bench: Bench, tick: Callable[[], None]) -> list[dict[str, Any]]:
    before = len(bench.segments.groups)
    tick()
    bench.loop.run_ready()
    bench.journal.close()
    found = [record for group in bench.segments.groups[before:] for record in group.records]
    assert all((record.kind, record.sequence) == (records.REFUSALS, 0) for record in found)
    return [json.loads(record.payload) for record in found]


def test_refusals_are_counted_and_written_together(bench: Bench) -> None:
    for _ in range(3):
        bench.journal.refuse("invalid_api_key")
    bench.journal.refuse("header_too_large")
    bench.journal.refuse_principal("pseudonym")
    bench.clock.now += 1000
    (record,) = refusals(bench, bench.journal.tick)
    assert record == {
        "from": NOW,
        "to": NOW + 1000,
        "counts": {"invalid_api_key": 3, "header_too_large": 1},
        "principals": {"pseudonym": 1},
    }


def test_without_refusals_nothing_is_written(bench: Bench) -> None:
    assert refusals(bench, bench.journal.tick) == []


def test_so_many_principals_are_named_and_the_others_counted_together(bench: Bench) -> None:
    for number in range(300):
        bench.journal.refuse_principal(f"p{number}")
        bench.journal.refuse_principal(f"p{number}")
    (record,) = refusals(bench, bench.journal.tick)
    assert len(record["principals"]) == 257
    assert record["principals"]["p255"] == 2
    assert record["principals"]["others"] == 2 * 44


def test_a_tick_looks_at_the_space_that_is_left(bench: Bench) -> None:
    assert bench.journal.shortage == ""
    bench.segments.short = "3 MiB are free for the journal, 256 are needed"
    bench.journal.tick()
    assert bench.journal.shortage == bench.segments.short
    bench.segments.short = ""
    bench.journal.tick()
    assert bench.journal.shortage == ""

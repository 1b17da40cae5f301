"""The audit's books held against naive ones: trees, sequence numbers, counters."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import logs

from daulat.audit import counters
from daulat.audit.counters import Account
from daulat.audit.facts import ReplicaFacts
from daulat.audit.log import audit
from daulat.audit.sequences import MAX_OPEN, Worker
from daulat.audit.tree import Tree, leaf_hashes
from daulat.core import entries
from daulat.errors import VerificationFailed
from daulat.tlog import merkle
from daulat.tlog.tiles import WIDTH


def test_roots_and_upper_tiles_are_those_that_the_sequencer_writes() -> None:
    for size in (0, 1, 255, 256, 257, 512, 70_000):
        data = [b"%d" % number for number in range(size)]
        log, tree = logs.publish(data), Tree()
        for start in range(0, size, WIDTH):
            tree.add(leaf_hashes(data[start : start + WIDTH]))
        assert tree.size == size
        assert tree.root() == merkle.root(leaf_hashes(data))
        upper = {path: tile for path, tile in log.files.items() if not path.startswith(("tile/0/", "tile/entries/"))}
        assert {tile.path: expected for tile, expected in tree.upper_tiles()} == upper


def test_only_the_last_bundle_may_be_a_partial_one() -> None:
    tree = Tree()
    tree.add([bytes(32)])
    with pytest.raises(VerificationFailed, match="last entry bundle"):
        tree.add([bytes(32)] * WIDTH)


@pytest.mark.parametrize("first", ["started", "started-2"])
@pytest.mark.parametrize("requests", [1, 2, 3])
def test_a_failed_first_attempt_may_have_used_its_replica(first: str, requests: int) -> None:
    """Nobody knows how many tokens it took, so up to its context is allowed for, on either way through a log."""
    second = {"counters": None, "replica": "replica-2", "lease": logs.Ref("renewed")}
    again = {
        **logs.UNDER_RENEWED,
        "completion.attempts": [
            {"replica": logs.Ref(first), "lease": logs.Ref("renewed"), "outcome": "failed"},
            {"replica": logs.Ref("started"), "lease": logs.Ref("renewed"), "outcome": "ok"},
        ],
    }
    numbers = range(5, 5 + requests)
    steps = [
        *logs.story()[:16],
        logs.Step("started-2", "replica.started/v1", logs.started(9200, **second)),
        *(logs.Step(f"r{n}", entries.INFERENCE, logs.inference(n, 9500 + n, **again)) for n in numbers),
    ]
    replica = "replica-1" if first == "started" else "replica-2"
    logged = (16 + 8 * requests, 10 + 5 * requests) if first == "started" else (0, 0)
    for excess, holds in ((1000 * requests, True), (1000 * requests + 1, False)):
        counters = logs.counters(logged[0] + excess, logged[1])
        end = logs.probe(20_000, replica=replica, started=logs.Ref(first), counters=counters)
        log = logs.write(steps=[*steps, logs.Step("end", "canary/v1", end)])
        assert audit(log, logs.VERIFIER, logs.terms()).holds == holds


@given(st.integers(0, 600), st.data())
@settings(max_examples=40, deadline=None)
def test_the_root_of_a_beginning(size: int, data: st.DataObject) -> None:
    leaves = leaf_hashes([b"%d" % number for number in range(size)])
    old, tree = data.draw(st.integers(0, size)), Tree()
    for start in range(0, old - old % WIDTH, WIDTH):
        tree.add(leaves[start : start + WIDTH])
    assert tree.root_with(leaves[old - old % WIDTH : old]) == merkle.root(leaves[:old])


@given(st.lists(st.integers(0, 700), max_size=900))
@settings(max_examples=60, deadline=None)
def test_sequence_numbers_against_a_set(numbers: list[int]) -> None:
    worker, seen = Worker(None), set[int]()
    for number in numbers:
        wrong = worker.take(number, 1000 + number)
        assert (wrong is None) == (number > 0 and number not in seen)
        seen |= {number} - {0}
    missing = {number for first, last, _ in worker.gaps() for number in range(first, last + 1)}
    assert missing == set(range(1, max(seen, default=0))) - seen
    for _, last, before in worker.gaps():
        assert 1000 + last <= before <= 1000 + max(seen), "a bound on when the missing ones were admitted, and no wider"


def test_a_number_far_ahead_takes_no_memory() -> None:
    worker = Worker(None)
    assert worker.take(MAX_OPEN, 0) is None
    assert "sequence" in str(worker.take(10**12, 0))
    assert len(worker._seen) <= 4 * MAX_OPEN


CONTEXT = 100
SPENT = 10
TIMES = st.integers(0, 40)
REQUESTS = st.tuples(st.just("request"), TIMES, st.integers(0, 30), st.integers(0, 1), st.integers(0, 15))
READINGS = st.tuples(st.just("reading"), TIMES, st.integers(0, 300), st.just(0), st.just(0))


@given(st.lists(st.one_of(REQUESTS, READINGS), max_size=25))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counters_against_sums_made_afterwards(
    monkeypatch: pytest.MonkeyPatch, story: list[tuple[str, int, int, int, int]]
) -> None:
    """Whatever the order in which readings and requests stand in the log, and whatever their times."""
    monkeypatch.setattr(counters, "SPENT_MS", SPENT)
    facts = ReplicaFacts(8, 0, "r", "n", 7, 5, None, 2, CONTEXT, "", "")
    account = Account(facts)
    readings: list[tuple[int, int, int]] = [(-1, 0, 0)]  # the start
    requests: list[tuple[int, int, int, int, int]] = []
    for index, (kind, time, tokens, unknown, took) in enumerate(story):
        if kind == "request":
            account.add(time, time + took, tokens, 0, unknown)
            requests.append((index, time, tokens, unknown, time + took))
        else:
            found = list(account.read(index, time, {"prompt_tokens": tokens, "completion_tokens": 0}))
            assert bool(found) == (len(readings) > 1 and tokens < readings[-1][2])
            readings.append((index, max(time, readings[-1][1]), tokens))
    over = False
    for later, (index, time, counted) in enumerate(readings):
        for first, (_, began, before) in enumerate(readings[:later]):
            # What stands before a reading had ended by then; what was admitted before it may have begun.
            may = [item for item in requests if item[0] < index or item[1] <= time]
            # Of these, all that stands before a reading by which all of it was long over is not computed any more.
            over_by = [
                at
                for at, *_ in readings[1 : first + 1]
                if max((item[4] for item in requests if item[0] < at), default=0) < began - SPENT
            ]
            covered = [item for item in may if item[0] > max(over_by, default=-1)]
            logged, unknown = (sum(item[which] for item in covered) for which in (2, 3))
            over |= counted - before - logged > unknown * CONTEXT
    assert bool(list(account.settle(1000))) == over

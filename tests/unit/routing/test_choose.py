"""Which replica takes a request."""

from __future__ import annotations

from tests.support.worlds import replica

from daulat.routing.choose import choose

ONE, TWO, BIG = replica(1, slots=4), replica(2, slots=4), replica(3, slots=16)


def test_the_only_one_is_taken_whatever_its_load() -> None:
    assert choose([ONE], {"replica_1": 1000}) is ONE


def test_load_is_measured_by_slots_and_the_first_of_equals_wins() -> None:
    assert choose([ONE, TWO], {}) is ONE
    assert choose([ONE, TWO], {"replica_1": 1}) is TWO
    assert choose([ONE, BIG], {"replica_1": 1, "replica_3": 3}) is BIG
    assert choose([ONE, BIG], {"replica_1": 1, "replica_3": 5}) is ONE


def test_what_was_tried_is_not_tried_again() -> None:
    assert choose([ONE, TWO], {"replica_2": 9}, ["replica_1"]) is TWO
    assert choose([ONE], {}, ["replica_1"]) is None
    assert choose([], {}) is None


def test_a_replica_that_says_it_has_no_slots_still_counts_as_one() -> None:
    assert choose([replica(4, slots=0), TWO], {"replica_4": 1, "replica_2": 1}) is TWO

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


def test_prompts_that_begin_alike_go_to_one_replica_and_different_ones_to_all() -> None:
    three = [replica(number) for number in (1, 2, 3)]
    chosen = {prefix: choose(three, {}, prefix=prefix) for prefix in range(1, 301)}
    for prefix, found in chosen.items():
        assert choose(list(reversed(three)), {}, prefix=prefix) is found, "the order of a snapshot does not matter"
    shares = [sum(found is one for found in chosen.values()) for one in three]
    assert min(shares) > 60, f"{shares} of 300 prefixes"


def test_a_warm_replica_is_left_when_it_is_much_more_loaded_than_another() -> None:
    prefix = next(number for number in range(1, 100) if choose([ONE, TWO], {}, prefix=number) is ONE)
    assert choose([ONE, TWO], {"replica_1": 2}, prefix=prefix) is ONE
    assert choose([ONE, TWO], {"replica_1": 3}, prefix=prefix) is TWO
    assert choose([ONE, TWO], {"replica_1": 9, "replica_2": 8}, prefix=prefix) is ONE


def test_a_replica_that_goes_moves_only_the_prompts_that_were_its_own() -> None:
    three = [replica(number) for number in (1, 2, 3)]
    for prefix in range(1, 200):
        before = choose(three, {}, prefix=prefix)
        if before is not three[2]:
            assert choose(three[:2], {}, prefix=prefix) is before


def test_a_replica_that_broke_off_is_asked_only_when_no_other_is_left() -> None:
    assert choose([ONE, TWO], {"replica_2": 3}, avoid=["replica_1"]) is TWO
    assert choose([ONE, TWO], {}, ["replica_2"], avoid=["replica_1"]) is ONE
    for prefix in range(1, 50):
        assert choose([ONE, TWO], {}, avoid=["replica_1"], prefix=prefix) is TWO

"""Quotas by slices, and what one key may leave in the log as denials."""

from __future__ import annotations

import pytest

from daulat.errors import Overloaded
from daulat.metering.denials import ENTRIES_A_SECOND, DenialBudget
from daulat.metering.slices import Slices


def taken(slices: Slices, per_minute: int, now_ms: int, most: int = 10_000) -> int:
    """How many requests pass at one moment."""
    for number in range(most):
        try:
            slices.reserve("key", per_minute, now_ms)
        except Overloaded:
            return number
    return most


def test_no_limit_is_no_limit() -> None:
    assert taken(Slices(1), 0, 0) == 10_000


@pytest.mark.parametrize(("workers", "share"), [(1, 60), (2, 30), (4, 15), (60, 1)])
def test_a_worker_spends_its_share_and_gets_it_back_over_a_minute(workers: int, share: int) -> None:
    slices = Slices(workers)
    assert taken(slices, 60, 0) == share
    assert taken(slices, 60, 30_000) == share // 2
    assert taken(slices, 60, 10_000_000) == share, "what was not used does not pile up"


def test_the_time_to_wait_is_true() -> None:
    slices = Slices(1)
    assert taken(slices, 6, 0) == 6
    with pytest.raises(Overloaded) as refused:
        slices.reserve("key", 6, 4_000)
    assert refused.value.retry_after == pytest.approx(6.0)
    assert taken(slices, 6, 9_990) == 0
    assert taken(slices, 6, 10_010) == 1


def test_asking_in_vain_costs_nothing() -> None:
    slices = Slices(1)
    assert taken(slices, 1, 0) == 1
    for now in range(0, 60_000, 100):
        assert taken(slices, 1, now) == 0
    assert taken(slices, 1, 60_001) == 1


def test_a_clock_set_back_gives_nothing_away() -> None:
    slices = Slices(1)
    assert taken(slices, 10, 1_000_000) == 10
    assert taken(slices, 10, 0) == 0


def test_keys_do_not_share() -> None:
    slices = Slices(1)
    slices.reserve("one", 1, 0)
    slices.reserve("other", 1, 0)
    with pytest.raises(Overloaded):
        slices.reserve("one", 1, 0)


def test_memory_is_bounded_however_many_keys_there_are() -> None:
    slices = Slices(1)
    for number in range(70_000):
        slices.reserve(number, 1, 0)
    assert len(slices._buckets) <= 65_536


def test_ten_denials_a_second_and_key_are_entries() -> None:
    budget = DenialBudget()
    assert [budget.spend("key", 999) for _ in range(12)] == [True] * ENTRIES_A_SECOND + [False] * 2
    assert budget.spend("other", 999)
    assert budget.spend("key", 1000)
    assert len(budget._spent) == 1, "what was a second ago is forgotten"

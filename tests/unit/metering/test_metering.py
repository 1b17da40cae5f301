"""What one key may leave in the log as denials."""

from __future__ import annotations

from daulat.metering.denials import ENTRIES_A_SECOND, DenialBudget


def test_ten_denials_a_second_and_key_are_entries() -> None:
    budget = DenialBudget()
    assert [budget.spend("key", 999) for _ in range(12)] == [True] * ENTRIES_A_SECOND + [False] * 2
    assert budget.spend("other", 999)
    assert budget.spend("key", 1000)
    assert len(budget._spent) == 1, "what was a second ago is forgotten"

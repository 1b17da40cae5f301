"""Identity numbers: which ones count, and which names hide one."""

from __future__ import annotations

import pytest

from daulat.identity import numbers

COUNT = ("900101-14-5678", "900101145678", " 900101 14 5678 ", "000229-01-0001", "900131715678")
DO_NOT = (
    *("", "-", "1", "aminah", "90010114567", "9001011456789"),
    *("901301145678", "900230145678", "900100145678", "990229145678"),  # no such day
    *("A90010114567", "90010114567X", "900101-14-5678x", "90010114567\u0668", "900101145678\n1"),
)
HIDDEN = (
    *("900101-14-5678", "900101145678", "900101 14 5678", "900101.14.5678", "900101_14_5678", "900101 - 14 - 5678"),
    *("Aminah (900101-14-5678)", "900101145678@agency.example", "ic900101145678", "991399 900101-14-5678"),
    *("900101\u201314\u20135678", "\uff19\uff10\uff10\uff11\uff10\uff11-14-5678"),
    "\u0669\u0660\u0660\u0661\u0660\u0661145678",
)
OTHER = (
    *("", "aminah", "first-agency", "991399-14-5678", "90010114567", "9001011456789", "nightly-202611281530"),
    *("2026-11-28", "+60 12-345 6789", "person_000000000000000000000000", "route 90 01 01"),
)


@pytest.mark.parametrize("said", COUNT)
def test_a_number_of_a_malaysian_card_counts_however_it_is_spaced(said: str) -> None:
    assert numbers.counting(said, "MY") == said.replace("-", "").replace(" ", "")


@pytest.mark.parametrize("said", DO_NOT)
def test_anything_else_is_no_number_in_malaysia(said: str) -> None:
    assert numbers.counting(said, "MY") == ""


def test_elsewhere_a_number_has_any_form() -> None:
    assert numbers.counting("s-123 4567-d", "SG") == "S1234567D"
    assert numbers.counting(" - ", "SG") == ""


@pytest.mark.parametrize("text", HIDDEN)
def test_a_number_is_seen_wherever_it_stands_and_however_it_is_written(text: str) -> None:
    assert numbers.within(text)


@pytest.mark.parametrize("text", OTHER)
def test_other_digits_are_no_number(text: str) -> None:
    assert not numbers.within(text)

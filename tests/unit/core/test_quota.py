"""Limits and prices as operators write them, and the calendar that they count by."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.core.quota import DAY_MS, PICO, Prices, checked, days_of, money, prices, shown, window
from daulat.errors import ConfigError, InvalidRequest

TABLE = """
currency = "MYR"
[[price]]
since = 2026-01-01
prompt = "1.20"
completion = "4.80"
[[price]]
model = "deepseek"
since = 2026-01-01
prompt = "2"
cached = "0.5"
completion = "8.000001"
[[price]]
model = "deepseek"
since = 2026-07-01
prompt = "1"
completion = "4"
"""


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_minutes_days_and_months_are_the_calendars() -> None:
    assert window("minute", ms("2026-02-28T12:34:56"))[1] == ms("2026-02-28T12:35:00")
    assert window("day", ms("2026-02-28T12:34:56"))[1] == ms("2026-03-01")
    assert window("month", ms("2028-02-29T23:59:59"))[1] == ms("2028-03-01")
    assert window("month", ms("2026-12-31T23:59:59"))[1] == ms("2027-01-01")
    assert window("", 5) == window("", 10**13)
    number, _ = window("month", ms("2026-12-05"))
    assert [days_of(number).start * DAY_MS, days_of(number).stop * DAY_MS] == [ms("2026-12-01"), ms("2027-01-01")]


@settings(derandomize=True)
@given(st.integers(0, 4_000_000_000_000), st.sampled_from(["minute", "day", "month"]))
def test_the_next_window_begins_when_this_one_ends(now: int, period: str) -> None:
    number, ends = window(period, now)
    assert now < ends
    assert window(period, ends - 1)[0] == number
    assert window(period, ends)[0] == number + 1


@pytest.mark.parametrize(
    ("scope", "given", "words"),
    [
        ("person", {}, "a key, a tenant, a model"),
        ("key", {"weight": 2}, "a key's limit has no weight"),
        ("tenant", {"weight": 0}, "weight is 0, expected a whole number from 1 to 1000"),
        ("key", {"priority": 10}, "from -9 to 9"),
        ("key", {"requests_per_minute": -1}, "from 0 to"),
        ("key", {"requests_per_minute": True}, "expected a whole number"),
        ("key", {"tokens": 5}, "has no tokens"),
        ("key", {"budget": "12.345"}, "an amount such as 1250.50"),
        ("key", {"budget": "-1"}, "an amount such as"),
        ("key", {"budget": "1000000.01"}, "at most 1000000"),
    ],
)
def test_a_wrong_limit_is_told_what_is_right(scope: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        checked(scope, given)


def test_a_limit_is_whole_numbers_in_the_end() -> None:
    found = checked("tenant", {"requests_per_minute": 60, "budget": "0.05", "weight": 3})
    assert found == {"requests_per_minute": 60, "budget": PICO // 20, "weight": 3}
    assert shown(money("1250.50")) == "1250.50"
    assert [shown(amount) for amount in (0, 1, PICO, -PICO // 4)] == ["0.00", "0.000000000001", "1.00", "-0.25"]


def test_the_newest_price_of_the_model_counts_else_that_of_all_others() -> None:
    table = prices(TABLE)
    assert table.currency == "MYR"
    assert table.cost("deepseek", "2026-02-01", 1_000_000, 400_000, 0) == 1_400_000_000_000
    assert table.cost("deepseek", "2026-02-01", 0, 0, 1_000_000) == 8_000_001 * 10**6
    assert table.cost("deepseek", "2026-07-01", 1_000_000, 400_000, 0) == PICO, "cached as the prompt"
    assert table.cost("other", "2026-07-01", 0, 0, 1_000_000) == 4_800_000_000_000
    assert table.cost("other", "2025-12-31", 5, 0, 5) == 0
    assert Prices().cost("any", "2026-01-01", 5, 0, 5) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("currency =", "not valid TOML"),
        ("", "currency is None"),
        ('currency = "RM"', "ISO 4217"),
        ('currency = "MYR"\nprice = 5', "nothing else"),
        ('currency = "MYR"\nother = 5', "nothing else"),
        ('currency = "MYR"\n[[price]]\nprompt = "1"\ncompletion = "1"', "since is None"),
        ('currency = "MYR"\n[[price]]\nsince = "2026-01-01"\nprompt = "1"\ncompletion = "1"', "without quotes"),
        ('currency = "MYR"\n[[price]]\nsince = 2026-01-01\nprompt = 1.5\ncompletion = "1"', "in quotes"),
        ('currency = "MYR"\n[[price]]\nsince = 2026-01-01\nprompt = "1.1234567"\ncompletion = "1"', "prompt is"),
        ('currency = "MYR"\n[[price]]\nsince = 2026-01-01\nprompt = "1"', "completion is None"),
        ('currency = "MYR"\n[[price]]\nsince = 2026-01-01\nprompt = "1"\ncompletion = "1"\nfree = 1', "unknown free"),
        (TABLE + '[[price]]\nsince = 2026-01-01\nprompt = "1"\ncompletion = "1"', "two prices"),
    ],
)
def test_a_wrong_price_table_is_told_where_and_what_is_right(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as wrong:
        prices(text, location="prices.toml")
    assert str(wrong.value).startswith("prices.toml")


@settings(derandomize=True, max_examples=200)
@given(st.text(max_size=200))
def test_no_text_is_more_than_wrong(text: str) -> None:
    try:
        prices(text)
    except ConfigError:
        return

"""Limits: who may use how much in which time, and what use costs.

A limit is about a key, a tenant or a model. Minutes, days and months are the calendar's, in UTC, so that whoever has
the log can count them again. A request belongs to the minute, day and month in which it was admitted. Money is counted
in whole 10^-12 of the currency: at most six decimals a million tokens, times whole tokens, is exact.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

from daulat.errors import ConfigError, InvalidRequest

SCOPES: Final = ("key", "tenant", "model")
PICO: Final = 10**12
MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
RESOURCES: Final[Mapping[str, str]] = {
    "requests_per_minute": "minute",
    "tokens_per_minute": "minute",
    "requests_per_day": "day",
    "tokens_per_day": "day",
    "budget": "month",  # 10^-12 of the price table's currency
    "streams": "",  # answers under way at once: given back, not used up
}
"""What can be limited, and in which time."""

WORDS: Final[Mapping[str, str]] = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "requests_per_day": "requests a day",
    "tokens_per_day": "tokens a day",
    "budget": "a month",
    "streams": "answers at once",
}
_MOST: Final = 10**12  # requests or tokens
_MOST_MONEY: Final = Decimal(10**6)
_MOST_WEIGHT: Final = 1000
_PRICE: Final = re.compile(r"\d{1,6}(\.\d{1,6})?\Z")
_KINDS: Final = ("prompt", "cached", "completion")


@dataclass(frozen=True, slots=True)
class Limit:
    """`subject`: a key's or tenant's pseudonym, or what clients call the model. 0: no limit of that kind.

    `weight`, of tenants: their share of full engines against others'. `priority`: who is served first there.
    """

    scope: str
    subject: str
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    requests_per_day: int = 0
    tokens_per_day: int = 0
    streams: int = 0
    budget: int = 0
    weight: int = 1
    priority: int = 0

    @property
    def bounds(self) -> bool:
        """Whether it limits anything, and does not just weigh."""
        return any(getattr(self, resource) for resource in RESOURCES)


@dataclass(frozen=True, slots=True)
class Price:
    """What one model's tokens cost from a day (UTC) on, in 10^-12 of the currency a token. model "": all others."""

    model: str
    since: str  # ISO 8601 date
    prompt: int
    cached: int
    completion: int


class Prices:
    """A price table. Without one everything costs nothing, and no budget is ever spent."""

    def __init__(self, currency: str = "MYR", rows: tuple[Price, ...] = ()) -> None:
        self.currency, self.rows = currency, rows
        self._found: dict[tuple[str, str], Price] = {}

    def of(self, model: str, day: str) -> Price:
        """The price of a model on a day: the newest for it, else the newest for all others."""
        found = self._found.get((model, day))
        if found is None:
            valid = [row for row in self.rows if row.since <= day and row.model in {model, ""}]
            found = max(valid, key=lambda row: (row.model != "", row.since), default=Price("", day, 0, 0, 0))
            if len(self._found) > 4096:  # noqa: PLR2004  days go by, and models come and go
                self._found.clear()
            self._found[model, day] = found
        return found

    def cost(self, model: str, day: str, prompt: int, cached: int, completion: int) -> int:
        """What these tokens cost; the cached ones are among those of the prompt."""
        if not self.rows:
            return 0
        price = self.of(model, day)
        return (prompt - cached) * price.prompt + cached * price.cached + completion * price.completion


def day_of(now_ms: int) -> str:
    """The day, in UTC, as ISO 8601 has it."""
    return _day(now_ms // DAY_MS)


@functools.lru_cache(maxsize=4096)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_MS / 1000, UTC).date().isoformat()


def window(period: str, now_ms: int) -> tuple[int, int]:
    """The number of the minute, day or month at that time, and when (Unix milliseconds) it ends.

    A period that never ends, as that of `streams`, is ("", ...) -> (0, a long time from now).
    """
    if period == "minute":
        return _one(now_ms // MINUTE_MS, MINUTE_MS)
    if period == "day":
        return _one(now_ms // DAY_MS, DAY_MS)
    if period == "month":
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        number = now.year * 12 + now.month - 1
        return number, days_of(number).stop * DAY_MS
    return 0, 1 << 62


@functools.lru_cache(maxsize=16)
def _one(number: int, length: int) -> tuple[int, int]:
    """The same two numbers for all accounts: with many of them each would have its own in memory."""
    return number, (number + 1) * length


def days_of(month: int) -> range:
    """The numbers of a month's days (`window`)."""
    first, after = (datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC) for number in (month, month + 1))
    return range(round(first.timestamp()) * 1000 // DAY_MS, round(after.timestamp()) * 1000 // DAY_MS)


def checked(scope: str, given: Mapping[str, Any]) -> dict[str, int]:
    """What an operator gives of a limit: every value there, as a whole number; the budget is a text, in money.

    Raises:
        InvalidRequest: a name or value is wrong; says what is right.
    """
    if scope not in SCOPES:
        raise InvalidRequest(f"a limit is of a {', a '.join(SCOPES)}; {scope!r} is none of them")
    known = {*RESOURCES, "priority", *(["weight"] if scope == "tenant" else [])}
    if unknown := sorted(set(given) - known):
        raise InvalidRequest(f"a {scope}'s limit has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    found: dict[str, int] = {}
    for name, value in given.items():
        if name == "budget":
            found[name] = money(str(value))
            continue
        low, high = {"weight": (1, _MOST_WEIGHT), "priority": (-9, 9)}.get(name, (0, _MOST))
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidRequest(f"{name} is {value!r}, expected a whole number from {low} to {high}")
        found[name] = value
    return found


def money(text: str) -> int:
    """An amount such as "1250.50" in 10^-12.

    Raises:
        InvalidRequest: it is no such amount.
    """
    if not re.match(r"\d{1,7}(\.\d{1,2})?\Z", text) or Decimal(text) > _MOST_MONEY:
        raise InvalidRequest(f"a budget is an amount such as 1250.50, at most {_MOST_MONEY}; {text[:40]!r} is none")
    return int(Decimal(text) * PICO)


def shown(amount: int) -> str:
    """An amount of 10^-12 as people write it: at least two decimals, and all that are not zero."""
    whole, rest = divmod(abs(amount), PICO)
    decimals = f"{rest:012d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{decimals}"


def prices(text: str, *, location: str = "prices.toml") -> Prices:
    """Read a price table: `currency`, and `[[price]]` with `model`, `since`, `prompt`, `cached`, `completion`.

    Prices are texts such as "0.75", of a million tokens. `model` left out: of all models that have none of their own;
    `cached` left out: as `prompt`.

    Raises:
        ConfigError: it is malformed; says where, and what is right.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}", location=location) from None
    currency, rows = table.pop("currency", None), table.pop("price", [])
    if not isinstance(currency, str) or not re.match(r"[A-Z]{3}\Z", currency):
        raise ConfigError(f"currency is {currency!r}, expected an ISO 4217 code such as 'MYR'", location=location)
    if table or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError("expected `currency` and [[price]] tables, and nothing else", location=location)
    found = tuple(_price(row, f"{location}, [[price]] {number}") for number, row in enumerate(rows, 1))
    if len({(row.model, row.since) for row in found}) != len(found):
        raise ConfigError("two prices of one model begin on one day", location=location)
    return Prices(currency, found)


def _price(row: dict[str, Any], location: str) -> Price:
    unknown = sorted(set(row) - {"model", "since", *_KINDS})
    if unknown:
        raise ConfigError(f"unknown {', '.join(unknown)}; known: model, since, {', '.join(_KINDS)}", location=location)
    model, since = row.get("model", ""), row.get("since")
    if not isinstance(model, str) or len(model) > 128:  # noqa: PLR2004  as entries have it (core.entries)
        raise ConfigError(f"model is {model!r}, expected what clients call it", location=location)
    if type(since) is not date:  # a datetime is a date, too
        raise ConfigError(f"since is {since!r}, expected a day such as 2026-01-01, without quotes", location=location)
    amounts = []
    for kind in _KINDS:
        value = row.get(kind, row.get("prompt") if kind == "cached" else None)
        if not isinstance(value, str) or not _PRICE.match(value):
            said = f'{kind} is {value!r}, expected a price of a million tokens such as "0.75", in quotes'
            raise ConfigError(said, location=location)
        amounts.append(int(Decimal(value) * 10**6))  # 10^-12 a token, as the price is of 10^6 tokens
    return Price(model, since.isoformat(), *amounts)

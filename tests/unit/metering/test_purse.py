"""Purses: what a key has taken beforehand is at every moment as if each of its requests had been reserved alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.lender import LocalLender

from daulat.core.quota import DAY_MS, MINUTE_MS, Limit
from daulat.errors import Overloaded
from daulat.metering import quotas as quotas_module
from daulat.metering.purse import MOST, Limited, Purse
from daulat.metering.quotas import IDLE_MS, PURSE_MS, Need, Quotas, Taken
from daulat.metering.slices import ENDLESS, Id

NOW = 1_795_000_000_000 // DAY_MS * DAY_MS + MINUTE_MS
KEY = Limit("key", "k", requests_per_minute=10_000, tokens_per_day=1_000_000)
TENANT = Limit("tenant", "t", tokens_per_minute=500_000, requests_per_day=90_000)


def asked(lender: LocalLender, quotas: Quotas, limited: Limited, tokens: int = 10, now: int = NOW) -> Taken:
    """Reserve as a request that finds nothing in a purse does, and wait for what has to be lent."""
    for _ in range(5):
        taken = quotas.reserve(limited, Need(tokens, 0), now)
        if taken is not None:
            return taken
        lender.exchange(1, quotas, now)
    raise AssertionError("it waits for ever")


def passes(lender: LocalLender, quotas: Quotas, limited: Limited) -> int:
    """How many requests pass at one moment, out of purses where there are any."""
    for count in range(1000):
        try:
            if limited.purse is None or not limited.purse.take(10, NOW):
                asked(lender, quotas, limited)
        except Overloaded:
            return count
    return 1000


def one(*limits: Limit) -> tuple[LocalLender, Quotas, Limited]:
    lender = LocalLender(limits)
    lender.lender.began(1)
    return lender, Quotas(), Limited(limits)


def filled(*limits: Limit) -> tuple[LocalLender, Quotas, Limited, Purse]:
    """A key whose first request is under way."""
    lender, quotas, limited = one(*limits)
    asked(lender, quotas, limited)
    assert limited.purse is not None
    return lender, quotas, limited, limited.purse


def left(quotas: Quotas) -> dict[tuple[str, str], int]:
    """What there is of every account: lent and not reserved, or with the control plane."""
    return {
        (scope, name): slices.free(account) + account.left
        for (scope, _), slices in quotas._slices.items()
        for name, account in slices.accounts.items()
    }


def spend(quotas: Quotas, purse: Purse, taken: int, tokens: int) -> None:
    """What `pipeline.record` does when an answer has ended."""
    if not purse.settle(taken, tokens):
        quotas.settle_late(purse, taken, tokens)


def test_the_next_requests_of_a_key_are_taken_at_once() -> None:
    _, quotas, _, purse = filled(KEY, TENANT)
    assert (purse.requests, purse.tokens) == (MOST, MOST * 10)
    assert left(quotas) == {
        ("key", "requests_per_minute"): 10_000 - 1 - MOST,
        ("key", "tokens_per_day"): 1_000_000 - 10 - MOST * 10,
        ("tenant", "tokens_per_minute"): 500_000 - 10 - MOST * 10,
        ("tenant", "requests_per_day"): 90_000 - 1 - MOST,
    }
    assert all(purse.take(10, NOW) for _ in range(MOST))
    assert not purse.take(0, NOW)


def test_what_is_taken_and_settled_stays_in_one_place() -> None:
    """Else the numbers of ten thousand keys would in time lie all over the memory."""
    *_, purse = filled(KEY, TENANT)
    place, beside = purse._numbers, purse._numbers.tolist()[:2]
    assert purse.take(10, NOW + 5)
    assert purse.settle(10, 3)
    assert purse._numbers is place
    assert place.tolist() == [*beside, purse.tokens, purse.used] == [*beside, MOST * 10 - 3, NOW + 5]


def test_closed_it_has_taken_what_was_used_and_nothing_else() -> None:
    lender, quotas, limited, purse = filled(KEY, TENANT)
    for tokens in (3, 25, 10):
        assert purse.take(10, NOW)
        spend(quotas, purse, 10, tokens)
    assert purse.take(10, NOW), "this one is under way"
    quotas.close(purse)
    assert limited.purse is None
    used = 10 + 38 + 10
    assert left(quotas) == {
        ("key", "requests_per_minute"): 10_000 - 5,
        ("key", "tokens_per_day"): 1_000_000 - used,
        ("tenant", "tokens_per_minute"): 500_000 - used,
        ("tenant", "requests_per_day"): 90_000 - 5,
    }
    assert {slices.held for slices in quotas._slices.values()} == {2}
    spend(quotas, purse, 10, 7)
    assert left(quotas)["key", "tokens_per_day"] == 1_000_000 - used + 3
    assert {slices.held for slices in quotas._slices.values()} == {1}
    lender.exchange(1, quotas, NOW)


@pytest.mark.parametrize(
    "limit",
    [
        Limit("key", "k", requests_per_minute=60),  # half of it is lent: of that a sixteenth is one request
        Limit("key", "k", requests_per_minute=10_000, tokens_per_minute=500),
        Limit("key", "k", requests_per_minute=10_000, budget=10**15),
        Limit("key", "k", requests_per_minute=10_000, streams=1000),
    ],
)
def test_of_little_of_money_and_of_places_nothing_is_taken_beforehand(limit: Limit) -> None:
    lender, quotas, limited = one(limit, TENANT)
    asked(lender, quotas, limited)
    assert limited.purse is None
    assert left(quotas)["tenant", "requests_per_day"] == 90_000 - 1


def test_a_larger_request_than_there_is_left_in_it_closes_it() -> None:
    lender, quotas, limited, purse = filled(KEY)
    assert not purse.take(MOST * 10 + 1, NOW)
    asked(lender, quotas, limited, MOST * 10 + 1)
    assert not purse.open
    assert limited.purse is not purse


def test_who_uses_more_than_is_in_it_owes_that_at_once() -> None:
    lender, quotas, limited, purse = filled(KEY)
    assert purse.take(10, NOW)
    spend(quotas, purse, 10, 2_000_000)
    assert not purse.open
    assert quotas.hungry == {Id("key", "k", "tokens_per_day")}
    lender.exchange(1, quotas, NOW)
    assert lender.lender.gone(Id("key", "k", "tokens_per_day"), NOW) == 2_000_010
    with pytest.raises(Overloaded):
        asked(lender, quotas, limited)


def test_another_key_of_the_tenant_gets_what_is_in_it_before_it_is_refused() -> None:
    tenant = Limit("tenant", "t", requests_per_day=100)
    lender = LocalLender([tenant, Limit("key", "a", requests_per_day=1000)])
    lender.lender.began(1)
    quotas = Quotas()
    first, second = Limited([tenant]), Limited([tenant])
    asked(lender, quotas, first)
    assert first.purse is not None
    assert passes(lender, quotas, second) == 99, "nothing stays behind in the other's purse"


def test_what_another_worker_wants_comes_out_of_it() -> None:
    tenant = Limit("tenant", "t", requests_per_day=1000)
    lender = LocalLender([tenant], workers=2)
    for number in (1, 2):
        lender.lender.began(number)
    here, there = Quotas(), Quotas()
    limited = Limited([tenant])
    while here.reserve(limited, Need(10, 0), NOW) is None:
        lender.exchange(1, here, NOW)
    purse = limited.purse
    assert purse is not None
    assert purse.requests
    passed = 0
    for second in range(PURSE_MS // 1000 - 1):
        now = NOW + second * 1000
        for _ in range(400):
            try:
                if there.reserve(Limited([tenant]), Need(10, 0), now) is not None:
                    passed += 1
                else:
                    lender.exchange(2, there, now)
            except Overloaded:
                break
        for number, quotas in ((1, here), (2, there)):
            lender.exchange(number, quotas, now, idle=True)
    assert not purse.open
    assert passed == 999


def test_a_purse_ends_with_the_minute_and_then_counts_for_the_day_alone() -> None:
    lender, quotas, limited, purse = filled(Limit("key", "k", requests_per_minute=1000, requests_per_day=5000))
    later = NOW + MINUTE_MS
    assert purse.take(10, later - 1)
    assert not purse.take(10, later)
    asked(lender, quotas, limited, now=later)
    quotas.close(limited.purse or purse)
    assert left(quotas) == {("key", "requests_per_minute"): 999, ("key", "requests_per_day"): 5000 - 3}
    spend(quotas, purse, 10, 10)
    assert left(quotas) == {("key", "requests_per_minute"): 999, ("key", "requests_per_day"): 5000 - 3}


def test_a_limit_that_is_changed_or_taken_away_has_no_purse_of_before() -> None:
    lender, quotas, _, purse = filled(KEY)
    lower = Limit("key", "k", requests_per_minute=7)
    lender.lender.limits = {Id("key", "k", "requests_per_minute"): 7}
    assert passes(lender, quotas, Limited([lower])) == 6
    assert not purse.open


def test_one_that_nobody_uses_is_closed_and_its_limits_are_forgotten() -> None:
    lender, quotas, limited, purse = filled(KEY, TENANT)
    quotas.look(NOW + PURSE_MS - 1)
    assert purse.open
    quotas.look(NOW + PURSE_MS)
    assert not purse.open
    quotas.cancel(Taken(10, 0, purse.found))  # the request that filled it
    lender.exchange(1, quotas, NOW + IDLE_MS + PURSE_MS, idle=True)
    assert not quotas.holds
    assert limited.purse is None


def test_no_more_are_looked_at_at_once_than_take_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "_MOST_LOOKED", 3)
    lender = LocalLender([TENANT, *(Limit("key", f"k{n}", requests_per_minute=10_000) for n in range(7))])
    lender.lender.began(1)
    quotas = Quotas()
    for n in range(7):
        asked(lender, quotas, Limited([Limit("key", f"k{n}", requests_per_minute=10_000)]))
    for still in (4, 1, 0):
        quotas.look(NOW + PURSE_MS)
        assert len(quotas._purses) == still


def test_nor_are_more_given_back_at_once_where_others_want_what_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "_MOST_LOOKED", 3)
    lender, quotas, _ = one(TENANT)
    for _ in range(7):
        asked(lender, quotas, Limited([TENANT]))
    for still in (4, 1, 0):
        quotas.wanted([(Id("tenant", "t", "requests_per_day"), NOW // DAY_MS)], NOW)
        assert len(quotas._purses) == still


def test_the_headers_say_what_is_left_of_the_limit_not_beside_the_purse() -> None:
    lender, quotas, limited = one(KEY)

    def remaining(lines: str) -> list[str]:
        return [line.rpartition(" ")[2] for line in lines.splitlines() if "remaining" in line]

    asked(lender, quotas, limited)
    assert remaining(quotas.lines(limited, NOW)) == ["9999", "999990"]
    purse = limited.purse
    assert purse is not None
    assert purse.take(10, NOW)
    assert remaining(purse.lines(NOW)) == ["9998", "999980"]
    spend(quotas, purse, 10, 4)
    assert remaining(quotas.lines(limited, NOW)) == ["9998", "999986"]


@dataclass
class Flight:
    """A request under way."""

    worker: int
    purse: Purse | None
    taken: Taken | None
    expected: int


class Town:
    """Keys of one tenant that ask several workers, and answers that end in any order."""

    def __init__(self, chance: random.Random, workers: int, bound: int, *, longer: bool) -> None:
        """`longer`: answers may use three times what was expected."""
        self.chance, self.longer, self.now = chance, longer, NOW
        limits = [
            Limit("tenant", "t", requests_per_day=bound, tokens_per_day=20 * bound),
            Limit("model", "m", requests_per_minute=10 * bound),
        ]
        self.lender = LocalLender(limits, workers)
        self.workers = [Quotas() for _ in range(workers)]
        self.keys = [[Limited(limits) for _ in range(4)] for _ in range(workers)]
        for number in range(workers):
            self.lender.lender.began(number)
        self.flights: list[Flight] = []
        self.requests = self.tokens = self.beyond = self.paid = 0

    @property
    def expected(self) -> int:
        return sum(flight.expected for flight in self.flights)

    def step(self) -> None:
        self.now += self.chance.choice([0, 0, 5, 300, 2000, PURSE_MS])
        number = self.chance.randrange(len(self.workers))
        match self.chance.choices(("ask", "end", "exchange"), (10, 7, 2))[0]:
            case "ask":
                self._ask(number)
            case "end" if self.flights:
                flight = self.flights.pop(self.chance.randrange(len(self.flights)))
                self.end(flight, self.chance.randint(0, flight.expected * (3 if self.longer else 1)))
            case _:
                self.lender.exchange(number, self.workers[number], self.now, idle=self.chance.random() < 0.5)

    def _ask(self, number: int) -> None:
        limited, expected = self.chance.choice(self.keys[number]), self.chance.randint(1, 40)
        purse, taken = limited.purse, None
        if purse is not None and purse.take(expected, self.now):
            self.paid += 1
        else:
            purse = None
            try:
                taken = self.workers[number].reserve(limited, Need(expected, 0), self.now)
            except Overloaded:
                return
            if taken is None:
                self.lender.exchange(number, self.workers[number], self.now)
                return
        self.flights.append(Flight(number, purse, taken, expected))
        self.requests += 1

    def end(self, flight: Flight, used: int) -> None:
        if flight.purse is not None:
            spend(self.workers[flight.worker], flight.purse, flight.expected, used)
        elif flight.taken is not None:
            self.workers[flight.worker].settle(flight.taken, used, 0)
        self.tokens += used
        self.beyond += max(0, used - flight.expected)

    def over(self) -> None:
        """All answers end, and every worker gives back what it has, or owes."""
        for flight in self.flights:
            self.end(flight, flight.expected)
        for number, quotas in enumerate(self.workers):
            for purse in list(quotas._purses):
                quotas.close(purse)
            assert not quotas._purses_of
            for slices in quotas._slices.values():
                assert slices.held == 0
                assert (slices.streams, slices.money) == (ENDLESS, ENDLESS)
                quotas.hungry.update(account.id for account in slices.accounts.values())
            self.lender.exchange(number, quotas, self.now)
            for slices in quotas._slices.values():
                for account in slices.accounts.values():
                    quotas._return(slices, account, slices.free(account))
            self.lender.exchange(number, quotas, self.now)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(20, 5000), st.booleans())
def test_whatever_comes_no_limit_is_exceeded_and_nothing_is_lost(
    seed: int, workers: int, bound: int, longer: bool
) -> None:
    """What was used and what is under way is at most the limit; and when all is over the lender has out what was used,
    and nothing else."""
    town = Town(random.Random(seed), workers, bound, longer=longer)  # noqa: S311
    for _ in range(300):
        town.step()
        assert town.requests <= bound
        assert town.tokens + town.expected <= 20 * bound + town.beyond
    assert town.paid or bound < 1000, "there were purses"
    town.over()
    gone = [
        town.lender.lender.gone(Id("tenant", "t", name), town.now) for name in ("requests_per_day", "tokens_per_day")
    ]
    assert gone == [town.requests, town.tokens]

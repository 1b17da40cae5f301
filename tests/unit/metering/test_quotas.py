"""Slices: what a worker may spend, what it is lent, and that all of them together never spend more than the limit."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.lender import LocalLender

from daulat.core.quota import DAY_MS, MINUTE_MS, Limit
from daulat.errors import Overloaded
from daulat.metering import quotas as quotas_module
from daulat.metering.purse import Limited
from daulat.metering.quotas import FRESH_MS, IDLE_MS, PURSE_MS, Need, Quotas, Taken
from daulat.metering.remaining import duration
from daulat.metering.slices import Id
from daulat.pipeline.limits import bounds

NOW = 1_795_000_000_000 // DAY_MS * DAY_MS + MINUTE_MS  # the second minute of a day
ONE = Need(1, 0)


def worker(lender: LocalLender, number: int = 1) -> Quotas:
    lender.lender.began(number)
    return Quotas()


def reserve(
    lender: LocalLender, quotas: Quotas, limit: Limit, need: Need = ONE, now: int = NOW, number: int = 1
) -> Taken:
    """What a request does: wait for the next exchange where more has to be lent."""
    for _ in range(5):
        taken = quotas.reserve(Limited([limit]), need, now)
        if taken is not None:
            return taken
        lender.exchange(number, quotas, now)
    raise AssertionError("it waits for ever")


def passes(lender: LocalLender, quotas: Quotas, limit: Limit, need: Need = ONE, now: int = NOW, number: int = 1) -> int:
    """How many requests pass at one moment."""
    for count in range(10_000):
        try:
            reserve(lender, quotas, limit, need, now, number)
        except Overloaded:
            return count
    return 10_000


def test_a_limit_of_requests_is_a_limit_in_every_minute_anew() -> None:
    limit = Limit("key", "k", requests_per_minute=60)
    lender = LocalLender([limit])
    quotas = worker(lender)
    assert passes(lender, quotas, limit) == 60
    assert passes(lender, quotas, limit, now=NOW + MINUTE_MS - 1) == 0
    assert passes(lender, quotas, limit, now=NOW + MINUTE_MS) == 60, "what was not used does not pile up"


def test_few_exchanges_do_for_many_requests() -> None:
    limit = Limit("key", "k", requests_per_minute=10_000)
    lender = LocalLender([limit], workers=2)
    assert passes(lender, worker(lender), limit) == 10_000
    assert lender.exchanges < 60


def test_no_worker_takes_more_than_its_share_at_once() -> None:
    limit = Limit("key", "k", requests_per_day=1000)
    lender = LocalLender([limit], workers=4)
    one, other = worker(lender, 1), worker(lender, 2)
    reserve(lender, one, limit)
    assert lender.lender.gone(Id("key", "k", "requests_per_day"), NOW) <= 1 + 1000 // 8
    assert passes(lender, other, limit, number=2) >= 870


def test_what_one_worker_does_not_need_another_gets() -> None:
    limit = Limit("tenant", "t", requests_per_day=100)
    lender = LocalLender([limit], workers=2)
    one, other = worker(lender, 1), worker(lender, 2)
    reserve(lender, one, limit)
    for count in range(99):  # one in a second: little is left before nothing is
        now = NOW + 1000 * count
        other.settle(reserve(lender, other, limit, now=now, number=2), 1, 0)
        for number, quotas in ((1, one), (2, other)):
            lender.exchange(number, quotas, now, idle=True)
    assert passes(lender, other, limit, now=now, number=2) == 0


def test_what_is_scarce_goes_back_before_anybody_is_short_of_it() -> None:
    """One answer at once: whichever worker the next request comes to has it, a second after the last one ended."""
    limit = Limit("key", "k", streams=1)
    lender = LocalLender([limit], workers=2)
    one, other = worker(lender, 1), worker(lender, 2)
    taken = reserve(lender, one, limit)
    lender.exchange(1, one, NOW + 500, idle=True)
    with pytest.raises(Overloaded):
        reserve(lender, other, limit, now=NOW + 500, number=2)
    one.settle(taken, 1, 0)
    lender.exchange(1, one, NOW + 1500, idle=True)
    lender.exchange(1, one, NOW + 2500, idle=True)
    other.settle(reserve(lender, other, limit, now=NOW + 2500, number=2), 1, 0)


def test_what_nobody_is_short_of_stays_where_it_is() -> None:
    """Given back and lent again, it would cost an exchange each time: with ten thousand tenants, of every request."""
    limit = Limit("tenant", "t", requests_per_day=100)
    lender = LocalLender([limit], workers=2)
    one, other = worker(lender, 1), worker(lender, 2)
    for number, quotas in ((1, one), (2, other)):
        quotas.cancel(reserve(lender, quotas, limit, number=number))
    lent = lender.lender.gone(Id("tenant", "t", "requests_per_day"), NOW)
    for second in range(IDLE_MS // 1000):
        for number, quotas in ((1, one), (2, other)):
            lender.exchange(number, quotas, NOW + second * 1000, idle=True)
    assert lender.lender.gone(Id("tenant", "t", "requests_per_day"), NOW) == lent == 44
    before = lender.exchanges
    assert one.reserve(Limited([limit]), ONE, NOW + IDLE_MS - 1) is not None
    assert lender.exchanges == before


def test_a_slice_of_another_window_is_not_given_back() -> None:
    limit = Limit("key", "k", requests_per_minute=100)
    lender = LocalLender([limit])
    quotas = worker(lender)
    quotas.cancel(reserve(lender, quotas, limit))
    quotas.asks(NOW)
    id_ = Id("key", "k", "requests_per_minute")
    assert not quotas.wanted([(id_, NOW // MINUTE_MS - 1), (Id("key", "other", "streams"), 0)], NOW)
    assert quotas.wanted([(id_, NOW // MINUTE_MS)], NOW)
    assert [(ask.id, ask.back) for ask in quotas.asks(NOW)] == [(id_, 25)], "half was lent, and is needed"


def test_the_refusal_names_the_limit_and_when_it_ends() -> None:
    limit = Limit("tenant", "t", tokens_per_minute=100)
    lender = LocalLender([limit])
    quotas = worker(lender)
    reserve(lender, quotas, limit, Need(90, 0), NOW + 15_000)
    with pytest.raises(Overloaded, match=r"this key's tenant is 100 tokens a minute.* anew in 45s") as refused:
        reserve(lender, quotas, limit, Need(11, 0), NOW + 15_000)
    assert (refused.value.code, refused.value.retry_after) == ("rate_limit_exceeded", 45.0)
    reserve(lender, quotas, limit, Need(10, 0), NOW + 15_000)
    with pytest.raises(Overloaded, match=r"this request alone is for about 101"):
        reserve(lender, quotas, limit, Need(101, 0), NOW + 15_000)
    budget = Limit("key", "k", budget=5 * 10**12)
    lender.lender.limits = {Id("key", "k", "budget"): 5 * 10**12}
    with pytest.raises(Overloaded, match=r"this key is 5.00 \(money\) a month") as refused:
        reserve(lender, quotas, budget, Need(1, 6 * 10**12))
    assert refused.value.code == "insufficient_quota"


def test_a_reservation_is_settled_from_what_was_used() -> None:
    limit = Limit("key", "k", requests_per_minute=10, tokens_per_minute=1000, budget=1000, streams=1)
    lender = LocalLender([limit])
    quotas = worker(lender)
    taken = reserve(lender, quotas, limit, Need(800, 700))
    with pytest.raises(Overloaded, match="1 answers at once"):
        reserve(lender, quotas, limit, Need(1, 1))
    quotas.settle(taken, 100, 60)

    def left() -> dict[str, int]:
        (slices,) = quotas._slices.values()
        return {name: slices.free(account) + account.left for name, account in slices.accounts.items()}

    remaining = left()
    assert remaining == {"requests_per_minute": 9, "tokens_per_minute": 900, "budget": 940, "streams": 1}
    quotas.cancel(reserve(lender, quotas, limit, Need(500, 500)))
    assert left() == remaining


def test_what_was_used_beyond_the_estimate_is_owed() -> None:
    limit = Limit("key", "k", tokens_per_minute=1000)
    lender = LocalLender([limit])
    quotas = worker(lender)
    taken = reserve(lender, quotas, limit, Need(10, 0))
    quotas.settle(taken, 2500, 0)
    lender.exchange(1, quotas, NOW)
    assert lender.lender.gone(Id("key", "k", "tokens_per_minute"), NOW) == 2500
    with pytest.raises(Overloaded):
        reserve(lender, quotas, limit, Need(1, 0))


def test_a_lender_that_is_down_loses_nothing_and_lends_nothing() -> None:
    limit = Limit("key", "k", requests_per_minute=10)
    lender = LocalLender([limit])
    quotas = worker(lender)
    lender.down = True
    for _ in range(3):
        assert quotas.reserve(Limited([limit]), ONE, NOW) is None, "nothing is taken on credit"
        lender.exchange(1, quotas, NOW)
    lender.down = False
    assert passes(lender, quotas, limit) == 10


def test_a_limit_that_is_lowered_takes_back_what_was_lent() -> None:
    limit = Limit("key", "k", requests_per_minute=1000)
    lender = LocalLender([limit])
    quotas = worker(lender)
    reserve(lender, quotas, limit)
    lower = Limit("key", "k", requests_per_minute=5)
    lender.lender.limits = {Id("key", "k", "requests_per_minute"): 5}
    assert passes(lender, quotas, lower) == 4


def test_a_reservation_under_other_limits_is_settled_with_the_accounts_that_are_left() -> None:
    """Meanwhile one limit was taken away, one is another, and one is new: nothing was taken of that."""
    before = Limit("key", "k", requests_per_minute=10, tokens_per_minute=1000, tokens_per_day=5000, streams=2)
    after = Limit("key", "k", requests_per_minute=10, tokens_per_day=4000, budget=900, streams=2)
    lender = LocalLender([before])
    quotas = worker(lender)
    old = reserve(lender, quotas, before, Need(100, 100))
    lender.lender.limits = bounds([after])
    new = reserve(lender, quotas, after, Need(10, 10))
    quotas.settle(old, 40, 40)
    quotas.settle(new, 10, 10)
    (slices,) = quotas._slices.values()
    left = {name: slices.free(account) + account.left for name, account in slices.accounts.items()}
    assert left == {"requests_per_minute": 8, "tokens_per_day": 4000 - 40 - 10, "budget": 890, "streams": 2}


def test_a_reservation_of_the_minute_before_counts_for_its_day_alone() -> None:
    limit = Limit("key", "k", tokens_per_minute=1000, tokens_per_day=5000, requests_per_day=10)
    lender = LocalLender([limit])
    quotas = worker(lender)
    old = reserve(lender, quotas, limit, Need(800, 0))
    new = reserve(lender, quotas, limit, Need(700, 0), now=NOW + MINUTE_MS)
    quotas.settle(old, 1, 0)
    (slices,) = quotas._slices.values()
    left = {name: slices.free(account) + account.left for name, account in slices.accounts.items()}
    assert left == {"tokens_per_minute": 300, "tokens_per_day": 5000 - 1 - 700, "requests_per_day": 8}
    quotas.cancel(new)
    assert slices.free(slices.accounts["tokens_per_minute"]) + slices.accounts["tokens_per_minute"].left == 1000


def test_remaining_and_reset_are_in_openais_words() -> None:
    key = Limit("key", "k", requests_per_minute=60, tokens_per_day=10_000)
    tenant = Limit("tenant", "t", requests_per_minute=30)
    lender = LocalLender([key, tenant])
    quotas = worker(lender)
    both = Limited([key, tenant])
    assert quotas.lines(Limited([]), NOW) == ""
    for _ in range(3):
        taken = quotas.reserve(both, Need(100, 0), NOW)
        if taken is not None:
            break
        lender.exchange(1, quotas, NOW)
    lines = quotas.lines(both, NOW + 500)
    assert lines.endswith("\r\n")
    assert dict(line.split(": ") for line in lines.splitlines()) == {
        "x-ratelimit-limit-requests": "30",
        "x-ratelimit-remaining-requests": "29",
        "x-ratelimit-reset-requests": "59.5s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "9900",
        "x-ratelimit-reset-tokens": "23h58m59s",
    }
    assert [duration(number) for number in (0, 120, 1000, 8640, 360_000)] == ["0ms", "120ms", "1s", "8.64s", "6m0s"]


def test_memory_is_free_again_however_many_keys_there_were() -> None:
    lender = LocalLender([])
    quotas = worker(lender)
    for number in range(70_000):
        quotas.lines(Limited([Limit("key", str(number), requests_per_minute=1)]), NOW)
    for _ in range(70_000 // 512 + 1):
        quotas.look(NOW + IDLE_MS)
    assert not quotas.holds


@dataclass
class Life:
    """One worker in the storm."""

    number: int
    limited: Limited
    quotas: Quotas = field(default_factory=Quotas)
    under_way: list[tuple[Taken, int, int]] = field(default_factory=list)  # taken, expected, when


class Storm:
    """Workers that take, answer, idle and die; the log gets what each of them has answered, at once."""

    def __init__(self, chance: random.Random, workers: int, bound: int, *, longer: bool) -> None:
        """`longer`: answers may use three times what was expected."""
        self.chance, self.longer, self.now = chance, longer, NOW
        self.limit = Limit("tenant", "t", tokens_per_day=bound, requests_per_day=bound, streams=5)
        self.lender = LocalLender([self.limit], workers)
        self.tokens, self.requests = (Id("tenant", "t", name) for name in ("tokens_per_day", "requests_per_day"))
        self.lives: list[Life] = []
        self.dead: list[int] = []
        self.born = self.logged_tokens = self.logged_requests = self.beyond = 0
        for _ in range(workers):
            self.lives.append(self._worker())

    def step(self) -> None:
        self.now += self.chance.choice([self.chance.randrange(0, FRESH_MS)] * 19 + [IDLE_MS])
        life = self.chance.choice(self.lives)
        ways = {self._ask: 10, self._answer: 6, self._exchange: 2, self._kill: 1, self._replayed: 1}
        (way,) = self.chance.choices(list(ways), list(ways.values()))
        way(life)

    @property
    def flying(self) -> list[int]:
        """What is expected of the answers under way."""
        return [expected for life in self.lives for _, expected, _ in life.under_way]

    def _worker(self) -> Life:
        self.lender.lender.began(self.born)
        self.born += 1
        return Life(self.born - 1, Limited([self.limit]))

    def _ask(self, life: Life) -> None:
        expected = self.chance.randint(1, 50)
        try:
            taken = life.quotas.reserve(life.limited, Need(expected, 0), self.now)
        except Overloaded:
            return
        if taken is None:
            self.lender.exchange(life.number, life.quotas, self.now)
        else:
            life.under_way.append((taken, expected, self.now))

    def _answer(self, life: Life) -> None:
        if not life.under_way:
            return
        taken, expected, when = life.under_way.pop(self.chance.randrange(len(life.under_way)))
        used = self.chance.randint(0, expected * 3 if self.longer else expected)
        life.quotas.settle(taken, used, 0)
        self._log(life, used, when)
        self.beyond += max(0, used - expected)

    def _exchange(self, life: Life) -> None:
        self.lender.exchange(life.number, life.quotas, self.now, idle=self.chance.random() < 0.5)

    def _kill(self, life: Life) -> None:
        """What was under way is in the log as interrupted."""
        for _, _, when in life.under_way:
            self._log(life, 0, when)
        self.dead.append(life.number)
        self.lives[self.lives.index(life)] = self._worker()

    def _replayed(self, _life: Life) -> None:
        if self.dead:
            self.lender.lender.ended(self.dead.pop(0))

    def _log(self, life: Life, used: int, when: int) -> None:
        self.lender.log.write(life.number, self.tokens, used, when)
        self.lender.log.write(life.number, self.requests, 1, when)
        self.logged_tokens, self.logged_requests = self.logged_tokens + used, self.logged_requests + 1


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 2000), st.booleans())
def test_workers_that_die_at_any_moment_never_spend_more_than_the_limit(
    seed: int, workers: int, bound: int, longer: bool
) -> None:
    """What is in the log, and what is under way, is at most the limit; and where answers may be longer than expected,
    beyond it at most what those under way have used more than that."""
    storm = Storm(random.Random(seed), workers, bound, longer=longer)  # noqa: S311
    for _ in range(150):
        storm.step()
        assert storm.logged_requests + len(storm.flying) <= bound
        assert len(storm.flying) <= 5
        assert storm.logged_tokens + sum(storm.flying) <= bound + storm.beyond
        if not longer:
            assert storm.lender.lender.gone(storm.tokens, storm.now) <= bound


# As many tenants as there may be.

BOUNDS = {"requests_per_minute": 1000, "tokens_per_minute": 10**6, "requests_per_day": 10**6, "tokens_per_day": 10**9}


def test_what_somebody_waits_for_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ten thousand tenants: it had been, and then everybody waited."""
    limits = [Limit(scope, f"{scope}-{number}", **BOUNDS) for number in range(20) for scope in ("key", "tenant")]
    lender = LocalLender(limits)
    quotas = worker(lender)
    pairs = map(Limited, zip(limits[::2], limits[1::2], strict=True))
    waiting = [pair for pair in pairs if quotas.reserve(pair, ONE, NOW) is None]
    assert len(waiting) == 20
    monkeypatch.setattr(quotas_module, "IDLE_MS", 0)
    lender.exchange(1, quotas, NOW, idle=True)
    for taken in [quotas.reserve(pair, ONE, NOW) for pair in waiting]:
        assert taken is not None
        quotas.settle(taken, 1, 0)
    quotas.look(NOW + PURSE_MS)
    assert all(slices.held == 0 for slices in quotas._slices.values())


def test_what_is_under_way_is_not_forgotten_and_what_nobody_uses_is() -> None:
    limits = [Limit("key", f"k{number}", requests_per_minute=100, tokens_per_day=900) for number in range(9)]
    lender = LocalLender(limits)
    quotas = worker(lender)
    under_way = reserve(lender, quotas, limits[0])
    for limit in limits[1:]:
        quotas.cancel(reserve(lender, quotas, limit))
    later = NOW + IDLE_MS
    quotas.cancel(reserve(lender, quotas, limits[1], now=later - 1))
    lender.exchange(1, quotas, later, idle=True)
    assert {subject for _, subject in quotas._slices} == {"k0", "k1"}
    assert [lender.lender.gone(Id("key", f"k{number}", "tokens_per_day"), later) for number in (2, 8)] == [0, 0]
    quotas.settle(under_way, 30, 0)
    assert quotas._slices["key", "k0"].free(quotas._slices["key", "k0"].accounts["tokens_per_day"]) == 450 - 30


def test_what_is_idle_is_given_back_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody waits while ten thousand tenants' accounts are looked through."""
    monkeypatch.setattr(quotas_module, "_MOST_LOOKED", 4)
    limits = [Limit("key", f"k{number}", requests_per_day=100) for number in range(10)]
    lender = LocalLender(limits)
    quotas = worker(lender)
    for limit in limits:
        quotas.cancel(reserve(lender, quotas, limit))
    later, counts = NOW + IDLE_MS, []
    for _ in range(4):
        quotas.look(later)
        counts.append(len(found := quotas.asks(later)))
        quotas.lent(lender.lender.lend(1, found, later), later)
    assert counts == [4, 4, 2, 0]
    assert all(lender.lender.gone(Id("key", limit.subject, "requests_per_day"), later) == 0 for limit in limits)
    assert not quotas.holds

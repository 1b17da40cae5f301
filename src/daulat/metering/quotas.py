"""A worker's side of quotas: what the control plane has lent it, reserved before a request is answered, settled after.

A worker spends only what it holds: a *slice* of what is left of a limit, lent by `metering.lending`. Where a slice is
too small the request waits for the next exchange with the control plane, some milliseconds; nothing is on credit.
What a request is going to use is estimated, and the difference to what it did use is given back, or owed, when it ends.
Pure; the clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from daulat.core.quota import WORDS, Limit, shown
from daulat.errors import Overloaded
from daulat.metering.purse import Limited, Purse, fitting
from daulat.metering.remaining import Remaining, duration
from daulat.metering.slices import Account, Ask, Found, Id, Lent, Part, Slices, scarce

FRESH_MS: Final = 300  # for so long it is believed that nothing is left
LATELY_MS: Final = 1000  # of what is scarce and was used since then, half stays
IDLE_MS: Final = 120_000  # what has not been used for so long goes back, and is forgotten
_MOST_LOOKED: Final = 512  # limits at once: every answer waits for as long as it takes
_STREAMS_SECONDS: Final = 1.0  # nobody knows when an answer ends
PURSE_MS: Final = 10_000  # a purse that has not been used for so long is closed
_WHOSE: Final = {"key": "this key", "tenant": "this key's tenant", "model": "this model"}

_NONE: Final = Slices()  # of a limit that has been forgotten


@dataclass(slots=True)
class Need:
    """What a request is expected to use."""

    tokens: int
    cost: int


class Taken(NamedTuple):
    """A reservation."""

    tokens: int
    cost: int
    of: Found


class Quotas:
    """All accounts of one worker."""

    def __init__(self) -> None:
        self._slices: dict[tuple[str, str], Slices] = {}  # by scope and subject; looked at last is last
        self._scarce: dict[Slices, None] = {}  # of which others may want what is not needed here; as above
        self._purses: dict[Purse, None] = {}  # that are open; as above
        self._purses_of: dict[Slices, dict[Purse, None]] = {}  # opened first is first
        self._returned: list[Ask] = []  # what goes back with the next exchange
        self.hungry: set[Id] = set()  # those for which somebody waits
        self.refusals: dict[tuple[str, str], int] = {}  # by scope and resource, for the metrics

    def reserve(self, limited: Limited, need: Need, now_ms: int) -> Taken | None:
        """Take what a request needs out of every limit's slice, all or nothing. None: more has to be lent first.

        Raises:
            Overloaded: a limit is reached; says which, and `retry_after` when it is not any more.
        """
        if limited.purse is not None:
            self.close(limited.purse)
        tokens, cost = need.tokens, need.cost
        found, short = self._found(limited, now_ms), []
        for slices, _ in found:
            if slices.requests < 1 or slices.tokens < tokens or slices.money < cost or slices.streams < 1:
                short.append(slices)
        if short:
            if self._recalled(short, tokens):
                return self.reserve(limited, need, now_ms)
            self._want(short, {"requests": 1, "tokens": tokens, "money": cost, "streams": 1}, now_ms)
            return None
        for slices, _ in found:
            slices.requests -= 1
            slices.tokens -= tokens
            if cost:
                slices.money -= cost
            slices.streams -= 1
            slices.held += 1
            slices.used = now_ms
        if requests := fitting(found, tokens):
            self._fill(limited, found, requests, requests * tokens, now_ms)
        return Taken(tokens, cost, found)

    def settle(self, taken: Taken, tokens: int, cost: int) -> None:
        """The request has ended: what it used counts, whatever was reserved for it."""
        self._end(taken, 0, taken.tokens - tokens, taken.cost - cost)

    def cancel(self, taken: Taken) -> None:
        """The request has not been answered: nothing counts."""
        self._end(taken, 1, taken.tokens, taken.cost)

    def settle_late(self, purse: Purse, taken: int, tokens: int) -> None:
        """What `Purse.settle` has left to do: the purse owes something, or had been closed before."""
        if purse.open:
            self.close(purse)
        else:
            self._end(Taken(taken, 0, purse.found), 0, taken - tokens, 0)

    def close(self, purse: Purse) -> None:
        """What is left in it goes back, and its requests under way have reservations of their own."""
        purse.open, purse.limited.purse = False, None
        del self._purses[purse]
        for slices, parts in purse.found:
            those = self._purses_of[slices]
            del those[purse]
            if not those:
                del self._purses_of[slices]
            slices.held += purse.flying - 1
            slices.streams -= purse.flying
            slices.used = max(slices.used, purse.used)
            self._give(slices, parts, (purse.requests, purse.tokens, 0, 0))

    @property
    def holds(self) -> bool:
        """Whether there is anything that another worker may want."""
        return bool(self._slices)

    def asks(self, now_ms: int) -> list[Ask]:
        """What to tell the control plane now."""
        asks, self._returned = self._returned, []
        for id_ in self.hungry:
            slices = self._slices[id_[:2]]
            slices.turn(now_ms)
            account = slices.accounts.get(id_.resource)
            if account is not None and (ask := self._told(slices, account)):
                asks.append(ask)
        self.hungry.clear()
        return asks

    def lent(self, answers: Iterable[Lent], now_ms: int) -> None:
        """Take what was lent."""
        for id_, number, given, left in answers:
            slices = self._slices.get(id_[:2], _NONE)
            account = slices.accounts.get(id_.resource)
            if account is not None and account.window == number:
                account.left, account.asked, account.want = left, now_ms, 0
                slices.add(account, given)
                account.scarce = scarce(account.limit, left)
                if account.scarce:
                    self._scarce[slices] = None

    def wanted(self, those: Iterable[tuple[Id, int]], now_ms: int) -> bool:
        """Little is left of these, and others need it: what is not needed here goes back. Whether there is any now."""
        for id_, number in those:
            slices = self._slices.get(id_[:2], _NONE)
            account = slices.accounts.get(id_.resource)
            if account is not None and account.window == number:
                account.scarce = True
                self._scarce[slices] = None
                self._spare(slices, now_ms)
        return bool(self._returned)

    def look(self, now_ms: int) -> None:
        """Called once a second: give back what is scarce and was not needed, and what has not been used for long.

        Some at a time: those looked at longest ago first.
        """
        for slices in list(islice(self._scarce, _MOST_LOOKED)):
            del self._scarce[slices]
            self._spare(slices, now_ms)
            if any(each.scarce and (slices.held or slices.free(each) > 0) for each in slices.accounts.values()):
                self._scarce[slices] = None
        for purse in list(islice(self._purses, _MOST_LOOKED)):
            if now_ms >= purse.ends or now_ms - purse.used >= PURSE_MS:
                self.close(purse)
            else:
                self._purses[purse] = self._purses.pop(purse)
        needed = {id_[:2] for id_ in self.hungry}
        for whose in list(islice(self._slices, _MOST_LOOKED)):
            slices = self._slices.pop(whose)
            slices.turn(now_ms)
            accounts = slices.accounts.values()
            owes = any(account.want or slices.free(account) < 0 for account in accounts)
            if slices.held or owes or whose in needed or now_ms - slices.used < IDLE_MS:
                self._slices[whose] = slices
                continue
            for account in accounts:
                self._return(slices, account, slices.free(account))
            self._scarce.pop(slices, None)
            slices.parts = ()  # whoever has found it before finds another

    def failed(self, asks: Iterable[Ask]) -> None:
        """The control plane did not answer: what was to be given back is here still."""
        for id_, number, want, back in asks:
            slices = self._slices.get(id_[:2], _NONE)
            account = slices.accounts.get(id_.resource)
            if account is not None and account.window == number:
                slices.add(account, back)
                if want:
                    self.hungry.add(id_)

    def lines(self, limited: Limited, now_ms: int) -> str:
        """`x-ratelimit-*` of these limits."""
        if limited.purse is not None:
            return limited.purse.lines(now_ms)
        return Remaining(self._found(limited, now_ms)).render(now_ms)

    def _found(self, limited: Limited, now_ms: int) -> Found:
        """The slices of these limits, now."""
        for slices, parts in limited.found:
            if slices.parts is not parts or now_ms >= slices.ends:
                break
        else:
            if limited.found:
                return limited.found
        limited.found = tuple([self._look_up(limit, now_ms) for limit in limited.limits])
        return limited.found

    def _look_up(self, limit: Limit, now_ms: int) -> tuple[Slices, tuple[Part, ...]]:
        slices = self._slices.get((limit.scope, limit.subject))
        if slices is None:
            slices = self._slices[limit.scope, limit.subject] = Slices()
            slices.used = now_ms
        if slices.limit is not limit:  # once for each that a roll brings
            if slices.limit != limit:
                self._recall(slices)
            self._returned += slices.adopt(limit)
        slices.turn(now_ms)
        return slices, slices.parts

    def _want(self, short: Iterable[Slices], amounts: Mapping[str, int], now_ms: int) -> None:
        """Have lent what is short, or refuse what would not be."""
        for slices in short:
            for account in slices.accounts.values():
                amount, free = amounts[account.kind], slices.free(account)
                if amount <= free:
                    continue
                fresh = now_ms - account.asked < FRESH_MS
                account.want = max(account.want, min(amount, account.limit) - free)
                self.hungry.add(account.id)  # also where it is refused: what others give back will be heard of
                if amount > account.limit or (fresh and amount > free + account.left):
                    raise self._refusal(account, amount, now_ms)

    def _end(self, taken: Taken, request: int, tokens: int, cost: int) -> None:
        """Give back so much, and the place among the streams."""
        for slices, parts in taken.of:
            slices.held -= 1
            self._give(slices, parts, (request, tokens, cost, 1))

    def _give(self, slices: Slices, parts: tuple[Part, ...], back: tuple[int, int, int, int]) -> None:
        """Give back so many requests, tokens, money and places among the streams; below 0: take more."""
        requests, tokens, money, streams = back
        slices.requests += requests
        slices.tokens += tokens
        slices.money += money
        slices.streams += streams
        if slices.parts is not parts:
            slices.correct(parts, {"requests": requests, "tokens": tokens, "money": money, "streams": streams})
        if slices.tokens < 0 or slices.money < 0 or slices.streams < 0:
            self.hungry.update(each.id for each in slices.accounts.values() if slices.free(each) < 0)

    def _fill(self, limited: Limited, found: Found, requests: int, tokens: int, now_ms: int) -> None:
        """Have a purse for the next few requests; not of what others may want."""
        for slices, _ in found:
            if slices in self._scarce:
                return
        for slices, _ in found:
            slices.requests -= requests
            slices.tokens -= tokens
            slices.held += 1
        purse = limited.purse = Purse(limited, found, requests, tokens, now_ms)
        self._purses[purse] = None
        for slices, _ in found:
            self._purses_of.setdefault(slices, {})[purse] = None

    def _recall(self, slices: Slices, most: int | None = None) -> None:
        """Close the purses that there are of it: all, or at most so many."""
        for purse in list(islice(self._purses_of.get(slices, ()), most)):
            self.close(purse)

    def _close_oldest(self, slices: Slices) -> bool:
        """Close the purse of it that was opened first; whether there was one."""
        those = self._purses_of.get(slices)
        if not those:
            return False
        self.close(next(iter(those)))
        return True

    def _recalled(self, short: Iterable[Slices], tokens: int) -> bool:
        """Close purses, the oldest first, until so much is there; whether any was."""
        recalled = False
        for slices in short:
            while (slices.requests < 1 or slices.tokens < tokens) and self._close_oldest(slices):
                recalled = True
        return recalled

    def _told(self, slices: Slices, account: Account) -> Ask | None:
        """What to say of one account, if there is anything: what it is short of, and what it owes."""
        while slices.free(account) < 0 and self._close_oldest(slices):
            pass
        owed = min(slices.free(account), 0)
        if not (account.want or owed):
            return None
        slices.add(account, -owed)
        return Ask(account.id, account.window, account.want, owed)

    def _spare(self, slices: Slices, now_ms: int) -> None:
        """What is scarce goes back: all that is not reserved, or half of it where some was needed of late."""
        self._recall(slices, _MOST_LOOKED)  # of a model there may be ten thousand: the others a second later
        slices.turn(now_ms)
        for account in slices.accounts.values():
            if account.scarce and not account.want:
                free = slices.free(account)
                self._return(slices, account, free // 2 if now_ms - slices.used < LATELY_MS else free)

    def _return(self, slices: Slices, account: Account, amount: int) -> None:
        if amount > 0:
            slices.add(account, -amount)
            self._returned.append(Ask(account.id, account.window, 0, amount))

    def _refusal(self, account: Account, amount: int, now_ms: int) -> Overloaded:
        scope, _, resource = account.id
        self.refusals[scope, resource] = self.refusals.get((scope, resource), 0) + 1
        money = resource == "budget"
        bound = f"{shown(account.limit)} (money)" if money else str(account.limit)
        words = f"The limit of {_WHOSE[scope]} is {bound} {WORDS[resource]}"
        if resource == "streams":
            return Overloaded(f"{words}, and they are under way.", retry_after=_STREAMS_SECONDS)
        left = account.ends - now_ms
        code = "insufficient_quota" if money else None
        if amount > account.limit:
            about = shown(amount) if money else amount
            return Overloaded(f"{words}; this request alone is for about {about}.", retry_after=left / 1000, code=code)
        words = f"{words}, and too little of it is left. It begins anew in {duration(left)}."
        return Overloaded(words, retry_after=left / 1000, code=code)

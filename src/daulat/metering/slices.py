"""What a worker holds of one limit: its accounts, and the room that they leave a request. The clock is the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from daulat.core.quota import RESOURCES, Limit, window

ENDLESS: Final = 1 << 62
"""The room of what is not limited."""
_KINDS: Final = {  # of a request's amounts: which a resource is about
    "requests_per_minute": "requests",
    "tokens_per_minute": "tokens",
    "requests_per_day": "requests",
    "tokens_per_day": "tokens",
    "budget": "money",
    "streams": "streams",
}
_ROOMS: Final = tuple(dict.fromkeys(_KINDS.values()))


class Id(NamedTuple):
    """Of what an account is kept."""

    scope: str
    subject: str
    resource: str


class Ask(NamedTuple):
    """What a worker tells the control plane of one account: what it wants, and gives back (or owes: below 0)."""

    id: Id
    window: int
    want: int
    back: int


class Lent(NamedTuple):
    """The answer: what was lent, and what is left to lend."""

    id: Id
    window: int
    given: int
    left: int


def scarce(limit: int, left: int) -> bool:
    """Whether so little is left with the control plane that no worker should keep what it does not need."""
    return 4 * left < limit


@dataclass(slots=True)
class Account:
    """One resource of one limit in one worker."""

    id: Id
    kind: str  # which of a request's amounts it is about: `_KINDS`
    limit: int
    window: int = -1
    ends: int = 0  # Unix milliseconds
    extra: int = 0  # what it has beyond the room of its kind (`Slices`)
    left: int = 0  # with the control plane, when it was last asked
    asked: int = 0  # when that was
    want: int = 0  # by those that wait
    scarce: bool = False  # so little is left that other workers may want what this one does not need


class Part(NamedTuple):
    """An account in one of its windows."""

    account: Account
    window: int


class Slices:
    """What one worker holds of one limit.

    A request takes the same from the minute's account as from the day's. So there is one number to look at and to
    change for each kind: the *room* of the tightest of its accounts, which every one of them has, and some more. Room
    is what is lent, and not reserved. Below zero: more was used than was lent, which is owed.
    """

    __slots__ = (
        "_of",
        "accounts",
        "beyond_requests",
        "beyond_tokens",
        "counted",
        "ends",
        "held",
        "limit",
        "money",
        "parts",
        "requests",
        "streams",
        "tightest_requests",
        "tightest_tokens",
        "tokens",
        "used",
    )

    def __init__(self) -> None:
        self.limit: Limit | None = None
        self.accounts: dict[str, Account] = {}  # by resource
        self._of: dict[str, tuple[Account, ...]] = {}  # by kind
        self.requests = self.tokens = self.money = self.streams = ENDLESS  # room
        self.tightest_requests: Account | None = None  # of which least is left, here and with the control plane
        self.tightest_tokens: Account | None = None
        self.beyond_requests = self.beyond_tokens = 0  # what is left of those beyond the room
        self.parts: tuple[Part, ...] = ()  # its accounts in their windows: made anew where any of them is another
        self.ends = 0  # Unix milliseconds: when the first of those windows does
        self.held = 0  # reservations that have not ended, and purses that are open
        self.counted = True  # whether it limits requests and tokens alone
        self.used = 0  # Unix milliseconds: when anything was last reserved

    def free(self, account: Account) -> int:
        """What is lent of an account, and not reserved."""
        return int(getattr(self, account.kind)) + account.extra

    def add(self, account: Account, amount: int) -> None:
        """More of it is lent; below 0: less."""
        account.extra += amount
        self._level(account.kind)

    def adopt(self, limit: Limit) -> list[Ask]:
        """Go by this limit from now on. What was lent under one that was otherwise goes back: that is returned.

        A request under way is settled with the accounts that there are still.
        """
        if limit == self.limit:
            self.limit = limit
            return []
        before, frees = self.accounts, {name: self.free(account) for name, account in self.accounts.items()}
        recalled, self.accounts = [], {}
        for resource, kind in _KINDS.items():
            amount, account = getattr(limit, resource), before.get(resource)
            if account is not None and account.limit != amount:
                if free := frees.pop(resource):
                    recalled.append(Ask(account.id, account.window, 0, free))
                account.limit, account.asked = amount, 0
            if amount:
                made = account or Account(Id(limit.scope, limit.subject, resource), kind, amount)
                made.extra = frees.get(resource, 0)
                self.accounts[resource] = made
        self._of, self.tightest_requests, self.tightest_tokens = {}, None, None
        self.beyond_requests = self.beyond_tokens = 0
        for account in self.accounts.values():
            self._of[account.kind] = (*self._of.get(account.kind, ()), account)
        self.counted = "money" not in self._of and "streams" not in self._of
        for kind in _ROOMS:
            setattr(self, kind, 0 if kind in self._of else ENDLESS)
        for kind in self._of:
            self._level(kind)
        self.limit, self.ends = limit, 0
        return recalled

    def turn(self, now_ms: int) -> None:
        """Begin the next windows, where it is time."""
        if now_ms < self.ends:
            return
        begun: dict[str, None] = {}
        for account in self.accounts.values():
            if now_ms >= account.ends:
                account.window, account.ends = window(RESOURCES[account.id.resource], now_ms)
                account.want = account.asked = 0
                account.left, account.scarce = account.limit, False
                account.extra -= self.free(account)
                begun[account.kind] = None
        for kind in begun:
            self._level(kind)
        self.parts = tuple([Part(account, account.window) for account in self.accounts.values()])
        self.ends = min([account.ends for account in self.accounts.values()], default=ENDLESS)

    def correct(self, parts: Iterable[Part], back: Mapping[str, int]) -> None:
        """So much was given back of a reservation in these parts: not to others. Their day is over, the log has it."""
        for account in self.accounts.values():
            if not any(account is each and account.window == number for each, number in parts):
                self.add(account, -back[account.kind])

    def _level(self, kind: str) -> None:
        """The room of a kind is again what the tightest of its accounts has."""
        those = self._of[kind]
        if len(those) == 1:  # as often as not
            (account,) = those
            least, tightest = account.extra, account
        else:
            least, tightest = min([account.extra for account in those]), min(those, key=_left)
        if least:
            setattr(self, kind, getattr(self, kind) + least)
            for account in those:
                account.extra -= least
        if kind == "requests":
            self.tightest_requests, self.beyond_requests = tightest, _left(tightest)
        elif kind == "tokens":
            self.tightest_tokens, self.beyond_tokens = tightest, _left(tightest)


def _left(account: Account) -> int:
    """What is left of it, here beyond the room and with the control plane."""
    return account.extra + account.left


Found = tuple[tuple[Slices, tuple[Part, ...]], ...]
"""Slices, with the accounts and windows that they had then: they are others now where their `parts` are."""

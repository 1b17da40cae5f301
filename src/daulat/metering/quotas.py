"""A worker's side of quotas: what the control plane has lent it, reserved before a request is answered, settled after.

A worker spends only what it holds: a *slice* of what is left of a limit, lent by `metering.lending`. Where a slice is
too small the request waits for the next exchange with the control plane, some milliseconds; nothing is on credit.
What a request is going to use is estimated, and the difference to what it did use is given back, or owed, when it ends.
Pure; the clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from daulat.core.quota import RESOURCES, WORDS, Limit, shown, window
from daulat.errors import Overloaded

FRESH_MS: Final = 300  # for so long it is believed that nothing is left
_MAX_ACCOUNTS: Final = 65_536  # from so many on, those that nobody needs are looked for
_MOST_LOOKED: Final = 2048  # accounts at once: every answer waits for as long as it takes
_STREAMS_SECONDS: Final = 1.0  # nobody knows when an answer ends
_TOKENS: Final = frozenset({"tokens_per_minute", "tokens_per_day"})
_WHOSE: Final = {"key": "this key", "tenant": "this key's tenant", "model": "this model"}


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


@dataclass(slots=True)
class Account:
    """One resource of one limit in one worker."""

    id: Id
    limit: int
    window: int = -1
    ends: int = 0  # Unix milliseconds
    free: int = 0  # lent, and not reserved. Below zero: more was used than was lent, which is owed
    left: int = 0  # with the control plane, when it was last asked
    asked: int = 0  # when that was
    want: int = 0  # by those that wait
    spent: int = 0  # since the last exchange
    held: int = 0  # reservations of it that have not ended

    def turn(self, now_ms: int) -> None:
        """Begin the next window, if it is time."""
        if now_ms >= self.ends:
            self.window, self.ends = window(RESOURCES[self.id.resource], now_ms)
            self.free = self.want = self.asked = self.spent = 0
            self.left = self.limit

    @property
    def remaining(self) -> int:
        return max(0, self.free + self.left)


class Taken(NamedTuple):
    """One account's part of a reservation."""

    account: Account
    window: int
    amount: int


@dataclass(slots=True)
class Need:
    """What a request is expected to use."""

    tokens: int
    cost: int

    def of(self, resource: str) -> int:
        if resource in _TOKENS:
            return self.tokens
        return self.cost if resource == "budget" else 1


class Quotas:
    """All accounts of one worker."""

    def __init__(self) -> None:
        self._accounts: dict[Id, Account] = {}
        self._known: dict[tuple[str, str], tuple[Limit, list[Account]]] = {}  # by scope and subject
        self._active: dict[Id, None] = {}  # that were used of late, or hold anything; who was looked at last is last
        self._recalled: list[Ask] = []  # what was lent under limits that are no more
        self._room = _MAX_ACCOUNTS
        self.hungry: set[Id] = set()  # those for which somebody waits
        self.refusals: dict[tuple[str, str], int] = {}  # by scope and resource, for the metrics

    def reserve(self, limits: Iterable[Limit], need: Need, now_ms: int) -> Sequence[Taken] | None:
        """Take what a request needs out of every limit's slice, all or nothing. None: more has to be lent first.

        Raises:
            Overloaded: a limit is reached; says which, and `retry_after` when it is not any more.
        """
        self._make_room()
        found: list[Taken] = []
        short = False
        for limit in limits:
            for account in self._of(limit):
                account.turn(now_ms)
                amount = need.of(account.id.resource)
                found.append(Taken(account, account.window, amount))
                if amount > account.free:
                    short = True
                    fresh = now_ms - account.asked < FRESH_MS
                    account.want = max(account.want, min(amount, account.limit) - account.free)
                    self.hungry.add(account.id)  # also where it is refused: what others give back will be heard of
                    if amount > account.limit or (fresh and amount > account.free + account.left):
                        raise self._refusal(account, amount, now_ms)
        if short:
            return None
        for account, _, amount in found:
            account.free -= amount
            account.spent += amount
            account.held += 1
            self._active[account.id] = None
        return found

    def settle(self, taken: Iterable[Taken], tokens: int, cost: int) -> None:
        """The request has ended: what it used counts, whatever was reserved for it."""
        for account, number, amount in taken:
            account.held -= 1
            if account.window != number:
                continue  # its day is over: the log has it
            resource = account.id.resource
            if resource in _TOKENS:
                account.free += amount - tokens
            elif resource == "budget":
                account.free += amount - cost
            elif resource == "streams":
                account.free += amount
            if account.free < 0:
                self.hungry.add(account.id)

    def cancel(self, taken: Iterable[Taken]) -> None:
        """The request has not been answered: nothing counts."""
        for account, number, amount in taken:
            account.held -= 1
            if account.window == number:
                account.free += amount

    def asks(self, now_ms: int, *, idle: bool = False) -> list[Ask]:
        """What to tell the control plane now. `idle`: also what has not been used of late is given back, bit by bit."""
        found, self._recalled = self._recalled, []
        looked = [id_ for id_ in islice(self._active, _MOST_LOOKED) if id_ not in self.hungry] if idle else ()
        for id_ in (*looked, *self.hungry):
            account = self._accounts[id_]
            account.turn(now_ms)
            spare = account.free - 2 * account.spent if idle and not account.want else 0
            back = min(account.free, 0) or max(0, spare)
            if account.want or back:
                found.append(Ask(id_, account.window, account.want, back))
                account.free -= back
            if idle:
                account.spent = 0
                self._active.pop(id_, None)
                if account.free:
                    self._active[id_] = None
        self.hungry.clear()
        return found

    def lent(self, answers: Iterable[Lent], now_ms: int) -> None:
        """Take what was lent."""
        for id_, number, given, left in answers:
            account = self._accounts.get(id_)
            if account is not None and account.window == number:
                account.free += given
                account.left, account.asked, account.want = left, now_ms, 0
                self._active[id_] = None

    def failed(self, asks: Iterable[Ask]) -> None:
        """The control plane did not answer: what was to be given back is here still."""
        for id_, number, want, back in asks:
            account = self._accounts.get(id_)
            if account is not None and account.window == number:
                account.free += back
                if want:
                    self.hungry.add(id_)

    def headers(self, limits: Iterable[Limit], now_ms: int) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*`, as OpenAI's API has them: of requests and of tokens, the tightest limit that there is."""
        self._make_room()
        made: list[tuple[bytes, bytes]] = []
        accounts = [account for limit in limits for account in self._of(limit)]
        for kind in ("requests", "tokens"):
            mine = [account for account in accounts if account.id.resource.startswith(kind)]
            if not mine:
                continue
            tightest = min(mine, key=lambda account: account.remaining)
            made += (
                (f"x-ratelimit-limit-{kind}".encode(), str(tightest.limit).encode()),
                (f"x-ratelimit-remaining-{kind}".encode(), str(tightest.remaining).encode()),
                (f"x-ratelimit-reset-{kind}".encode(), duration(tightest.ends - now_ms).encode()),
            )
        return made

    def _of(self, limit: Limit) -> list[Account]:
        """The accounts of a limit, made once for each that a roll brings."""
        known = self._known.get((limit.scope, limit.subject))
        if known is not None and known[0] is limit:
            return known[1]
        found = []
        for resource in RESOURCES:
            if amount := getattr(limit, resource):
                id_ = Id(limit.scope, limit.subject, resource)
                account = self._accounts.get(id_)
                if account is None:
                    account = self._accounts[id_] = Account(id_, amount)
                elif account.limit != amount:
                    self._recalled.append(Ask(id_, account.window, 0, account.free))
                    account.limit, account.free, account.asked = amount, 0, 0
                found.append(account)
        self._known[limit.scope, limit.subject] = limit, found
        return found

    def _make_room(self) -> None:
        """Where there are many, forget accounts that hold nothing and are waited for by nobody. Before any is found:
        what is under way needs them.

        An exchange gives back what idle ones hold. Where all are needed, it is not looked again before there are twice
        as many.
        """
        if len(self._accounts) < self._room:
            return
        needed = self._active.keys() | self.hungry
        self._known.clear()
        self._accounts = {
            id_: account
            for id_, account in self._accounts.items()
            if id_ in needed or account.held or account.want or account.free
        }
        self._room = max(_MAX_ACCOUNTS, 2 * len(self._accounts))

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


def duration(milliseconds: int) -> str:
    """A time as OpenAI's headers write it: "120ms", "1.5s", "6m0s", "3h0m5s"."""
    if milliseconds < 1000:  # noqa: PLR2004
        return f"{max(0, milliseconds)}ms"
    seconds, rest = divmod(milliseconds, 1000)
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds}.{rest:03d}".rstrip("0").rstrip(".") + "s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s"

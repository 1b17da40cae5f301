"""The control plane's part in metering: limits and prices in force, slices lent to workers, use by the log."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any, Final

from daulat.adapters import rpc
from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.journal_files import JournalFolder
from daulat.adapters.log_files import LogFolder
from daulat.adapters.usage_db import Checked, UsageDatabase
from daulat.core import quota
from daulat.core.clock import Clock
from daulat.core.files import text_of
from daulat.core.quota import RESOURCES, Prices
from daulat.core.snapshot import Roll
from daulat.errors import ConfigError, DaulatError, IntegrityError, InvalidRequest
from daulat.metering import focus
from daulat.metering.lending import Lender
from daulat.metering.slices import Ask, Id
from daulat.pipeline.deploy import Act
from daulat.pipeline.limits import Limits, bounds
from daulat.settings import Home

WATCH_SECONDS: Final = 0.5  # between two looks at dead workers
COUNT_SECONDS: Final = 5.0  # between two counts of the log, so that a start has little to do
_COUNTS: Final = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
_SAID: Final = 2000  # characters of what differs, in this machine's own log
_BY: Final = ("day", "tenant", "key", "model")
_log = logging.getLogger(__name__)


class Metering:
    """Owns the projection and the lender."""

    def __init__(
        self,
        rows: ControlDatabase,
        act: Act,
        clock: Clock,
        home: Home,
        name: str,
        origin: str,
        country: str,
        workers: int,
    ) -> None:
        """`name`: of the log, whose shards are `<name>/<period>`; `origin`: the one in force.

        Raises:
            ConfigError: the price table is wrong.
        """
        self._rows, self._act, self._clock, self._home = rows, act, clock, home
        self._name, self._origin, self._country = name, origin, country
        self._limits = Limits(rows, act)
        self.prices = _prices(home)
        self.waiting: tuple[str, ...] = ()  # a changed price table that is wrong, in words
        self._usage = UsageDatabase(home.usage_db)
        self._lender = Lender(self._spent, workers)
        self._journals = JournalFolder(home.journal)
        self._slots: dict[int, int] = {}  # the worker of each slot, by its key's index
        self._dead: set[int] = set()  # whose journal the log has not taken in yet
        self._roll: Roll | None = None
        self._counting = asyncio.Lock()

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act, which publishes what it changed."""
        self._price = changes(self._set_prices)
        return {
            "limit.set": changes(self._limits.set),
            "limit.remove": changes(self._limits.remove),
            "limit.list": self._list,
            "quota.lend": self._lend,
            "usage": self._report,
            "usage.focus": self._focus,
            "usage.check": self._check,
            "usage.rebuild": self._rebuild,
            "prices": self._table,
        }

    async def begin(self) -> None:
        """Before any worker is lent to: the log is counted, and the log knows the prices."""
        try:
            await self._count()
        except IntegrityError:  # it is not the log's count: so it is made anew, or the log itself cannot be counted
            await self._check()
        await self._set_prices(self.prices)

    def published(self, roll: Roll) -> None:
        """These limits are in force."""
        if roll is not self._roll:
            self._roll, self._lender.limits = roll, bounds(roll.quotas)

    def registered(self, slot: int, worker: int) -> None:
        """A worker begins in this slot: whoever was there before is dead."""
        if (before := self._slots.get(slot)) is not None:
            self._dead.add(before)
        self._slots[slot] = worker
        self._lender.began(worker)

    async def watch(self) -> None:
        """Reclaim what dead workers were lent, once the log has their entries, and keep the projection near the log."""
        since, checked = 0.0, False
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            since += WATCH_SECONDS
            gone = self._dead - set(self._journals.workers())
            strangers = set(self._journals.workers()) - set(self._slots.values()) - self._dead
            if not (gone or strangers or since >= COUNT_SECONDS):
                continue
            since = 0.0
            try:
                await (self._count() if checked else self._check())  # once: what was changed while nobody looked
                checked = True
                await self._look_at_prices()
            except DaulatError as error:
                _log.warning("the log cannot be counted now: %s", error.message)
                continue
            for worker in gone:
                self._dead.discard(worker)
                self._lender.ended(worker)
            if strangers:  # of a run before this one; the log takes them in meanwhile
                self._lender.recount()

    def close(self) -> None:
        self._usage.close()

    async def _lend(self, worker: int, asks: list[list[Any]]) -> dict[str, Any]:
        found = [Ask(Id(*id_), number, want, back) for id_, number, want, back in asks]
        lent = self._lender.lend(worker, found, self._clock.now_ms())
        return {"lent": lent, "wanted": self._lender.wanted(worker)}

    def _spent(self, accounts: Collection[tuple[Id, int]], without: Collection[int]) -> Mapping[tuple[Id, int], int]:
        """See `lending.Spent`."""
        asked: defaultdict[tuple[str, str, int], defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for id_, number in accounts:
            if period := RESOURCES[id_.resource]:  # streams are under way, or they are not
                asked[id_.scope, period, number][id_.subject].append(id_.resource)
        found: Counter[tuple[Id, int]] = Counter()
        for (scope, period, number), subjects in asked.items():
            numbers, unit = range(number, number + 1), period
            if period == "month":
                numbers, unit = quota.days_of(number), "day"
            for row in self._usage.spent(scope, subjects, unit, numbers, origin=self._origin, without=without):
                for resource in subjects[row["subject"]]:
                    found[Id(scope, row["subject"], resource), number] += self._amount(resource, row)
        return found

    def _amount(self, resource: str, row: Mapping[str, Any]) -> int:
        if resource == "budget":
            return self._cost({**row, "day": quota.day_of(row["number"] * quota.DAY_MS)})
        if resource.startswith("requests"):
            return int(row["requests"])
        return int(row["prompt_tokens"] + row["completion_tokens"])

    def _cost(self, row: Mapping[str, Any]) -> int:
        tokens = (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
        return self.prices.cost(row["model"], row["day"], *tokens)

    async def _list(self) -> list[dict[str, Any]]:
        """All limits, and how much of each is spent, or lent to a worker, now."""
        now, found = self._clock.now_ms(), []
        for row in self._limits.all():
            used: dict[str, Any] = {
                resource: self._lender.gone(Id(row["scope"], row["alias"], resource), now)
                for resource in RESOURCES
                if resource in row
            }
            if "budget" in used:
                used["budget"] = quota.shown(used["budget"])
            found.append({**{name: value for name, value in row.items() if name != "alias"}, "used": used})
        return found

    async def _report(self, by: list[str], since: str = "", until: str = "9999") -> list[dict[str, Any]]:
        """Use by some of day, tenant, key and model, with names beside pseudonyms, and what it costs."""
        if not by or not set(by) <= set(_BY):
            raise InvalidRequest(f"by is {by}, expected some of {', '.join(_BY)}")
        sums: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in await self._named(since, until):
            shown = {name: value for name, value in row.items() if name.removesuffix("_name") in by}
            into = sums.setdefault(tuple(row[name] for name in by), {**shown, **dict.fromkeys(_COUNTS, 0), "cost": 0})
            for name in _COUNTS:
                into[name] += row[name]
            into["cost"] += self._cost(row)
        rows = [sums[key] for key in sorted(sums)]
        return [{**row, "cost": quota.shown(row["cost"]), "currency": self.prices.currency} for row in rows]

    async def _focus(self, since: str = "", until: str = "9999") -> list[dict[str, str | None]]:
        rows = await self._named(since, until)
        return list(focus.rows(rows, self.prices, provider=self._name, region=self._country))

    async def _named(self, since: str, until: str) -> list[dict[str, Any]]:
        await self._count()
        names = self._limits.names()
        return [
            {
                **row,
                "tenant_name": names.get(("tenant", row["tenant"]), ""),
                "key_name": names.get(("key", row["key"]), ""),
            }
            for row in self._usage.rows(since, until)
        ]

    async def _rebuild(self) -> dict[str, Any]:
        """Drop the projection, and count the log again from its beginning."""
        async with self._counting:
            await asyncio.to_thread(self._usage.drop)
        return {"entries": await self._count()}

    async def _check(self) -> dict[str, Any]:
        """Hold the projection against the log. Where it says something else, that is logged and it is counted anew."""
        found = await asyncio.to_thread(self._usage.check, self._shards())
        if found.differences:
            async with self._counting:
                await self._distrust(found)
        await self._count()
        self._lender.recount()
        return {"entries": found.entries, "differences": list(found.differences)}

    async def _distrust(self, found: Checked) -> None:
        """Drop what is not the log's."""
        said = "\n".join(found.differences)
        _log.error("usage.db says what the log does not, so it is counted anew: %s", said[:_SAID])
        digest = hashlib.sha256(said.encode()).hexdigest()
        await self._act("usage.differs", digest, {"entries": found.entries, "differences": len(found.differences)})
        await asyncio.to_thread(self._usage.drop)

    async def _look_at_prices(self) -> None:
        """Put a changed price table into force; by one that is wrong nothing changes."""
        try:
            found = _prices(self._home)
        except ConfigError as error:
            words = f"the price table before it goes on: {error}"
            if self.waiting != (words,):
                _log.warning("%s", words)
            self.waiting = (words,)
            return
        self.waiting = ()
        if _digest(found) != _digest(self.prices):
            await self._price(prices=found)

    async def _set_prices(self, prices: Prices) -> None:
        """The log has a table before it counts."""
        digest, before = _digest(prices), self._rows.meta("prices")
        if digest != before and (before or prices.rows):
            table = [asdict(row) for row in prices.rows]
            await self._act("prices.set", digest, {"currency": prices.currency, "prices": table})
            self._rows.set_meta("prices", digest)
        self.prices = prices
        self._lender.recount()

    async def _table(self) -> dict[str, Any]:
        return {"currency": self.prices.currency, "prices": [asdict(row) for row in self.prices.rows]}

    async def _count(self) -> int:
        """Once this returns, the projection says what the log does, whoever has written to it since it was checked."""
        async with self._counting:
            mended = False
            if self._usage.touched():
                found = await asyncio.to_thread(self._usage.check, self._shards())
                if mended := bool(found.differences):
                    await self._distrust(found)
            count = await asyncio.to_thread(self._usage.catch_up, self._shards())
        if mended:
            self._lender.recount()
        return count

    def _shards(self) -> dict[str, LogFolder]:
        folders = sorted(path.parent for path in self._home.log.glob("*/checkpoint"))
        return {f"{self._name}/{folder.name}": LogFolder(folder) for folder in folders}


def _prices(home: Home) -> Prices:
    if not home.prices.exists():
        return Prices()
    return quota.prices(text_of(home.prices), location=str(home.prices))


def _digest(prices: Prices) -> str:
    return hashlib.sha256(repr((prices.currency, prices.rows)).encode()).hexdigest()

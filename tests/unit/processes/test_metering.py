"""The control plane's part: prices that the log knows, slices for workers that live, and what dead ones had."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.worlds import NOW, StillClock
from tests.unit.adapters.test_usage_db import Log, inference

from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.journal_files import WorkerSegments
from daulat.core.quota import Limit
from daulat.core.snapshot import Roll
from daulat.errors import ConfigError, Unavailable
from daulat.metering.purse import Limited
from daulat.metering.quotas import Need, Quotas
from daulat.metering.slices import Ask, Id
from daulat.pipeline import publish
from daulat.pipeline.operate import Desk
from daulat.processes import borrowing
from daulat.processes import metering as metering_process
from daulat.processes.borrowing import Borrower
from daulat.processes.metering import Metering
from daulat.settings import Home

NAME = "test.daulat.example"
PRICES = 'currency = "MYR"\n[[price]]\nsince = 2020-01-01\nprompt = "1"\ncompletion = "2"\n'


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)


class Plane:
    """A control plane's database and log, and the metering over them."""

    def __init__(self, home: Home) -> None:
        self.home, self.clock = home, StillClock()
        self.rows = ControlDatabase(home.control_db)
        self.acts: list[Mapping[str, Any]] = []
        self.desk = Desk(self.rows, self._note, self.clock, 0)
        self.log = Log(home.log / "2026")
        self.metering = self.restarted()

    async def _note(self, _type: str, fields: Mapping[str, Any]) -> int:
        self.acts.append(fields)
        return len(self.acts)

    def restarted(self) -> Metering:
        self.metering = Metering(self.rows, self.desk.act, self.clock, self.home, NAME, f"{NAME}/2026", "MY", workers=2)
        return self.metering

    def publish(self) -> Roll:
        roll = publish.roll(1, self.rows.rows, self.clock.now_ms(), self.metering.prices)
        self.metering.published(roll)
        return roll

    async def ask(self, method: str, **params: Any) -> Any:
        """As over the socket."""
        found = await self.metering.handlers(lambda use_case: use_case)[method](**json.loads(json.dumps(params)))
        return json.loads(json.dumps(found))


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    home = Home(tmp_path / "home")
    home.prepare()
    made = Plane(home)
    asyncio.run(made.desk.begin())
    yield made
    made.metering.close()
    made.rows.close()


def test_a_price_table_is_in_the_log_once_and_a_wrong_one_stops_the_start(plane: Plane) -> None:
    asyncio.run(plane.metering.begin())
    before = len(plane.acts)
    plane.home.prices.write_text(PRICES)
    for _ in range(2):
        plane.metering.close()
        asyncio.run(plane.restarted().begin())
    (act,) = plane.acts[before:]
    assert act["action"] == "prices.set"
    assert act["detail"] == {
        "currency": "MYR",
        "prices": [{"model": "", "since": "2020-01-01", "prompt": 10**6, "cached": 10**6, "completion": 2 * 10**6}],
    }
    assert asyncio.run(plane.ask("prices"))["currency"] == "MYR"
    plane.home.prices.write_text("currency = 5")
    with pytest.raises(ConfigError, match="currency is 5"):
        plane.restarted()
    plane.home.prices.unlink()
    plane.restarted()


def test_a_changed_price_table_counts_without_a_restart_and_a_wrong_one_does_not(plane: Plane) -> None:
    published: list[str] = []

    def changes(use_case: Any) -> Any:
        async def act(**params: Any) -> Any:
            await use_case(**params)
            published.append(plane.metering.prices.currency)

        return act

    async def main() -> None:
        metering = plane.metering
        metering.handlers(changes)
        await metering.begin()
        plane.log.grow([inference(NOW, tokens=(50, 10, 40))])
        assert [row["cost"] for row in await plane.ask("usage", by=["day"])] == ["0.00"]
        metering.handlers(changes)
        before = len(plane.acts)
        plane.home.prices.write_text(PRICES)
        for _ in range(2):
            await metering._look_at_prices()
        assert [row["cost"] for row in await plane.ask("usage", by=["day"])] == ["0.00013"]
        assert published == ["MYR"], "workers have it, once"
        metering.handlers(changes)
        for wrong in (b"currency = 5", b"\xff", PRICES.replace('"1"', "1").encode()):
            plane.home.prices.write_bytes(wrong)
            await metering._look_at_prices()
            (words,) = metering.waiting
            assert "the price table before it goes on: " in words
            assert str(plane.home.prices) in words
            assert metering.prices.rows[0].prompt == 10**6
        plane.home.prices.write_text(PRICES.replace("MYR", "SGD"))
        await metering._look_at_prices()
        assert (metering.waiting, metering.prices.currency) == ((), "SGD")
        plane.home.prices.unlink()
        await metering._look_at_prices()
        assert published == ["MYR", "SGD", "MYR"]
        said = [(act["action"], act["detail"]["currency"], len(act["detail"]["prices"])) for act in plane.acts[before:]]
        assert said == [("prices.set", "MYR", 1), ("prices.set", "SGD", 1), ("prices.set", "MYR", 0)]

    asyncio.run(main())


def test_a_budget_is_spent_by_the_prices_in_force(plane: Plane) -> None:
    async def main() -> None:
        plane.home.prices.write_text(PRICES)
        metering = plane.restarted()
        await metering.begin()
        await plane.ask("limit.set", scope="model", name="small", given={"budget": "0.01"})
        plane.publish()
        plane.log.grow([inference(NOW, tokens=(50, 10, 40))])
        await plane.ask("usage", by=["day"])
        await metering._check()
        assert (await plane.ask("limit.list"))[0]["used"] == {"budget": "0.00013"}
        plane.home.prices.write_text(PRICES.replace('"2"', '"4"'))
        await metering._look_at_prices()
        assert (await plane.ask("limit.list"))[0]["used"] == {"budget": "0.00021"}

    asyncio.run(main())


def tampered(plane: Plane, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(plane.home.usage_db)) as database, database:
        assert database.execute(statement).rowcount


def test_a_tampered_projection_is_noticed_logged_and_counted_anew(plane: Plane) -> None:
    async def main() -> None:
        await plane.metering.begin()
        given = {"requests_per_day": 100}
        await plane.ask("limit.set", scope="model", name="small", given=given)
        plane.publish()
        plane.log.grow([inference(NOW, tenant=tenant) for tenant in "abb"])
        right = await plane.ask("usage", by=["tenant"])
        for number, statement in enumerate(("UPDATE used SET requests = 0", "DELETE FROM used", "DELETE FROM state")):
            before = len(plane.acts)
            tampered(plane, statement)
            if number == 1:  # also where nobody asks for the sums before somebody checks them
                said = await plane.ask("usage.check")
                assert (said["entries"], len(said["differences"])) == (3, 4)
                assert "nothing; the log has requests 1" in said["differences"][0]
            assert await plane.ask("usage", by=["tenant"]) == right
            (act,) = plane.acts[before:]
            assert (act["action"], act["detail"]["entries"]) == ("usage.differs", 0 if number == 2 else 3)
            assert (await plane.ask("limit.list"))[0]["used"] == {"requests_per_day": 3}
            assert await plane.ask("usage.check") == {"entries": 3, "differences": []}
            assert len(plane.acts) == before + 1

    asyncio.run(main())


@pytest.mark.parametrize("statement", ["UPDATE used SET tenant = 'other'", "UPDATE state SET size = 99"])
def test_what_was_changed_while_the_service_was_stopped_is_noticed_when_it_starts(
    plane: Plane, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering_process, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(metering_process, "COUNT_SECONDS", 0.01)

    async def main() -> None:
        plane.log.grow([inference(NOW)])
        await plane.metering.begin()
        plane.metering.close()
        tampered(plane, statement)
        before, metering = len(plane.acts), plane.restarted()
        metering.handlers(lambda use_case: use_case)
        await metering.begin()
        watching = asyncio.create_task(metering.watch())
        await until(lambda: len(plane.acts) > before)
        (act,) = plane.acts[before:]
        assert act["action"] == "usage.differs"
        assert [row["tenant"] for row in await plane.ask("usage", by=["tenant"])] == ["t"]
        watching.cancel()

    asyncio.run(main())


def test_a_dead_workers_slices_are_there_again_when_the_log_has_its_entries(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering_process, "WATCH_SECONDS", 0.01)

    async def main() -> None:
        metering = plane.metering
        await metering.begin()
        limits = {"requests_per_day": 100}
        await plane.ask("limit.set", scope="tenant", name="first-agency", given=limits)
        roll = plane.publish()
        (limit,) = roll.quotas
        id_ = Id("tenant", limit.subject, "requests_per_day")
        day = NOW // 86_400_000
        watching = asyncio.create_task(metering.watch())

        async def left(worker: int, want: int = 0) -> tuple[int, int]:
            answer = await plane.ask("quota.lend", worker=worker, asks=[Ask(id_, day, want, 0)])
            ((_, _, given, rest),) = answer["lent"]
            return given, rest

        metering.registered(0, 7)
        journal = WorkerSegments(plane.home.journal, 7, f"{NAME}/2026")
        given, rest = await left(7, 10)
        assert given == 10 + 90 // 4
        assert rest == 100 - given
        metering.registered(0, 8)  # the worker in slot 0 has died
        await asyncio.sleep(0.1)
        assert (await left(8))[1] == rest, "its journal is not in the log yet"
        plane.log.grow([inference(NOW, tenant=limit.subject, worker=7) for _ in range(3)])
        journal.close()
        for path in plane.home.journal.iterdir():
            path.unlink()  # as the sequencer does, once it has taken everything in
        async with asyncio.timeout(60):
            while (await left(8))[1] != 97:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.02)
        (row,) = await plane.ask("limit.list")
        assert row["used"] == {"requests_per_day": 3}
        watching.cancel()

    asyncio.run(main())


def test_days_and_months_go_on_after_a_restart(plane: Plane) -> None:
    async def main() -> None:
        plane.home.prices.write_text(PRICES)
        await plane.restarted().begin()
        given = {"tokens_per_day": 1000, "requests_per_minute": 10, "budget": "0.01"}
        await plane.ask("limit.set", scope="model", name="small", given=given)
        plane.publish()
        plane.log.grow([inference(NOW, tokens=(50, 10, 40), worker=3)] * 4)
        await plane.restarted().begin()
        plane.publish()
        (row,) = await plane.ask("limit.list")
        assert row["used"] == {"tokens_per_day": 360, "requests_per_minute": 4, "budget": "0.00052"}
        plane.clock.pass_seconds(60)
        assert (await plane.ask("limit.list"))[0]["used"]["requests_per_minute"] == 0
        plane.clock.pass_seconds(86_400)
        (row,) = await plane.ask("limit.list")
        assert row["used"] == {"tokens_per_day": 0, "requests_per_minute": 0, "budget": "0.00052"}

    asyncio.run(main())


def test_names_stand_beside_pseudonyms_for_the_operator(plane: Plane) -> None:
    async def main() -> None:
        await plane.metering.begin()
        roll = plane.publish()
        key = roll.keys[0].pseudonym
        mine = next(row.pseudonym for row in roll.tenants if row.id == roll.people[-1].tenant)
        plane.log.grow([inference(NOW, tenant=mine, key=key), inference(NOW, tenant="gone", key="gone")])
        rows = await plane.ask("usage", by=["tenant", "key"])
        assert {(row["tenant_name"], row["key_name"], row["requests"]) for row in rows} == {
            ("first-agency", "first-key", 1),
            ("", "", 1),
        }
        exported = await plane.ask("usage.focus")
        assert {row["BillingAccountName"] for row in exported} == {"first-agency", None}
        assert {row["InvoiceIssuer"] for row in exported} == {NAME}

    asyncio.run(main())


class Control:
    """`processes.borrowing.Lender`, that lends what is wanted, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.asked: list[list[Any]] = []
        self.wanted: list[Any] = []

    async def call(self, method: str, **params: Any) -> Any:
        assert (method, params["worker"]) == ("quota.lend", 7)
        if self.away:
            raise Unavailable("away")
        self.asked.append(params["asks"])
        wanted, self.wanted = self.wanted, []
        return {"lent": [[list(id_), number, want, 5] for id_, number, want, _ in params["asks"]], "wanted": wanted}


class Told:
    """What a `Borrower` needs of `pipeline.turns.Turns`."""

    def __init__(self) -> None:
        self.quotas = Quotas()
        self.times: list[int] = []

    def lent(self, now_ms: int) -> None:
        self.times.append(now_ms)


def test_a_worker_that_wants_nothing_hears_what_others_are_short_of(monkeypatch: Any) -> None:
    monkeypatch.setattr(borrowing, "IDLE_SECONDS", 0.05)

    async def main() -> None:
        control, told, clock = Control(), Told(), StillClock()
        borrower = Borrower(control, 7, clock)
        running = asyncio.create_task(borrower.run(told))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        assert not control.asked, "whoever has been lent nothing has nothing to hear"
        limit = Limit("key", "k", requests_per_day=900)
        assert told.quotas.reserve(Limited([limit]), Need(1, 0), clock.now_ms()) is None
        borrower.kick()
        await until(lambda: bool(told.times))
        id_, day = Id("key", "k", "requests_per_day"), clock.now_ms() // 86_400_000
        clock.pass_seconds(1)
        control.wanted = [[list(id_), day]]
        await until(lambda: [Ask(id_, day, 0, 1)] in control.asked)
        running.cancel()

    asyncio.run(main())


def test_a_worker_asks_once_for_all_and_again_when_nobody_answers() -> None:
    async def main() -> None:
        control, told, clock = Control(), Told(), StillClock()
        borrower = Borrower(control, 7, clock)
        running = asyncio.create_task(borrower.run(told))  # type: ignore[arg-type]
        limits = Limited([Limit("key", name, requests_per_minute=9) for name in "ab"])
        control.away = True
        assert told.quotas.reserve(limits, Need(1, 0), clock.now_ms()) is None
        borrower.kick()
        await asyncio.sleep(0.05)
        assert not told.times
        control.away = False
        await until(lambda: bool(told.times))
        await asyncio.sleep(0.2)
        assert len(told.times) == 1
        assert [len(asks) for asks in control.asked] == [2]
        assert told.quotas.reserve(limits, Need(1, 0), clock.now_ms()) is not None
        assert borrower.exchanges >= 2
        running.cancel()

    asyncio.run(main())

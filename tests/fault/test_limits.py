"""Limits that hold and use that is not lost, across workers, kill -9 and restarts; and no tenant starves another."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections import Counter
from typing import Any

import pytest
from tests.support.battered import Battered
from tests.support.load import Exchange, Load
from tests.support.reckoning import reckon
from tests.support.stub_engine import PROMPT_TOKENS

from daulat.core.quota import day_of

pytestmark = pytest.mark.slow

TOKENS = PROMPT_TOKENS + 8  # of one whole answer of the stub
REQUESTS, STREAMS = 500, 6
USABLE = REQUESTS - 2 * 3 * STREAMS  # of these requests, whoever holds the rest
BY = ["day", "tenant", "key", "model"]


def in_log(inferences: dict[str, dict[str, Any]]) -> Counter[str]:
    """What the log has of each day: the rule of docs/limits.md, entry by entry."""
    sums: Counter[str] = Counter()
    for entry in inferences.values():
        if entry["completion"]["attempts"]:
            day, usage = day_of(entry["admission"]["time"]), entry["completion"]["usage"]
            sums[f"{day} requests"] += 1
            for name, tokens in usage.items():
                sums[f"{day} {name}"] += tokens
    return +sums


async def counted(service: Battered) -> Counter[str]:
    """The same, as the projection has it."""
    sums: Counter[str] = Counter()
    for row in await service.call("usage", by=BY):
        for name in ("requests", "prompt_tokens", "cached_tokens", "completion_tokens"):
            sums[f"{row['day']} {name}"] += row[name]
    return +sums


async def busy(service: Battered) -> bool:
    """Whether the engine has had several answers under way."""
    return service.engine is not None and service.engine.most > 1


async def spent(load: Load) -> bool:
    return sum(exchange.status == 429 for exchange in load.exchanges[-24:]) > 20


async def used(service: Battered) -> bool:
    """Whether what workers did not need was given back, and used by others."""
    return sum(number for key, number in (await counted(service)).items() if key.endswith(" requests")) > USABLE


async def limited(service: Battered) -> dict[str, Any]:
    (row,) = await service.call("limit.list")
    return dict(row)


def test_a_limit_holds_and_no_use_is_lost_whoever_is_killed() -> None:
    asyncio.run(_killed())


async def _killed() -> None:
    began = time.monotonic()
    async with Battered(workers=3) as service, Load(service.port, service.secrets["api_key"], 11, leaves=0) as load:
        bounds = {"requests_per_day": REQUESTS, "streams": STREAMS}
        await service.call("limit.set", scope="tenant", name="first-agency", given=bounds)
        load.start()
        await service.until(lambda: busy(service))
        await asyncio.sleep(1.5)
        assert service.engine is not None
        assert service.engine.most <= STREAMS, "twelve clients ask at three workers"
        for number in range(6):  # workers, one after the other, and once everything
            if number == 3:
                await service.kill_all()
                await service.start()
            else:
                pids = (await service.processes())["worker"]
                os.kill(pids[0], signal.SIGKILL)
                await service.replaced(pids[0])
            await asyncio.sleep(0.3)

        await service.until(lambda: spent(load))
        await service.until(lambda: used(service))
        await load.pause()
        await service.integrated()
        reckoning = reckon(service.home, load.exchanges)
        log = in_log(reckoning.inferences)
        days = {key.partition(" ")[0] for key in log}
        assert all(log[f"{day} requests"] <= REQUESTS for day in days), log
        if len(days) == 1:  # it is not midnight just now
            (day,) = days
            assert log[f"{day} requests"] > USABLE, "and it can be used"
        whole = [one for one in load.exchanges if one.whole and one.status == 200]
        answered = sum(entry["completion"]["outcome"] == "ok" for entry in reckoning.inferences.values())
        assert answered >= len(whole)
        assert sum(log[f"{day} completion_tokens"] + log[f"{day} prompt_tokens"] for day in days) >= TOKENS * len(whole)

        assert await counted(service) == log
        assert (await service.call("usage.rebuild"))["entries"] >= reckoning.report.size  # canaries go on
        assert await counted(service) == log
        await service.kill_all()
        for path in service.home.path.glob("usage.db*"):
            path.unlink()
        await service.start()
        assert await counted(service) == log, "made anew from the log"
        passed, refused = await _left(service, load)
        if (today := day_of(round(time.time() * 1000))) in days:
            assert passed <= REQUESTS - log[f"{today} requests"], "no restart gives anybody a second day"
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) > 1
            assert "500 requests a day" in refused.body.decode()
            gone = (await limited(service))["used"]["requests_per_day"]
            assert gone == log[f"{today} requests"] + passed
        assert await service.stop() == 0
    outcomes = dict(reckoning.outcomes)
    sys.stdout.write(
        f"\n{len(load.exchanges)} asked, {len(whole)} answered, {sum(log[f'{day} requests'] for day in days)} of "
        f"{REQUESTS} in the log, {outcomes}; {time.monotonic() - began:.0f} s\n"
    )


async def _left(service: Battered, load: Load) -> tuple[int, Exchange]:
    """How many requests pass, of what no worker had come to use, and how the next one is refused."""
    passed = 0
    while (refused := await service.until(lambda: _said(load))).status == 200:
        passed += 1
    await service.integrated()
    return passed, refused


async def _said(load: Load) -> Exchange | None:
    """An answer of a control plane that has had time to say what is left."""
    exchange = await load.one()
    return None if exchange.status == 503 else exchange


def test_a_noisy_tenant_cannot_starve_another() -> None:
    asyncio.run(_noisy())


async def _noisy() -> None:
    """An engine with two slots, 80 ms an answer; forty clients of one tenant, two of another's."""
    async with Battered(workers=1, slots=2) as service:
        await service.call("tenant.add", name="quiet")
        attributes = {"citizenship": "MY", "assurance": "substantial", "roles": ["user"], "days": 9}
        await service.call("person.add", name="aminah", tenant="quiet", **attributes)
        asked = {"person": "aminah", "label": "k", "models": [], "requests_per_minute": 0, "days": 9}
        key = (await service.call("key.create", **asked))["api_key"]
        noisy = Load(service.port, service.secrets["api_key"], 1, clients=40, leaves=0)
        quiet = Load(service.port, key, 2, clients=2, leaves=0)
        async with noisy, quiet:
            alone = await _times(quiet, 12)
            noisy.start()
            await _answers(service, 80, noisy)  # of these, forty have only been asked for
            beside = await _times(quiet, 12)
            quiet.start()
            shares = await _answers(service, 120, noisy, quiet)
            await service.call("limit.set", scope="tenant", name="first-agency", given={"priority": 5})
            _, starved = await _answers(service, 75, noisy, quiet)
            assert service.engine is not None
            most = service.engine.most  # before clients leave in the middle: an engine notices that a little later
            assert all(one.status in {0, 200} for load in (noisy, quiet) for one in load.exchanges)
        assert most <= 2, "the engine never had more than its slots"
    sys.stdout.write(
        f"\nalone {statistics.median(alone) * 1000:.0f} ms, beside forty {statistics.median(beside) * 1000:.0f} ms; "
        f"answers: noisy {shares[0]}, quiet {shares[1]}; under the other's priority, of 75: {starved}\n"
    )
    assert statistics.median(beside) < 4 * max(alone), "without fair shares it would wait for forty others: 20 times"
    assert shares[1] > shares[0] / 3, shares
    assert starved > 1, "every eighth place goes by shares alone"


async def _answers(service: Battered, count: int, *loads: Load) -> list[int]:
    """How many answers each has had by the time when all have had so many together: not by a clock, which may jump."""
    before = [len(load.exchanges) for load in loads]

    async def had() -> list[int] | None:
        found = [len(load.exchanges) - known for load, known in zip(loads, before, strict=True)]
        return found if sum(found) >= count else None

    return list(await service.until(had))


async def _times(load: Load, count: int) -> list[float]:
    """Seconds of each of so many requests, one after the other."""
    found = []
    for _ in range(count):
        began = time.monotonic()
        assert (await load.one()).status == 200
        found.append(time.monotonic() - began)
    return found

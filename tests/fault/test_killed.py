"""Kill -9 under load, torn writes and failed syncs, two hundred times over; then the reckoning.

FAULT_SEED=7 FAULT_ROUNDS=50 make test-fault ARGS="-s -k killed"
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support import faulty
from tests.support.battered import Battered, nothing_wrong
from tests.support.load import Load
from tests.support.power import lose_tails
from tests.support.reckoning import grows, reckon

from daulat.adapters.log_files import LogFolder, current_period

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("FAULT_SEED", "20261124"))
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "200"))
LONGEST_RESTART = 30.0  # seconds; the median is what is meant by seconds
USUAL_RESTART = 6.0
LONGEST_STARTS, USUAL_STARTS = 12.0, 2.4  # the same in first starts, where other work slows all of them
WEIGHTS = {"worker": 6, "sequencer": 4, "pages": 1, "control": 2, "group": 2, "power": 3, "disk": 5}


class Storm:
    """The rounds: what was done, and every checkpoint that was seen on the way."""

    def __init__(self, service: Battered, load: Load, chance: random.Random) -> None:
        self._service, self._load, self._chance = service, load, chance
        self.done: Counter[str] = Counter()
        self.checkpoints: list[bytes] = []

    async def run(self, rounds: int) -> None:
        ways: dict[str, Callable[[], Awaitable[str]]] = {
            "worker": lambda: self._child("worker"),
            "sequencer": lambda: self._child("sequencer"),
            "pages": lambda: self._child("pages"),
            "control": self._control,
            "group": self._group,
            "power": self._power,
            "disk": self._disk,
        }
        # Every way the same share of the rounds, whatever the seed; the order and the moments are its choice.
        names = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
        order = [names[number % len(names)] for number in range(rounds)]
        self._chance.shuffle(order)
        for name in order:
            await asyncio.sleep(self._chance.uniform(0.02, 0.5))  # the random moment
            self.done[await ways[name]()] += 1
            self._look()

    def _look(self) -> None:
        log = self._service.home.log
        published = LogFolder(log / current_period(log)).published()
        if not self.checkpoints or self.checkpoints[-1] != published:
            self.checkpoints.append(published)

    async def _pick(self, name: str) -> int:
        return self._chance.choice((await self._service.processes())[name])

    async def _child(self, name: str) -> str:
        pid = await self._pick(name)
        os.kill(pid, signal.SIGKILL)
        await self._service.replaced(pid)
        return f"kill {name}"

    async def _control(self) -> str:
        await self._service.kill_control()
        await self._service.start()
        return "kill control"

    async def _group(self) -> str:
        await self._service.kill_all()
        await self._service.start()
        return "kill all"

    async def _power(self) -> str:
        """Everything stops at once, and what was being written is damaged."""
        await self._service.kill_all()
        await self._load.pause()  # every client has read what had reached it
        lost = lose_tails(self._service.home.journal, self._load.exchanges, self._chance)
        self._load.resume()
        await self._service.start()
        return f"power lost, {lost} journals damaged"

    async def _disk(self) -> str:
        name = self._chance.choice(("worker", "worker", "sequencer"))
        kind = self._chance.choice(faulty.KINDS)
        pid = await self._pick(name)
        self._service.fail(pid, kind)
        await self._service.replaced(pid)
        return f"{kind} write of {name}"


def test_two_hundred_times_killed_and_every_promise_kept() -> None:
    sys.stdout.write(f"\nFAULT_SEED={SEED} FAULT_ROUNDS={ROUNDS}\n")
    asyncio.run(_killed(random.Random(SEED)))  # noqa: S311  choices that can be made again


async def _killed(chance: random.Random) -> None:
    began = time.monotonic()
    async with Battered() as service, Load(service.port, service.secrets["api_key"], SEED) as load:
        storm = Storm(service, load, chance)
        load.start()
        await storm.run(ROUNDS)
        await load.pause()
        await service.processes()
        await service.integrated()
        reckoning = reckon(service.home, load.exchanges)
        seen = grows(service.home, storm.checkpoints)
        _audited_over_http(service, [exchange.promise for exchange in load.exchanges if exchange.promise])
        assert nothing_wrong(_daulat(service, "log", "fsck"))
        assert (await load.one()).status == 200  # it still serves
        assert await service.stop() == 0
        assert nothing_wrong(_daulat(service, "log", "fsck"))
        restarts = sorted(service.restarts)
    async with Battered() as another:  # the machine may have become a slower one meanwhile
        first = max(service.first, another.first)
    whole = sum(exchange.whole for exchange in load.exchanges)
    broken = sum(bool(exchange.status) and not exchange.whole for exchange in load.exchanges)
    sys.stdout.write(
        f"{ROUNDS} rounds in {time.monotonic() - began:.0f} s: {dict(sorted(storm.done.items()))}; "
        f"{len(load.exchanges)} requests, {whole} answered, {broken} cut; {reckoning.report.promises_kept} promises "
        f"kept; entries by outcome {dict(reckoning.outcomes)}; {seen} checkpoints; back after "
        f"{restarts[len(restarts) // 2]:.1f} s (median), {restarts[-1]:.1f} s (longest)\n"
    )
    assert restarts[-1] < max(LONGEST_RESTART, LONGEST_STARTS * first)
    assert restarts[len(restarts) // 2] < max(USUAL_RESTART, USUAL_STARTS * first)
    # It was a storm: answers were cut, and the log says so.
    assert reckoning.outcomes["ok"] > ROUNDS
    assert reckoning.outcomes["interrupted"] > ROUNDS // 10
    assert broken > ROUNDS // 10


def _audited_over_http(service: Battered, promises: list[str]) -> None:
    """As any auditor does it, with the command."""
    token, kept = service.folder / "token", service.folder / "promises"
    token.write_text(service.secrets["auditor_token"])
    kept.write_text("\n".join(promises))
    found = _daulat(
        service,
        *("audit", service.secrets["url"], "--vkey", service.secrets["log_vkey"]),
        *("--token-file", str(token), "--promises", str(kept)),
    )
    assert found["holds"]
    (log,) = found["logs"]
    assert log["promises"]["kept"] == len(promises)


def _daulat(service: Battered, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "DAULAT_HOME": str(service.home.path)}
    command = [sys.executable, "-m", "daulat", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return dict(json.loads(done.stdout))

"""What the supervisor does when an engine crashes, hangs, grows, escapes, falls silent, or is told to end."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support import virtual_time

from daulat.adapters.reports import Reports
from daulat.adapters.sandbox import Sandboxed
from daulat.agent.canary import Finding
from daulat.engines.answers import Report
from daulat.engines.llamacpp.engine import LLAMACPP
from daulat.errors import EngineDead, EngineError, EngineTimeout
from daulat.processes.launcher import Running, Wanted
from daulat.processes.machines import TOKEN_SECONDS
from daulat.processes.supervisor import DRAIN_SECONDS, PULSE_SECONDS, Supervisor

WANTED = Wanted("r", "m", Path("/m"), Path("/f"), slots=4, context=2048, threads=1, embeds=False, memory_mib=1000)
APART = replace(WANTED, engine=replace(LLAMACPP, core_apart=True))
CANARY_SECONDS = 60.0
ANSWER_SECONDS = 600.0
CHECKED, MOST_CHECKED = 7, 900  # tokens of a round of answer checks
HOLE = {"kind": "socket", "target": "AF_INET", "outcome": "reached", "detail": ""}


class Process:
    """The engine's process, as the supervisor waits for it."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    async def wait(self) -> int:
        await self._ended.wait()
        return self.returncode or 0

    def end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()


class Body:
    """The sandbox, as the supervisor measures and ends it."""

    def __init__(self) -> None:
        self.process = Process()
        self.facts = {"grade": "G2"}
        self.resident_mib = 300.0
        self.busy = False  # computing for all it can
        self.stopped = False

    def resident_bytes(self) -> int:
        return int(self.resident_mib * 2**20)

    def cpu_seconds(self) -> float:
        return asyncio.get_running_loop().time() if self.busy else 1.0

    async def ended(self) -> int:
        return await self.process.wait()

    async def stop(self, _seconds: float) -> None:
        self.stopped = True
        self.process.end(0)


class Machine:
    """The world, as a test wants it (`processes.machines.Machine`)."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.starts: list[float] = []
        self.failures: list[str] = []  # of the next starts
        self.outcomes: Callable[[], str] = lambda: "contained"
        self.rounds = 0
        self.answers = True
        self.processing = 0
        self.tokens = 0
        self.checks = 0
        self.checked = True  # whether a round of answer checks says that there was one
        self.faults: list[str] = []  # of the next rounds of answer checks; "": none
        self.words: list[str] = []  # the engine's own
        self.core_hangs = False  # while health probes are answered
        self.asked_tokens = 0
        self.slow_check = 0.1
        self.slow_start = self.slow_probe = 0.1

    @property
    def body(self) -> Body:
        return self.bodies[-1]

    async def start(self) -> Running:
        self.starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.slow_start)
        if self.failures:
            raise EngineDead(self.failures.pop(0))
        self.bodies.append(Body())
        return Running(cast("Sandboxed", self.body), {"name": "fake"}, {"kind": "cpu"}, deque(self.words))

    async def probe(self, engine: Running) -> Finding:
        assert engine.body is cast("Any", self.body)
        await asyncio.sleep(self.slow_probe)
        self.rounds += 1
        outcome = self.outcomes()
        return Finding(f"{self.rounds:032x}", outcome, (HOLE,) if outcome == "escaped" else ())

    async def check(self, report: Report) -> bool:
        report.prompt_tokens = report.completion_tokens = MOST_CHECKED
        await asyncio.sleep(self.slow_check)
        if not self.answers:
            raise EngineTimeout("no answer")
        self.checks += 1
        self.tokens += CHECKED
        report.prompt_tokens = report.completion_tokens = CHECKED
        if self.faults and (fault := self.faults.pop(0)):
            report.faults.append(fault)
        return self.checked

    async def token(self, report: Report) -> None:
        report.prompt_tokens, report.completion_tokens = 2, 1
        self.asked_tokens += 1
        if self.core_hangs:
            await asyncio.sleep(TOKEN_SECONDS)
            raise EngineTimeout("no token")
        self.tokens += 2
        report.completion_tokens = 2

    async def ask(self, _target: str) -> tuple[int, bytes]:
        if not self.answers:
            await asyncio.sleep(5)
            raise EngineTimeout("no answer")
        if self.body.process.returncode is not None:
            raise EngineError("gone")
        counted = f"llamacpp:prompt_tokens_total {self.tokens}\nllamacpp:prompt_tokens_cached_total 0\n"
        counted += f"llamacpp:tokens_predicted_total {self.tokens}\nllamacpp:requests_processing {self.processing}\n"
        return 200, f"{counted}llamacpp:requests_deferred 0\n".encode()


class Heard:
    """What the control plane hears (`adapters.reports.Reports`)."""

    def __init__(self) -> None:
        self.all: list[tuple[float, str, dict[str, Any]]] = []
        self.over = 0.0  # when the supervisor had ended
        self._more = asyncio.Event()

    def say(self, event: str, **data: Any) -> None:
        self.all.append((asyncio.get_running_loop().time(), event, data))
        self._more.set()

    async def until(self, event: str, times: int = 1) -> None:
        """Until it has been said so often."""
        while self.events.count(event) < times:
            self._more.clear()
            await self._more.wait()

    @property
    def events(self) -> list[str]:
        return [event for _, event, _ in self.all]

    def first(self, event: str) -> dict[str, Any]:
        return next(data for _, name, data in self.all if name == event)

    def when(self, event: str) -> float:
        return next(at for at, name, _ in self.all if name == event)


def run(test: Callable[[Machine, Heard, Supervisor], Coroutine[Any, Any, None]], wanted: Wanted = WANTED) -> Heard:
    """Run a supervisor beside `test`, then stop it."""
    heard = Heard()

    async def go() -> None:
        machine = Machine()
        supervisor = Supervisor(wanted, cast("Reports", heard), machine, CANARY_SECONDS, ANSWER_SECONDS)
        supervising = asyncio.create_task(supervisor.run())
        await test(machine, heard, supervisor)
        supervisor.stop()
        await supervising
        heard.over = asyncio.get_running_loop().time()
        assert all(body.stopped for body in machine.bodies), "no engine is left running"

    virtual_time.run(go())
    return heard


def test_an_engine_is_ready_only_once_the_canary_found_it_contained() -> None:
    async def test(_: Machine, heard: Heard, __: Supervisor) -> None:
        await heard.until("ready")
        assert heard.events == ["contained", "ready"]
        said = heard.first("ready")
        assert said["address"] == "unix:/f/e.sock"
        assert (said["slots"], said["context_length"], said["sandbox"]) == (4, 2048, {"grade": "G2"})
        assert said["counters"] == {
            "prompt_tokens": CHECKED,
            "cached_prompt_tokens": 0,
            "completion_tokens": CHECKED,
            "checked_prompt_tokens": CHECKED,
            "checked_completion_tokens": CHECKED,
        }

    run(test)


def test_the_canary_comes_again_and_again_with_the_engines_counters() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.tokens = 77
        await asyncio.sleep(3 * CANARY_SECONDS + 5)
        rounds = [data for _, event, data in heard.all if event == "contained"]
        assert len(rounds) == 4
        assert len({data["nonce"] for data in rounds}) == 4
        assert rounds[-1]["counters"]["completion_tokens"] == 77
        assert rounds[-1]["final"] is False

    run(test)


def test_a_crash_is_noticed_at_once_and_the_next_start_waits() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        crashed = asyncio.get_running_loop().time()
        machine.body.process.end(-11)
        await heard.until("ready", 2)
        assert heard.first("stopped")["reason"] == "crashed: signal SIGSEGV"
        assert heard.first("stopped")["exact"] is False
        assert heard.when("stopped") == pytest.approx(crashed, abs=0.01)
        assert machine.starts[1] - crashed == pytest.approx(0.5, abs=0.01)

    run(test)


def test_the_wait_doubles_to_a_minute_and_begins_anew_after_a_steady_life() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.failures = [f"reason {number}" for number in range(9)]
        await heard.until("ready")
        gaps = [round(after - before - machine.slow_start, 1) for before, after in itertools.pairwise(machine.starts)]
        assert gaps == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
        assert heard.first("stopped")["reason"] == "reason 0", "the engine's own words"
        await asyncio.sleep(400)
        machine.body.process.end(1)
        ended = asyncio.get_running_loop().time()
        await heard.until("ready", 2)
        assert machine.starts[-1] - ended == pytest.approx(0.5, abs=0.01)

    run(test)


def test_an_idle_engine_that_does_not_answer_is_hung() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.answers = False
        silent = asyncio.get_running_loop().time()
        await heard.until("stopped")
        assert "computes nothing" in heard.first("stopped")["reason"]
        assert 12 <= heard.when("stopped") - silent < 25
        machine.answers = True
        await heard.until("ready", 2)

    run(test)


def test_a_busy_engine_gets_more_patience_but_not_for_ever() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.answers, machine.body.busy = False, True
        await asyncio.sleep(50)
        assert "stopped" not in heard.events, "a long prefill is no hang"
        machine.answers = True
        await asyncio.sleep(10)
        machine.answers = False
        silent = asyncio.get_running_loop().time()
        await heard.until("stopped")
        assert heard.first("stopped")["reason"].startswith("hung: no health answer for")
        assert 88 <= heard.when("stopped") - silent < 100

    run(test)


def test_a_core_that_hangs_behind_a_healthy_front_is_found_by_asking_it_for_a_token() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        await asyncio.sleep(100)
        assert "stopped" not in heard.events
        machine.core_hangs = True
        silent = asyncio.get_running_loop().time()
        await heard.until("stopped")
        assert heard.first("stopped")["reason"].startswith("hung: no token for")
        assert heard.when("stopped") - silent <= 2 * PULSE_SECONDS + TOKEN_SECONDS + 1, "as docs/engines.md says"
        machine.core_hangs = False
        await heard.until("ready", 2)

    run(test, APART)


def test_an_engine_whose_health_and_tokens_come_from_one_process_is_asked_for_none() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        await asyncio.sleep(300)
        assert machine.asked_tokens == 0

    run(test)


def test_a_core_that_computes_a_long_prompt_gets_more_patience_but_not_for_ever() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.core_hangs, machine.body.busy = True, True
        silent = asyncio.get_running_loop().time()
        await asyncio.sleep(500)
        assert "stopped" not in heard.events
        await heard.until("stopped")
        assert 600 <= heard.when("stopped") - silent < 640

    run(test, APART)


def test_while_tokens_come_none_is_asked_for_and_what_was_asked_for_is_counted_apart() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        for _second in range(100):
            await asyncio.sleep(1)
            machine.tokens += 5
        assert machine.asked_tokens == 0
        await asyncio.sleep(200)
        assert machine.asked_tokens > 10
        counters = [data["counters"] for _, event, data in heard.all if event == "contained"][-1]
        assert counters["completion_tokens"] - counters["checked_completion_tokens"] == 500

    run(test, APART)


def test_an_engine_that_outgrows_its_memory_is_ended_with_the_figures() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.body.resident_mib = 1200
        await heard.until("ready", 2)
        assert heard.first("stopped")["reason"] == "memory: 1200 MiB resident, 1000 allowed"

    run(test)


def test_an_escape_ends_the_engine_with_the_hole_named() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.outcomes = iter(["escaped"] + ["contained"] * 9).__next__
        await heard.until("ready", 2)
        escaped = heard.first("escaped")
        assert escaped["final"] is True
        assert escaped["probes"] == [HOLE]
        assert heard.first("stopped")["reason"] == "canary: escaped: AF_INET"
        assert heard.events == ["contained", "ready", "escaped", "stopped", "contained", "ready"]
        assert machine.bodies[0].stopped

    run(test)


def test_an_escape_in_the_first_round_is_never_ready() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.outcomes = lambda: "escaped"
        await asyncio.sleep(30)
        assert set(heard.events) == {"escaped", "stopped"}
        assert len(machine.starts) > 2

    run(test)


def test_one_silent_round_is_forgiven_and_two_in_a_row_are_an_escape() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.outcomes = iter(["silent", "contained", "silent", "silent"] + ["contained"] * 9).__next__
        begun = asyncio.get_running_loop().time()
        await heard.until("ready", 2)
        silent = [data["final"] for _, event, data in heard.all if event == "silent"]
        assert silent == [False, False, True]
        assert heard.first("stopped")["reason"] == "canary: silent"
        assert heard.when("stopped") - begun == pytest.approx(4 * CANARY_SECONDS, abs=2)

    run(test)


def test_a_first_round_that_is_silent_is_tried_again_before_ready() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.outcomes = iter(["silent"] + ["contained"] * 9).__next__
        await heard.until("ready")
        assert heard.events == ["silent", "contained", "ready"]

    run(test)


def test_told_to_stop_it_waits_for_what_runs_and_its_last_counters_are_exact() -> None:
    async def test(machine: Machine, heard: Heard, supervisor: Supervisor) -> None:
        await heard.until("ready")
        machine.processing, machine.tokens = 1, 10
        supervisor.stop()
        await asyncio.sleep(0.5)
        assert "stopped" not in heard.events
        machine.processing, machine.tokens = 0, 11

    heard = run(test)
    assert heard.events[-1] == "stopped"
    stopped = heard.first("stopped")
    assert (stopped["reason"], stopped["exact"]) == ("told to stop", True)
    assert stopped["counters"]["completion_tokens"] == 11


@pytest.mark.parametrize("why", ["runs on", "does not answer", "has ended"])
def test_an_engine_that_does_not_come_to_rest_has_counters_that_are_not_exact(why: str) -> None:
    told = 0.0

    async def test(machine: Machine, heard: Heard, supervisor: Supervisor) -> None:
        nonlocal told
        await heard.until("ready")
        machine.processing = 1
        machine.answers = why != "does not answer"
        told = asyncio.get_running_loop().time()
        supervisor.stop()
        if why == "has ended":
            await asyncio.sleep(0.1)
            machine.body.process.end(-9)

    heard = run(test)
    assert heard.first("stopped")["exact"] is False
    assert heard.when("stopped") - told <= DRAIN_SECONDS + 5.1


@pytest.mark.parametrize("phase", ["starting", "checking", "probing", "waiting"])
def test_told_to_stop_before_it_is_ready_it_ends_at_once(phase: str) -> None:
    told = 0.0

    async def test(machine: Machine, _: Heard, supervisor: Supervisor) -> None:
        nonlocal told
        if phase == "starting":
            machine.slow_start = 500
        if phase == "checking":
            machine.slow_check = 500
        if phase == "probing":
            machine.slow_probe = 500
        if phase == "waiting":
            machine.failures = ["no"] * 9
        await asyncio.sleep(21)
        told = asyncio.get_running_loop().time()
        supervisor.stop()

    heard = run(test)
    assert heard.over - told < 0.2
    assert "ready" not in heard.events


def test_counters_begin_anew_with_each_engine() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.tokens = 50
        await heard.until("ready")
        await asyncio.sleep(5)
        machine.tokens = 60
        machine.failures = ["no"]
        machine.body.process.end(1)
        await heard.until("ready", 2)
        counted = [data["counters"]["completion_tokens"] for _, event, data in heard.all if event == "stopped"]
        assert counted == [50 + CHECKED, 0], "what was last read; and nothing of one that never ran"

    run(test)


def test_an_engine_whose_answers_make_no_sense_is_never_ready() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.faults = ["gibberish", "gibberish"]
        await heard.until("ready")
        assert heard.events == ["stopped", "stopped", "contained", "ready"]
        assert heard.first("stopped")["reason"] == "wrong answers: gibberish"
        assert heard.first("stopped")["unfit"] is True
        assert machine.bodies[0].stopped
        machine.body.process.end(1)
        await heard.until("ready", 2)
        assert [data["unfit"] for _, event, data in heard.all if event == "stopped"] == [True, True, False]

    run(test)


def test_an_engine_without_a_first_answer_is_never_ready_and_its_own_words_say_why() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.answers = False
        machine.words = ["(Worker pid=7) ERROR [executor.py:1] ValueError: Head dimension 80 is not supported by MLA."]
        await heard.until("stopped")
        told = "its answers could not be checked: no answer; it says: ValueError: Head dimension 80 is not supported"
        assert heard.first("stopped")["reason"] == f"{told} by MLA."
        assert heard.first("stopped")["unfit"] is True
        assert "ready" not in heard.events

    run(test)


def test_an_engine_that_does_not_load_is_no_unfit_one() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.failures = ["no such file"]
        await heard.until("ready")
        assert heard.first("stopped")["unfit"] is False

    run(test)


def test_answers_are_checked_again_on_schedule_and_a_wrong_one_ends_the_engine() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.faults = ["", "KV cache"]
        await heard.until("stopped")
        assert machine.checks == 3
        assert heard.first("stopped")["reason"] == "wrong answers: KV cache"
        assert heard.when("stopped") - heard.when("ready") == pytest.approx(2 * ANSWER_SECONDS, abs=2)
        assert heard.first("stopped")["counters"]["checked_prompt_tokens"] == 3 * CHECKED
        assert heard.first("stopped")["counters"]["prompt_tokens"] == 3 * CHECKED
        await heard.until("ready", 2)

    run(test)


def test_what_the_checks_spend_is_told_apart_from_use_even_while_they_run() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        machine.slow_check = 90.0  # longer than a canary's round
        await asyncio.sleep(ANSWER_SECONDS + 95)
        for _, _, data in heard.all:
            if counted := data.get("counters"):
                assert counted["prompt_tokens"] - counted["checked_prompt_tokens"] <= 0, "nobody else used it"
        assert machine.checks == 2
        await asyncio.sleep(CANARY_SECONDS)
        assert heard.all[-1][2]["counters"]["checked_prompt_tokens"] == 2 * CHECKED

    run(test)


def test_a_round_without_an_answer_says_nothing_of_the_answers_and_counts_as_what_it_may_have_spent() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        await heard.until("ready")
        await asyncio.sleep(ANSWER_SECONDS - 1)
        machine.answers = False
        await asyncio.sleep(5)
        machine.answers = True
        await asyncio.sleep(2 * CANARY_SECONDS)
        assert "stopped" not in heard.events
        assert machine.checks == 1
        assert heard.all[-1][2]["counters"]["checked_prompt_tokens"] == CHECKED + MOST_CHECKED

    run(test)


def test_an_engine_that_generates_and_is_not_checked_is_never_ready() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.checked = False
        await heard.until("stopped")

    heard = run(test)
    assert "ready" not in heard.events
    assert "its answers were not checked" in heard.first("stopped")["reason"]


def test_an_engine_that_embeds_has_no_answers_to_be_checked() -> None:
    async def test(machine: Machine, heard: Heard, _: Supervisor) -> None:
        machine.checked = False
        await heard.until("ready")

    run(test, replace(WANTED, embeds=True))

"""The supervisor's process: one sandboxed engine, kept alive, probed and counted; the control plane hears what it sees.

The order at each start is what a lease rests on: the engine answers, its answers make sense, the canary finds it
contained and the control plane has taken note, and only then is it reported ready. Wrong answers, an escape, two silent
rounds, a hang, a crash or an overrun of memory end the engine, and the next start waits with back-off. An engine that
runs elsewhere has no sandbox and no canary: it is reported ready when it answers, and alive from then on, and its facts
say so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from daulat import registry
from daulat.adapters.models import ModelStore
from daulat.adapters.reports import Reports
from daulat.agent.canary import Silence
from daulat.agent.supervise import TOKEN, Backoff, HangWatch, memory_overrun
from daulat.engines import known, options
from daulat.engines.answers import Checks
from daulat.engines.external import EXTERNAL
from daulat.engines.port import Counters, context_for, threads_for
from daulat.errors import ConfigError, DaulatError, EngineDead, EngineError
from daulat.processes import edge, elsewhere, launcher
from daulat.processes.launcher import Running, Wanted
from daulat.processes.machines import LocalMachine, Machine, RemoteMachine
from daulat.processes.sealed import Sealed
from daulat.settings import Home

_log = logging.getLogger(__name__)
WATCH_SECONDS: Final = 2.0
PULSE_SECONDS: Final = 10.0  # without a token of its own, after which an engine is asked for one
DRAIN_SECONDS: Final = 1.5
STOP_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 2.5  # for the log to take the last counters: without them an end is not exact
_POLL_SECONDS: Final = 0.05
WORDS_SECONDS: Final = 3.0
_LAST_WORDS: Final = 60  # lines
_OK: Final = 200
_T = TypeVar("_T")


class Supervisor:
    """Starts engines one after the other until it is told to stop."""

    def __init__(
        self,
        wanted: Wanted,
        reports: Reports,
        machine: Machine,
        canary_seconds: float,
        answer_seconds: float,
        model: Sealed | None = None,
    ) -> None:
        """`model`: None where it is elsewhere, and cannot be checked."""
        self._wanted, self._reports, self._machine, self._model = wanted, reports, machine, model
        self._canary_seconds = canary_seconds
        self._answer_seconds = max(answer_seconds, canary_seconds)  # `audit.counters` bounds the rounds between two
        self._stop = asyncio.Event()
        self._seen, self._checks = Counters(), Checks()
        self._read = Counters()  # as the engine said last; `_seen` is what may be told of it
        self._asking = asyncio.Lock()  # one round of checks, or one token, at a time
        self._was_ready = self._unfit = False

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Until `stop`. Never raises for what an engine does."""
        backoff, now = Backoff(), asyncio.get_running_loop().time
        while not self._stop.is_set():
            began = now()
            self._seen, self._checks, self._unfit = Counters(), Checks(), False
            reason, exact = await self._one_life()
            unfit = self._unfit and not self._stop.is_set()
            self._reports.say("stopped", reason=reason, counters=self._counted(), exact=exact, unfit=unfit)
            if self._stop.is_set():
                break
            wait = backoff.after(now() - began)
            _log.warning("the engine stopped (%s); the next start is in %.1f s", reason, wait)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stop.wait()

    async def _one_life(self) -> tuple[str, bool]:
        """From start to end of one engine: why it ended, and whether its last counters are exact."""
        engine: Running | None = None
        try:
            engine, silence = await self._unless_stopped(self._start()), Silence()
            self._unfit = engine is not None
            if engine is None or not await self._unless_stopped(self._first_answers(engine)):
                return "told to stop", True
            if not await self._unless_stopped(self._canary(engine, silence, first=True)):
                return "told to stop", True
            self._unfit = False
            self._say_ready(engine)
            if (reason := await self._serve(engine, silence)) is not None:
                return reason, False
            return "told to stop", await self._drain(engine)
        except DaulatError as error:
            return error.message, False
        finally:
            if engine is not None:
                await engine.body.stop(STOP_SECONDS)

    async def _start(self) -> Running:
        if self._model is not None:
            await self._model.before_start()
        return await self._machine.start()

    async def _unless_stopped(self, doing: Coroutine[Any, Any, _T]) -> _T | None:
        """Its result, or None when `stop` came first; what was half done is ended."""
        work = asyncio.ensure_future(doing)
        told = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((work, told), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if work.done():
            return work.result()
        work.cancel()
        await asyncio.wait((work,))
        return None

    def _say_ready(self, engine: Running) -> None:
        self._reports.say(
            "ready",
            address=self._wanted.address,
            served=self._wanted.options.served_as,
            key_file=self._wanted.options.api_key_file,
            dialect=self._wanted.engine.dialect,
            actions=list(self._wanted.engine.capabilities(embeds=self._wanted.embeds)),
            slots=self._wanted.slots,
            context_length=self._wanted.context,
            embeds=self._wanted.embeds,
            engine=engine.description,
            device=engine.device,
            sandbox=engine.body.facts,
            counters=self._counted(),
        )
        if not self._was_ready:
            self._was_ready = True
            edge.ready()

    async def _serve(self, engine: Running, silence: Silence) -> str | None:
        """Watch until something ends it: why, or None when told to stop."""
        watches = {
            asyncio.create_task(self._died(engine)),
            asyncio.create_task(self._watch(engine)),
            asyncio.create_task(self._probe(engine, silence)),
            asyncio.create_task(self._check()),
            asyncio.create_task(self._told()),
        }
        if self._model is not None:
            watches.add(asyncio.create_task(self._model.broken()))
        if self._wanted.engine.core_apart:
            watches.add(asyncio.create_task(self._pulse(engine)))
        done, pending = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        reasons = [task.result() for task in done]
        return next((reason for reason in reasons if reason is not None), None)

    async def _told(self) -> None:
        await self._stop.wait()

    async def _died(self, engine: Running) -> str:
        return engine.ended(await engine.body.ended())

    async def _watch(self, engine: Running) -> str:
        """Health, memory and counters, every two seconds."""
        sandboxed, now = engine.body, asyncio.get_running_loop().time
        watch = HangWatch(now(), sandboxed.cpu_seconds())
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            healthy = await self._read_counters()
            hung = watch.see(now=now(), healthy=healthy, cpu=sandboxed.cpu_seconds())
            overrun = memory_overrun(sandboxed.resident_bytes() / 2**20, self._wanted.memory_mib)
            if reason := hung or overrun:
                return reason

    async def _read_counters(self) -> bool:
        """Whether the engine answered; `_seen` is what it said."""
        kind = self._wanted.engine
        try:
            status, _ = await self._machine.ask(kind.health_path)
            if kind.metrics is not None:
                _, body = await self._machine.ask(kind.metrics_path)
                self._read = kind.metrics.counters(body)
                self._saw(self._read)
        except EngineError:
            return False
        return status == _OK

    def _saw(self, counters: Counters) -> None:
        """What a round of checks under way has spent nobody knows yet: until it ends, older counters stand."""
        if not self._checks.running:
            self._seen = counters

    def _counted(self) -> dict[str, int]:
        """The engine's counters, and how much of them its own checks have spent."""
        return {**self._seen.as_dict(), **self._checks.as_dict()}

    async def _check(self) -> str:
        while True:
            await asyncio.sleep(self._answer_seconds)
            try:
                await self._answers()
            except EngineDead as error:
                return error.message
            except EngineError as error:  # busy, perhaps; whether it hangs is for `_watch` to say
                _log.warning("the answers could not be checked: %s", error.message)

    async def _pulse(self, engine: Running) -> str:
        """Does what computes still write tokens? Health probes are answered, and gauges stand still, without it."""
        body, now = engine.body, asyncio.get_running_loop().time
        watch = HangWatch(now(), body.cpu_seconds(), TOKEN)
        while True:
            before = self._read
            await asyncio.sleep(PULSE_SECONDS)
            alive = self._read != before or await self._one_token() or self._read != before
            if hung := watch.see(now=now(), healthy=alive, cpu=body.cpu_seconds()):
                return hung

    async def _one_token(self) -> bool:
        """Whether it wrote one; False where a round of checks asks it already."""
        if self._asking.locked():
            return False
        try:
            async with self._asking:
                with self._checks.round() as report:
                    await self._machine.token(report)
        except EngineError as error:
            _log.warning("no sign of life: %s", error.message)
            return False
        await self._read_counters()
        return True

    async def _first_answers(self, engine: Running) -> bool:
        """As `_answers`; where there are none, with what the engine says of that: no request has brought it along.

        Raises:
            EngineDead: this engine is not fit to serve.
        """
        try:
            return await self._answers()
        except EngineDead as error:
            why = error.message
        except EngineError as error:
            why = f"its answers could not be checked: {error.message}"
        with contextlib.suppress(TimeoutError):  # where it is dying, its words are still on their way
            async with asyncio.timeout(WORDS_SECONDS):
                await engine.body.ended()
        _log.warning("the engine's last words: %s", "\n".join([*engine.words][-_LAST_WORDS:]))
        said = launcher.raised(engine.words)
        raise EngineDead(f"{why}; it says: {said}" if said else why)

    async def _answers(self) -> bool:
        """One round of answer checks; True.

        Raises:
            EngineDead: what the engine answers makes no sense, or it is gone.
            EngineError: no answer came.
        """
        async with self._asking:
            with self._checks.round() as report:
                if await self._machine.check(report):
                    _log.info("answers: %s", report.faults or report.measured)
                elif not self._wanted.embeds:
                    raise EngineDead("its answers were not checked")
        await self._read_counters()
        if report.faults:
            raise EngineDead(f"wrong answers: {report.faults[0]}")
        return True

    async def _probe(self, engine: Running, silence: Silence) -> str:
        while True:
            await asyncio.sleep(self._canary_seconds)
            try:
                await self._canary(engine, silence)
            except EngineDead as error:
                return error.message

    async def _canary(self, engine: Running, silence: Silence, *, first: bool = False) -> bool:
        """One round, reported; True. The `first` of an engine must be a contained one.

        Raises:
            EngineDead: it escaped, or was silent twice in a row.
        """
        while True:
            finding = await self._machine.probe(engine)
            await self._read_counters()
            if finding is None:
                self._reports.say("alive", counters=self._counted())
                return True
            stopped = silence.broken_out(finding)
            report = {**finding.as_dict(), "counters": self._counted(), "final": stopped}
            self._reports.say(finding.outcome, **report)
            if stopped:
                bad = sorted({probe["target"] for probe in finding.probes if probe["outcome"] != "refused"})
                raise EngineDead(f"canary: {finding.outcome}{': ' if bad else ''}{', '.join(bad)}")
            if finding.outcome == "contained" or not first:
                return True

    async def _drain(self, engine: Running) -> bool:
        """Wait for what still runs; whether the counters were read after the last request."""
        now, metrics = asyncio.get_running_loop().time, self._wanted.engine.metrics
        deadline = now() + DRAIN_SECONDS
        while metrics is not None and now() < deadline:
            try:
                _, body = await self._machine.ask(self._wanted.engine.metrics_path)
                self._saw(metrics.counters(body))
                idle = metrics.load(body).idle
            except EngineError:
                return False
            if idle:
                return engine.body.process.returncode is None
            await asyncio.sleep(_POLL_SECONDS)
        return False


async def run(arguments: argparse.Namespace) -> None:
    """Supervise until SIGTERM; gone within 7 s of it."""
    home = Home(arguments.home)
    stop = edge.stop_event(asyncio.get_running_loop())
    wanted = describe(arguments, home)
    reports = Reports(home.control_socket, arguments.replica)
    local = wanted.engine.command is not None
    listener = home.run / f"canary-{arguments.replica}.sock"
    machine = LocalMachine(wanted, reports, listener) if local else RemoteMachine(wanted)
    model = None
    if arguments.engine != EXTERNAL.name:
        store, templates = ModelStore(home.models), json.loads(arguments.templates)
        model = Sealed(store, arguments.model_digest, templates, arguments.verify_seconds)
    supervisor = Supervisor(wanted, reports, machine, arguments.canary_seconds, arguments.answer_seconds, model)
    sending = asyncio.create_task(reports.run())
    told = asyncio.create_task(stop.wait())
    told.add_done_callback(lambda _: supervisor.stop())
    try:
        await supervisor.run()
    finally:
        await reports.close(seconds=CLOSE_SECONDS)
        sending.cancel()
        told.cancel()


def describe(arguments: argparse.Namespace, home: Home) -> Wanted:
    """The engine that the arguments and the model ask for.

    Raises:
        ConfigError: the model is none, or the engine's name or options are wrong.
    """
    engine = known.named(arguments.engine)
    said = options.parse(arguments.engine_options, engine.name)
    name, trained, embeds = arguments.model_name, 0, False
    if engine is EXTERNAL:
        engine = elsewhere.engine(said)
        if not name:
            raise ConfigError("an external engine's model has no file to take its name from", location="--model-name")
    else:
        facts = registry.facts(arguments.model_file, digest=arguments.model_digest)
        name, trained, embeds = name or facts.name, facts.context_length, facts.embeds
    return Wanted(
        replica=arguments.replica,
        name=name,
        model=arguments.model_file,
        folder=home.engine(arguments.replica),
        slots=arguments.slots,
        context=context_for(arguments.context, trained or arguments.context),
        threads=threads_for(len(os.sched_getaffinity(0)), arguments.threads),
        embeds=embeds,
        memory_mib=arguments.memory_mib,
        engine=engine,
        options=said,
        files=json.loads(arguments.files),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="daulat-supervisor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--replica", required=True)
    parser.add_argument("--model-digest", required=True)
    parser.add_argument("--model-file", type=Path, required=True)
    parser.add_argument("--model-name", default="")
    parser.add_argument("--engine", default="llama.cpp")
    parser.add_argument("--engine-options", default="{}")
    parser.add_argument("--files", default="{}")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--memory-mib", type=int, default=0)
    parser.add_argument("--canary-seconds", type=float, default=60.0)
    parser.add_argument("--answer-seconds", type=float, default=600.0)
    parser.add_argument("--templates", default="{}")
    parser.add_argument("--verify-seconds", type=float, default=3600.0)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    edge.begin("supervisor", parent=arguments.parent)
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()

"""The supervisor's process: one sandboxed engine, kept alive, probed and counted; the control plane hears what it sees.

The order at each start is what a lease rests on: the engine answers, the canary finds it contained and the control
plane has taken note, and only then is it reported ready. An escape, two silent rounds, a hang, a crash or an overrun of
memory ends the engine, and the next start waits with back-off.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from daulat import registry
from daulat.adapters import engine_http
from daulat.adapters.reports import Reports
from daulat.agent import seccomp
from daulat.agent.canary import Finding, Silence, one_round
from daulat.agent.supervise import Backoff, HangWatch, memory_overrun
from daulat.engines.port import Counters, context_for, counters, threads_for
from daulat.errors import DaulatError, EngineDead, EngineError
from daulat.processes import edge
from daulat.processes.launcher import Engine, Wanted, interpreter, start
from daulat.settings import Home

_log = logging.getLogger(__name__)
WATCH_SECONDS: Final = 2.0
HEALTH_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 1.5
STOP_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.05
_OK: Final = 200
_T = TypeVar("_T")


class Machine(Protocol):
    """Port: what a supervisor does to this machine. `LocalMachine` is the real one."""

    async def start(self) -> Engine:
        """Start the engine and wait until it listens.

        Raises:
            EngineDead: it could not be started; says why.
        """
        ...

    async def probe(self, engine: Engine) -> Finding:
        """One round of the canary."""
        ...

    async def ask(self, target: str) -> tuple[int, bytes]:
        """GET from the engine: status and body.

        Raises:
            EngineError: no answer within five seconds.
        """
        ...


class LocalMachine:
    """bubblewrap, the canary, and the engine's Unix socket."""

    def __init__(self, wanted: Wanted, reports: Reports, listener: Path) -> None:
        """`listener`: where the canary's own Unix socket stands."""
        self._wanted, self._reports, self._listener = wanted, reports, listener
        self._bpf = seccomp.build()

    async def start(self) -> Engine:
        return await start(self._wanted, self._bpf, self._reports)

    async def probe(self, engine: Engine) -> Finding:
        return await one_round(engine.sandboxed, interpreter(), self._bpf, self._listener)

    async def ask(self, target: str) -> tuple[int, bytes]:
        return await engine_http.fetch(self._wanted.socket, "GET", target, seconds=HEALTH_SECONDS)


class Supervisor:
    """Starts engines one after the other until it is told to stop."""

    def __init__(self, wanted: Wanted, reports: Reports, machine: Machine, canary_seconds: float) -> None:
        self._wanted, self._reports, self._machine = wanted, reports, machine
        self._canary_seconds = canary_seconds
        self._stop = asyncio.Event()
        self._seen = Counters()
        self._was_ready = False

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Until `stop`. Never raises for what an engine does."""
        backoff, now = Backoff(), asyncio.get_running_loop().time
        while not self._stop.is_set():
            began = now()
            self._seen = Counters()
            reason, exact = await self._one_life()
            self._reports.say("stopped", reason=reason, counters=self._seen.as_dict(), exact=exact)
            if self._stop.is_set():
                break
            wait = backoff.after(now() - began)
            _log.warning("the engine stopped (%s); the next start is in %.1f s", reason, wait)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)

    async def _one_life(self) -> tuple[str, bool]:
        """From start to end of one engine: why it ended, and whether its last counters are exact."""
        engine: Engine | None = None
        try:
            engine, silence = await self._unless_stopped(self._machine.start()), Silence()
            if engine is None or await self._unless_stopped(self._canary(engine, silence, first=True)) is None:
                return "told to stop", True
            self._say_ready(engine)
            if (reason := await self._serve(engine, silence)) is not None:
                return reason, False
            return "told to stop", await self._drain(engine)
        except DaulatError as error:
            return error.message, False
        finally:
            if engine is not None:
                await engine.sandboxed.stop(STOP_SECONDS)

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

    def _say_ready(self, engine: Engine) -> None:
        self._reports.say(
            "ready",
            address=f"unix:{self._wanted.socket}",
            dialect="llama.cpp",
            slots=self._wanted.slots,
            context_length=self._wanted.context,
            embeds=self._wanted.embeds,
            engine=engine.description,
            device=engine.device,
            sandbox=engine.sandboxed.facts,
            counters=self._seen.as_dict(),
        )
        if not self._was_ready:
            self._was_ready = True
            edge.ready()

    async def _serve(self, engine: Engine, silence: Silence) -> str | None:
        """Watch until something ends it: why, or None when told to stop."""
        watches = {
            asyncio.create_task(self._died(engine)),
            asyncio.create_task(self._watch(engine)),
            asyncio.create_task(self._probe(engine, silence)),
            asyncio.create_task(self._told()),
        }
        done, pending = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        reasons = [task.result() for task in done]
        return next((reason for reason in reasons if reason is not None), None)

    async def _told(self) -> None:
        await self._stop.wait()

    async def _died(self, engine: Engine) -> str:
        return engine.ended(await engine.sandboxed.process.wait())

    async def _watch(self, engine: Engine) -> str:
        """Health, memory and counters, every two seconds."""
        sandboxed, now = engine.sandboxed, asyncio.get_running_loop().time
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
        try:
            status, body = await self._machine.ask("/metrics")
            self._seen = counters(body)
        except EngineError:
            return False
        return status == _OK

    async def _probe(self, engine: Engine, silence: Silence) -> str:
        while True:
            await asyncio.sleep(self._canary_seconds)
            try:
                await self._canary(engine, silence)
            except EngineDead as error:
                return error.message

    async def _canary(self, engine: Engine, silence: Silence, *, first: bool = False) -> Finding:
        """One round, reported. The `first` of an engine must be a contained one.

        Raises:
            EngineDead: it escaped, or was silent twice in a row.
        """
        while True:
            finding = await self._machine.probe(engine)
            await self._read_counters()
            stopped = silence.broken_out(finding)
            report = {**finding.as_dict(), "counters": self._seen.as_dict(), "final": stopped}
            self._reports.say(finding.outcome, **report)
            if stopped:
                bad = sorted({probe["target"] for probe in finding.probes if probe["outcome"] != "refused"})
                raise EngineDead(f"canary: {finding.outcome}{': ' if bad else ''}{', '.join(bad)}")
            if finding.outcome == "contained" or not first:
                return finding

    async def _drain(self, engine: Engine) -> bool:
        """Wait for what still runs; whether the counters were read after the last request."""
        now = asyncio.get_running_loop().time
        deadline = now() + DRAIN_SECONDS
        while now() < deadline:
            try:
                _, body = await self._machine.ask("/metrics")
                self._seen = counters(body)
            except EngineError:
                return False
            if b"\nllamacpp:requests_processing 0\n" in body and b"\nllamacpp:requests_deferred 0\n" in body:
                return engine.sandboxed.process.returncode is None
            await asyncio.sleep(_POLL_SECONDS)
        return False


async def run(arguments: argparse.Namespace) -> None:
    """Supervise until SIGTERM; gone within 5 s of it."""
    home = Home(arguments.home)
    stop = edge.stop_event(asyncio.get_running_loop())
    wanted = describe(arguments, home)
    reports = Reports(home.control_socket, arguments.replica)
    machine = LocalMachine(wanted, reports, home.run / f"canary-{arguments.replica}.sock")
    supervisor = Supervisor(wanted, reports, machine, arguments.canary_seconds)
    sending = asyncio.create_task(reports.run())
    told = asyncio.create_task(stop.wait())
    told.add_done_callback(lambda _: supervisor.stop())
    try:
        await supervisor.run()
    finally:
        await reports.close(seconds=1.0)
        sending.cancel()
        told.cancel()


def describe(arguments: argparse.Namespace, home: Home) -> Wanted:
    """The engine that the arguments and the model file ask for.

    Raises:
        ConfigError: the file is no GGUF model.
    """
    facts = registry.facts(arguments.model_file, digest=arguments.model_digest)
    return Wanted(
        replica=arguments.replica,
        name=arguments.model_name or facts.name,
        model=arguments.model_file,
        folder=home.engine(arguments.replica),
        slots=arguments.slots,
        context=context_for(arguments.context, facts.context_length),
        threads=threads_for(len(os.sched_getaffinity(0)), arguments.threads),
        embeds=facts.embeds,
        memory_mib=arguments.memory_mib,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="daulat-supervisor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--replica", required=True)
    parser.add_argument("--model-digest", required=True)
    parser.add_argument("--model-file", type=Path, required=True)
    parser.add_argument("--model-name", default="")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--memory-mib", type=int, default=0)
    parser.add_argument("--canary-seconds", type=float, default=60.0)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    edge.begin("supervisor", parent=arguments.parent)
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()

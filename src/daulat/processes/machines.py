"""What a supervisor does to its machine: start an engine, probe its sandbox, ask it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

from daulat.adapters import engine_http
from daulat.adapters.reports import Reports
from daulat.adapters.sandbox import Sandboxed
from daulat.agent import seccomp
from daulat.agent.canary import Finding, one_round
from daulat.engines import plain
from daulat.engines.answers import Asker, Report, check, one_token
from daulat.engines.port import Fetch
from daulat.processes import elsewhere, launcher
from daulat.processes.launcher import HEALTH_SECONDS, Running, Wanted

ANSWER_SECONDS: Final = 120.0  # for one answer to a check: it may queue behind others
TOKEN_SECONDS: Final = 20.0  # for one token, as a sign of life


class Machine(Protocol):
    """Port: what a supervisor does to this machine. `LocalMachine` is the real one."""

    async def start(self) -> Running:
        """Start the engine and wait until it listens.

        Raises:
            EngineDead: it could not be started; says why.
        """
        ...

    async def probe(self, engine: Running) -> Finding | None:
        """One round of the canary; None where no canary can go."""
        ...

    async def ask(self, target: str) -> tuple[int, bytes]:
        """GET from the engine: status and body.

        Raises:
            EngineError: no answer within five seconds.
        """
        ...

    async def check(self, report: Report) -> bool:
        """One round of answer checks, into `report`; False where this model has none.

        Raises:
            EngineError: an answer did not come in time.
        """
        ...

    async def token(self, report: Report) -> None:
        """Have the engine write one token, counted in `report`; one that tells no likelihoods is not asked.

        Raises:
            EngineError: none came within `TOKEN_SECONDS`.
        """
        ...


class LocalMachine:
    """bubblewrap, the canary, and the engine's Unix socket."""

    def __init__(self, wanted: Wanted, reports: Reports, listener: Path) -> None:
        """`listener`: where the canary's own Unix socket stands."""
        self._wanted, self._reports, self._listener = wanted, reports, listener
        self._families = wanted.engine.families
        self._bpf = seccomp.build(families=self._families)

    async def start(self) -> Running:
        return await launcher.start(self._wanted, self._bpf, self._reports)

    async def probe(self, engine: Running) -> Finding | None:
        if not isinstance(engine.body, Sandboxed):
            return None
        return await one_round(engine.body, launcher.interpreter(), self._bpf, self._listener, self._families)

    async def ask(self, target: str) -> tuple[int, bytes]:
        kind = self._wanted.engine
        apart = kind.metrics_socket and target == kind.metrics_path
        socket = self._wanted.folder / kind.metrics_socket if apart else self._wanted.socket
        return await engine_http.fetch(socket, "GET", target, seconds=HEALTH_SECONDS)

    async def check(self, report: Report) -> bool:
        return await _check(self._wanted, report)

    async def token(self, report: Report) -> None:
        await _token(self._wanted, report)


class RemoteMachine:
    """An engine that runs elsewhere: nothing is started, and no canary can go there."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    async def start(self) -> Running:
        return await elsewhere.start(self._wanted)

    async def probe(self, _engine: Running) -> Finding | None:
        return None

    async def ask(self, target: str) -> tuple[int, bytes]:
        return await elsewhere.ask(self._wanted.options, "GET", target, seconds=HEALTH_SECONDS)

    async def check(self, report: Report) -> bool:
        return await _check(self._wanted, report)

    async def token(self, report: Report) -> None:
        await _token(self._wanted, report)


def _fetch(wanted: Wanted, seconds: float) -> Fetch:
    async def fetch(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if wanted.options.address:
            return await elsewhere.ask(wanted.options, method, target, body, seconds=seconds)
        return await engine_http.fetch(wanted.socket, method, target, body, seconds=seconds)

    return fetch


def _asker(wanted: Wanted, seconds: float) -> Asker | None:
    asker = wanted.engine.asker
    return None if asker is None or wanted.embeds else asker(_fetch(wanted, seconds), wanted.served)


async def _check(wanted: Wanted, report: Report) -> bool:
    if wanted.embeds:
        return False
    seed, asker = int.from_bytes(os.urandom(4)), _asker(wanted, ANSWER_SECONDS)
    if asker is None:
        await plain.check(_fetch(wanted, ANSWER_SECONDS), wanted.served, report, seed=seed)
    else:
        await check(asker, report, slots=wanted.slots, context=wanted.context, seed=seed)
    return True


async def _token(wanted: Wanted, report: Report) -> None:
    if (asker := _asker(wanted, TOKEN_SECONDS)) is not None:
        await one_token(asker, report)

"""A whole installation without a real engine: real control plane, sequencer, workers and pages; the engine is given.

Nothing of the request path is replaced. What the supervisor would report is reported by `enrol`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daulat.processes.control import Control
from daulat.processes.lock import lock
from daulat.processes.plan import Plan
from daulat.processes.starting import write_starter_charter
from daulat.registry.model import ModelFacts
from daulat.settings import Home, Settings

FACTS = ModelFacts(
    name="stub",
    digest="0" * 64,
    size=1,
    format="gguf",
    architecture="stub",
    title="stub",
    quantisation="none",
    parameters=0,
    tensors=0,
    context_length=4096,
    embeds=True,
    licence="apache-2.0",
    origin="tests",
    derived_from=None,
    templates=(),
)
NOTHING_COUNTED = {"prompt_tokens": 0, "cached_prompt_tokens": 0, "completion_tokens": 0}


class Installation(Control):
    """`daulat up`, with an engine at `address` instead of a supervised one."""

    def _start_replicas(self) -> None:
        """No engine of our own."""

    async def enrol(self, address: str, *, slots: int = 1024, dialect: str = "openai") -> None:
        """Report an engine as the supervisor would: contained, then ready."""
        self._engine = replica = os.urandom(8).hex()
        self.node.expect(replica, next(self.replicas.roster.models()))
        await self.probed(NOTHING_COUNTED)
        ready = {
            "address": address,
            "dialect": dialect,
            "slots": slots,
            "context_length": 4096,
            "embeds": True,
            "engine": {"name": "stub", "version": "0", "parameters": {}},
            "device": {"kind": "cpu", "product": "stub", "count": 1},
            "sandbox": {"grade": "G2"},
            "counters": NOTHING_COUNTED,
        }
        await self.answering.report(replica, "ready", ready)

    async def probed(self, counters: dict[str, int]) -> None:
        """Report a canary that found the engine contained, with what the engine has counted until now."""
        probe: dict[str, Any] = {"nonce": "00" * 16, "probes": [], "counters": counters, "final": False}
        await self.answering.report(self._engine, "contained", probe)


@dataclass(frozen=True)
class Running:
    """A started installation."""

    control: Installation
    url: str
    api_key: str
    auditor_token: str
    home: Home


async def start(folder: Path, address: str, *, port: int, workers: int = 1, slots: int = 1024) -> Running:
    """Start one in `folder` and wait until its workers answer. `slots`: answers that the engine computes at once."""
    home = Home(folder)
    home.prepare()
    held = lock(home)
    write_starter_charter(home)
    plan = Plan(home, Settings(port=port, workers=workers), FACTS, folder / "no-model")
    control = Installation(plan, lambda _: None)
    await control.start()
    await control.enrol(address, slots=slots)
    await control.publishing.in_force()
    secrets = control.secrets or {}
    os.set_inheritable(held, False)
    return Running(control, plan.url, secrets.get("api_key", ""), secrets.get("auditor_token", ""), home)


__all__ = ["FACTS", "Installation", "Running", "start"]

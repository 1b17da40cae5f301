"""What one start of a host is to run, and how its processes are started."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daulat.catalog import models
from daulat.core.deployment import Share
from daulat.engines.recipes import speech
from daulat.pipeline import accelerated
from daulat.pipeline.deploy import Deployment
from daulat.placement import devices
from daulat.processes import keeping
from daulat.processes.children import Child
from daulat.processes.roster import Prepared
from daulat.registry.model import ModelFacts
from daulat.settings import Home, Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What this start is to run."""

    home: Home
    settings: Settings
    facts: ModelFacts
    model_file: Path
    deployment: str = ""  # the one that `daulat up` waits for; empty: by the model's name

    @property
    def name(self) -> str:
        """What clients call its model."""
        return self.deployment or self.facts.name

    @property
    def threads(self) -> int:
        return self.settings.threads or max(1, len(os.sched_getaffinity(0)) - 1)

    @property
    def workers(self) -> int:
        return self.settings.workers or max(1, len(os.sched_getaffinity(0)) - self.threads)

    @property
    def url(self) -> str:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return self.settings.url or f"http://{host}:{self.settings.port}"

    def sequencer(self, name: str, period: str, log: Path, on_giving_up: Callable[[str], None]) -> Child:
        """The log's process, not started yet."""
        arguments = {"--home": self.home.path, "--name": name, "--period": period}
        return Child("daulat.processes.sequencer", _flat(arguments), log, gives_up=3, on_giving_up=on_giving_up)

    def fronts(self, log: Path, country: str) -> list[Child]:
        """The workers and what is behind them, not started yet. `country`: the charter's."""
        workers = [
            {
                "--home": self.home.path,
                "--slot": slot,
                "--workers": self.workers,
                "--host": self.settings.host,
                "--port": self.settings.port,
                "--trusted-proxies": self.settings.trusted_proxies,
            }
            for slot in range(self.workers)
        ]
        pages = Child("daulat.processes.pages", _flat({"--home": self.home.path, "--url": self.url}), log)
        asked = keeping.Asked.of(self.settings).text()
        vault = Child("daulat.processes.vault", _flat({"--home": self.home.path, "--asked": asked}), log)
        behind = [pages, vault]
        if self.home.signin.exists():
            arguments = {"--home": self.home.path, "--url": self.url, "--country": country}
            behind.append(Child("daulat.processes.signin", _flat(arguments), log))
        return [*(Child("daulat.processes.worker", _flat(arguments), log) for arguments in workers), *behind]

    def supervisor(
        self, id_: str, wish: Deployment, prepared: Prepared, share: Share, log: Path, on_end: Callable[[], None]
    ) -> Child:
        """A replica's supervisor, not started yet."""
        arguments = {
            **supervisor(self.home, wish, prepared, share),
            "--replica": id_,
            "--canary-seconds": self.settings.canary_seconds,
            "--verify-seconds": self.settings.verify_seconds,
            "--answer-seconds": self.settings.answer_seconds,
        }
        if self.settings.engine_memory_mib:
            arguments["--memory-mib"] = self.settings.engine_memory_mib
        return Child("daulat.processes.supervisor", _flat(arguments), log, on_end=on_end)


def supervisor(home: Home, wish: Deployment, prepared: Prepared, share: Share) -> dict[str, Any]:
    """A supervisor's arguments, but for the replica's id and what the settings say.

    Raises:
        InvalidRequest, ConfigError: its devices cannot be used so (`pipeline.accelerated`).
    """
    spec, facts = wish.target, prepared.facts
    engine = spec.engine or devices.engine_for(facts.format, share.devices)
    wanted = accelerated.Wanted(spec, facts, wish.name, engine, len(share.devices))
    found = accelerated.options(wanted, devices.options(share.devices, spec.options), os.path.exists)
    files = {"--files": json.dumps(dict(found.files))} if found.files else {}
    return {
        "--home": home.path,
        "--model-digest": facts.digest,
        "--model-file": prepared.file,
        "--model-name": wish.name,
        "--templates": json.dumps({template.name: template.sha256 for template in facts.templates}),
        "--slots": spec.slots,
        "--context": spec.context,
        "--threads": share.threads,
        "--memory-mib": share.memory_mib,
        "--engine": engine,
        "--engine-options": json.dumps(speech.spoken(engine, models.known(facts.name, facts.origin), found.options)),
        **files,
    }


def _flat(arguments: dict[str, Any]) -> list[str]:
    return [str(part) for pair in arguments.items() for part in pair]

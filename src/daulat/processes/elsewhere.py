"""An engine that runs elsewhere: asked and watched like others, but neither started, sandboxed nor ended from here."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from daulat.adapters import engine_http, key_file
from daulat.engines.external import external
from daulat.engines.known import named
from daulat.engines.options import Options
from daulat.engines.port import Engine, Launch
from daulat.errors import ConfigError, EngineDead, EngineError
from daulat.fleet.lease import Place
from daulat.processes.launcher import HEALTH_SECONDS, Running, Wanted

_OK: Final = 200
REFUSALS: Final = frozenset({401, 403})


class Unseen:
    """A process of another host: it is never seen to end."""

    returncode: int | None = None


@dataclass(slots=True)
class Elsewhere:
    """Nothing of it can be measured or ended from here (`launcher.Body`)."""

    facts: dict[str, Any]
    process: Unseen = field(default_factory=Unseen)

    def resident_bytes(self) -> int:
        return 0

    def cpu_seconds(self) -> float:
        return 0.0

    async def ended(self) -> int:
        """Never: it is only seen to stop answering."""
        await asyncio.get_running_loop().create_future()
        return 0

    async def stop(self, _seconds: float) -> None:
        """It goes on; only Daulat asks it no more."""


def engine(options: Options) -> Engine:
    """`external`, with the metric names of the engine that it is said to be.

    Raises:
        ConfigError: no address, or no such engine.
    """
    if not options.address:
        said = 'an external engine needs an address, as in {"address": "tls:llm.example.my:443"}'
        raise ConfigError(said, location="--engine-options")
    return external(named(options.metrics) if options.metrics else None)


def facts(options: Options) -> dict[str, Any]:
    """What stands in the log where a sandbox's facts would: that there is none, and whose word there is."""
    said = {"tool": "none", "grade": options.grade, "network": "outside", "own_uid": False, "seccomp": False}
    return {**said, **({"vouched_by": options.vouched_by} if options.vouched_by else {})}


def place(options: Options) -> Place:
    """The node on which it stands: one for each address and what is stated of it.

    Raises:
        ConfigError: where it stands is not stated.
    """
    if not options.country or not options.site:
        said = 'where an external engine stands is not stated: {"country": "MY", "site": "Cyberjaya, hall 2"}'
        raise ConfigError(said, location="--engine-options")
    stated = (options.address, options.country, options.site, options.grade, options.vouched_by)
    name = hashlib.sha256("\0".join(stated).encode()).hexdigest()[:16]
    return Place(f"outside_{name}", *stated[1:])


async def ask(options: Options, method: str, target: str, body: bytes = b"", *, seconds: float) -> tuple[int, bytes]:
    """Ask it, with its key where it wants one: status and body.

    Raises:
        EngineDead: the key cannot be read, or is refused; the server's own words are left out: they may quote it.
        EngineError: no answer.
    """
    try:
        key = key_file.read(options.api_key_file) if options.api_key_file else ""
    except ConfigError as error:
        raise EngineDead(error.message) from None
    status, said = await engine_http.fetch(options.address, method, target, body, seconds=seconds, key=key)
    if status in REFUSALS:
        raise EngineDead(f"the server refuses {'its API key' if key else 'requests without an API key'} ({status})")
    return status, said


def _offered(said: bytes) -> list[str]:
    """The models that a server lists; none where it lists them in another way."""
    try:
        return [str(row["id"]) for row in json.loads(said)["data"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


async def start(wanted: Wanted) -> Running:
    """See that it answers.

    Raises:
        EngineDead: it does not.
    """
    options = wanted.options
    try:
        status, said = await ask(options, "GET", wanted.engine.health_path, seconds=HEALTH_SECONDS)
    except EngineError as error:
        raise EngineDead(f"the external engine does not answer: {error.message}") from None
    if status != _OK:
        raise EngineDead(f"the external engine answers {wanted.engine.health_path} with {status}")
    offered = _offered(said)
    if offered and wanted.served not in offered:
        has = ", ".join(name[:80] for name in offered[:8])
        raise EngineDead(f"the external engine has no model {wanted.served!r}: it offers {has}")
    launch = Launch(
        *("", wanted.name, "", ""), wanted.slots, wanted.context, wanted.threads, embeds=wanted.embeds, uid=None
    )
    description = {"name": "external", "version": "unknown", "parameters": wanted.engine.parameters(launch)}
    description["answers"] = wanted.engine.checks(embeds=wanted.embeds)
    device = dict(options.device) or {"kind": "unknown", "product": "unknown", "count": 0}
    return Running(Elsewhere(facts(options)), description, device, deque())

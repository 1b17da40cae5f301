"""`daulat up` before a given engine, made to be killed: every child runs under `tests.support.faulty`.

    FAULTS=FOLDER python -m tests.support.faulty_service HOME ENGINE PORT WORKERS

Prints one JSON line when it answers, as `daulat up --json` does. Reports the engine's counters as a supervisor would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.support.installation import Running, start

from daulat.adapters import engine_http
from daulat.errors import DaulatError
from daulat.processes import plan
from daulat.processes.children import Child

CANARY_SECONDS = 3.0


class FaultyChild(Child):
    """A child on a disk that may fail."""

    def __init__(self, module: str, *arguments: Any, **options: Any) -> None:
        super().__init__(module, *arguments, **options)
        self._command[2:3] = ["tests.support.faulty", module]


async def probe(running: Running, engine: Path) -> None:
    """What the supervisor's canary does between two leases. A report that cannot be written now is lost."""
    while True:
        await asyncio.sleep(CANARY_SECONDS)
        with contextlib.suppress(DaulatError, OSError):
            _, counters = await engine_http.fetch(engine, "GET", "/counters", seconds=5.0)
            await running.control.probed(json.loads(counters))


async def main() -> int:
    """The exit code: 1 when the control plane gave up."""
    home, engine, port, workers = sys.argv[1:]
    plan.Child = FaultyChild  # type: ignore[misc]
    slots = int(os.environ.get("SLOTS", "1024"))
    running = await start(Path(home), f"unix:{engine}", port=int(port), workers=int(workers), slots=slots)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.control.ended.set)
    facts = {"url": running.url, "api_key": running.api_key, "auditor_token": running.auditor_token}
    sys.stdout.write(json.dumps(facts | {"log_vkey": running.control.vkey, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    probing = asyncio.create_task(probe(running, Path(engine)))
    await running.control.ended.wait()
    probing.cancel()
    failure = running.control.failure
    await running.control.stop()
    if failure:
        sys.stderr.write(f"{failure}\n")
    return 1 if failure else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))

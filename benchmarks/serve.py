"""A whole Daulat before a given engine, until SIGTERM: real control plane, sequencer, workers and pages.

    python -m benchmarks.serve HOME ENGINE PORT WORKERS TENANTS

Prints one JSON line when it answers; TENANTS more than the first have a key each, in HOME/keys.txt. Nothing is switched
off; only the supervised engine is replaced by the stub.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from tests.support.installation import NOTHING_COUNTED, Running, start

from daulat.adapters.control_tables import ORDINAL, metadata
from daulat.identity import secrets

CANARY_SECONDS = 30.0


async def many(running: Running, count: int) -> None:
    """Write `count` tenants with a person and a key each as the desk would, but at once; and have them in force."""
    keys = [secrets.new_key() for _ in range(count)]
    numbers, later = range(count), 2**41
    vouched = {"citizenship": "MY", "assurance": "substantial", "roles": ["user"], "expires": later, "version": 1}
    blank = {"models": [], "requests_per_minute": 0, "created": 0, "expires": later, "revoked": None}
    rows: dict[str, list[dict[str, object]]] = {
        "tenants": [{"name": f"house {n}", "epoch_key": base64.b64encode(os.urandom(32)).decode()} for n in numbers],
        "people": [{"name": "somebody", "tenant": f"tenants_{n}", **vouched} for n in numbers],
        "keys": [
            {"person": f"people_{n}", "digest": secrets.digest(keys[n]), "label": "key", **blank} for n in numbers
        ],
    }
    with running.control._db._writing() as connection:  # noqa: SLF001  nobody else writes so many at once
        for table, those in rows.items():
            every = [{"id": f"{table}_{n}", ORDINAL: 1000 + n, **row} for n, row in enumerate(those)]
            if every:
                connection.execute(sa.insert(metadata.tables[table]), every)
    (running.home.path / "keys.txt").write_text("".join(f"{key}\n" for key in keys or [running.api_key]))

    async def nothing() -> None:
        """Only what every act ends with: a new roll, in force."""

    await running.control.publishing.changes(nothing)()


async def main() -> None:
    """See the module."""
    home, engine, port, workers, tenants = sys.argv[1:]
    running = await start(Path(home), engine, port=int(port), workers=int(workers))
    await many(running, int(tenants))
    print(json.dumps({"url": running.url, "api_key": running.api_key}), flush=True)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    while not ended.is_set():
        with suppress(TimeoutError):  # as a supervisor would: without canaries the lease ends, and with it the service
            async with asyncio.timeout(CANARY_SECONDS):
                await ended.wait()
        await running.control.probed(NOTHING_COUNTED)
    await running.control.stop()


asyncio.run(main())

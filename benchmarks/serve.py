"""A whole Daulat before a given engine, until SIGTERM: real control plane, sequencer, workers and pages.

    python -m benchmarks.serve HOME ENGINE PORT WORKERS TENANTS

Prints one JSON line when it answers. With TENANTS above 0 there are so many more than the first, and everything that is
asked of the hot path is in force: each has a person, whose citizenship an OpenID provider has said until a day, with a
key in HOME/keys.txt that they made themselves; the key, its tenant and the model are limited, so high that nothing is
ever refused; and the charter names whose word counts. With 0 there is none of it. Nothing is switched off; only the
supervised engine is replaced by the stub.
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
from tests.support.installation import FACTS, NOTHING_COUNTED, Running, start

from daulat.adapters.control_tables import ORDINAL, metadata
from daulat.catalog import charters
from daulat.identity import secrets
from daulat.settings import Home

CANARY_SECONDS = 30.0
ISSUER = "https://login.benchmark.example/realms/citizens"
LATER_MS = 2**41  # in the year 2039
LIMITS = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "requests_per_day": 10**9,
    "tokens_per_day": 10**12,
}
"""Of each key, each tenant and the model: more than a machine can do, so that nothing is refused."""


def write_charter(home: Home) -> None:
    """The starter charter, under which that provider's word on a citizenship counts beside an operator's."""
    usual, named = 'issuers = ["operator"]', f'issuers = ["operator", "{ISSUER}"]'
    text = charters.starter()
    if usual not in text:
        raise RuntimeError(f"the starter charter has no {usual}")
    home.prepare()
    home.charter.write_text(text.replace(usual, named))


async def many(running: Running, count: int) -> None:
    """Write `count` tenants with a person, a key and limits each, as they would come but at once; have all in force."""
    keys = [secrets.new_key() for _ in range(count)]
    numbers = range(count)
    proven = {"citizenship": "MY", "assurance": "substantial", "issuer": ISSUER, "until": LATER_MS, "proven": 1}
    known = {**proven, "roles": ["user"], "expires": LATER_MS, "version": 1}
    blank = {"models": [], "requests_per_minute": 0, "created": 0, "expires": LATER_MS, "revoked": None, "own": 1}
    limited = [("model", FACTS.name)] if count else []
    limited += [(scope, f"{scope}s_{n}") for scope in ("key", "tenant") for n in numbers]
    rows: dict[str, list[dict[str, object]]] = {
        "tenants": [{"name": f"house {n}", "epoch_key": base64.b64encode(os.urandom(32)).decode()} for n in numbers],
        "people": [{"name": "somebody", "tenant": f"tenants_{n}", **known} for n in numbers],
        "keys": [
            {"person": f"people_{n}", "digest": secrets.digest(keys[n]), "label": "key", **blank} for n in numbers
        ],
        "limits": [
            {"name": f"{scope}:{subject}", "scope": scope, "subject": subject, "bounds": LIMITS}
            for scope, subject in limited
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
    if int(tenants):
        write_charter(Home(Path(home)))
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

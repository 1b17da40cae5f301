"""The hot path with one tenant and no limit, and with everything that is asked of it in force, in one run.

*Everything* is: ten thousand tenants, of which each connection is another's, or each request (harder than any real
day: nothing that was just used is used again); limits of its key, its tenant and the model, in requests and tokens a
minute and a day, reserved and settled; and people whom an OpenID provider has proven (`serve.py`).

    python -m benchmarks.tenants [--tenants 10000] [--rounds 5] [--seconds 60]

A measurement takes a minute, as slices of a minute's limits are lent anew with each: shorter ones have all of that in
them, or nothing.

Writes results/tenants.json, and results.md anew. What is measured is the same as in the suite `json`; both
installations run the whole time.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks import host, measure, report, servers
from benchmarks.environments import RESULTS, WORK
from benchmarks.measure import Contestant, Row

CONNECTIONS: Final = 64
ONE: Final = "daulat-1"
_FIRST_SECONDS: Final = 5.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.tenants", description="Measure what tenants, limits and proof cost."
    )
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of one measurement")
    parser.add_argument("--calm", type=float, default=measure.CALM.left, help="seconds to wait for it, in all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder that they are written to")
    parser.add_argument("--note", default="", help="what a reader should know of this run")
    return parser.parse_args()


def names(tenants: int) -> tuple[str, str, str]:
    """One tenant; many, each connection with the key of one; many, each request with the next one's."""
    return ONE, f"daulat-{tenants}-kept", f"daulat-{tenants}"


def measured(tenants: int, rounds: int, seconds: float) -> list[Row]:
    """Rows of "first", the first answers after a start, and of "json", when every key has been used."""
    with ExitStack() as stack:
        engine = stack.enter_context(servers.stub())
        few = stack.enter_context(servers.daulat())
        many = stack.enter_context(servers.daulat(port=18700, tenants=tenants))
        theirs = servers.home_of(tenants=tenants) / "keys.txt"
        one, kept, turn = names(tenants)
        every = (
            Contestant(one, few, {}, servers.home_of() / "keys.txt"),
            Contestant(kept, many, {}, theirs),
            Contestant(turn, many, {}, theirs, turn=True),
        )

        def row(suite: str, number: int, contestant: Contestant, length: float = seconds) -> Row:
            attempts = 1 if suite == "first" else measure.ATTEMPTS  # a second time it would not be the first

            def run() -> Row:
                return contestant.json(length, CONNECTIONS)

            made = measure.measured(suite, contestant, engine, number, run, attempts=attempts)
            return {**made, "worker_mib": round(sum(map(host.rss_mib, contestant.server.roles["worker"])), 1)}

        rows = [row("first", 0, contestant, _FIRST_SECONDS) for contestant in (every[0], every[2])]
        measure.use_each(many, theirs)
        for number in range(rounds):
            rows += [row("json", number, contestant) for contestant in (every if number % 2 else every[::-1])]
    return rows


def summary(rows: list[Row], tenants: int) -> dict[str, Any]:
    """Medians of "json", and how each with many tenants stands to the one without in each round."""

    def rate(row: Row) -> float:
        return float(row["load"]["per_second"])

    def cpu(row: Row) -> float:
        return float(row["window"]["cpu_seconds"]["worker"] / row["load"]["requests"] * 1e6)

    those = {name: [row for row in rows if row["suite"] == "json" and row["server"] == name] for name in names(tenants)}
    found: dict[str, Any] = {
        "first_worker_cpu_us": {row["server"]: round(cpu(row), 1) for row in rows if row["suite"] == "first"},
        "worker_mib": {name: each[-1]["worker_mib"] for name, each in those.items()},
        "errors": sum(row["load"]["not_200"] + row["load"]["socket_errors"] for row in rows),
    }
    for what, value in (("requests_per_second", rate), ("worker_cpu_us", cpu)):
        found[what] = {name: round(statistics.median(map(value, each)), 1) for name, each in those.items()}
        found[f"{what}_ratios"] = {
            name: [round(value(there) / value(here), 3) for here, there in zip(those[ONE], each, strict=True)]
            for name, each in those.items()
            if name != ONE
        }
    return found


def main() -> None:
    """See the module."""
    arguments = _arguments()
    WORK.mkdir(parents=True, exist_ok=True)
    measure.CALM.left = arguments.calm
    rows = measured(arguments.tenants, arguments.rounds, arguments.seconds)
    result = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "note": arguments.note,
        "machine": host.describe(WORK),
        "tenants": arguments.tenants,
        "connections": CONNECTIONS,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "summary": summary(rows, arguments.tenants),
        "rows": rows,
    }
    (arguments.results / "tenants.json").write_text(json.dumps(result, indent=1) + "\n")
    report.tables(arguments.results)
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()

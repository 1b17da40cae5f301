"""Measure Daulat beside nginx, vllm-router and LiteLLM against an engine that computes nothing.

    python -m benchmarks.run [--only json,streams,open,memory,scaling] [--peers nginx,...]
        [--tenants 10000] [--rounds 5] [--seconds 5] [--calm 600]

Writes results/stub.json, results/results.md and results/plot.svg, the first as soon as a suite is over; of suites that
--only leaves out, earlier rows stay.
See README.md for the method.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks import host, measure, report
from benchmarks.environments import RESULTS, WORK, version
from benchmarks.measure import Row

SUITES: Final = ("json", "streams", "open", "memory", "scaling")


def _names(allowed: tuple[str, ...]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(name for name in text.split(",") if name)
        if unknown := set(chosen) - set(allowed):
            raise argparse.ArgumentTypeError(f"unknown {sorted(unknown)}; there are {', '.join(allowed)}")
        return chosen

    return parse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description="Measure Daulat beside its peers.")
    parser.add_argument("--only", type=_names(SUITES), default=SUITES, help=f"of {','.join(SUITES)}")
    parser.add_argument("--peers", type=_names(measure.PEERS), default=measure.PEERS, help=f"of {measure.PEERS}")
    parser.add_argument("--tenants", type=int, default=measure.TENANTS, help="in a second Daulat; 0: no second")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--calm", type=float, default=measure.CALM.left, help="seconds to wait for it, in all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder that they are written to")
    parser.add_argument("--name", default="stub", help="name of the results' JSON file")
    return parser.parse_args()


def _suites(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows of each suite as soon as they are there."""
    only, rounds, seconds = set(arguments.only), arguments.rounds, arguments.seconds
    if only - {"scaling"}:
        with ExitStack() as stack:
            all_of_them = measure.contestants(stack, arguments.peers, arguments.tenants)
            if "json" in only:
                for connections in measure.CONCURRENT:
                    yield measure.json_requests(all_of_them, rounds, seconds, connections)
            if "streams" in only:
                yield measure.paced_streams(all_of_them, rounds, seconds)
            if "open" in only:
                yield measure.open_loop(all_of_them, rounds, seconds)
            if "memory" in only:
                yield measure.memory(next(one for one in all_of_them if one.name == "daulat-split"))
    if "scaling" in only:
        yield measure.scaling(rounds, seconds)


def _keep(path: Path, about: dict[str, Any], rows: list[Row]) -> None:
    """Write them; what was not measured this time stays."""
    measured = {row["suite"] for row in rows}
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [*rows, *(row for row in before if row["suite"] not in measured)]
    path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def main() -> None:
    """See the module."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # so that what was started is ended
    WORK.mkdir(parents=True, exist_ok=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    measure.CALM.left = arguments.calm
    about = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": host.describe(WORK),
        "versions": {
            "vllm-router": version("vllm-router", "vllm-router"),
            "litellm": version("litellm", "litellm"),
            "nginx": report.nginx_version() if "nginx" in arguments.peers else "",
        },
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
    }
    for rows in _suites(arguments):
        _keep(arguments.results / f"{arguments.name}.json", about, rows)
    print(report.write(arguments.results))


if __name__ == "__main__":
    main()

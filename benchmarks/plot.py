"""Draw results/stub.json. Runs in the benchmark's own plotting environment: plot.py JSON SVG."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

OURS, OTHERS = "#0b6e4f", "#9aa5b1"


def _medians(rows: list[dict[str, Any]], suite: str, value: Callable[[dict[str, Any]], float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["suite"] == suite:
            found.setdefault(row["server"], []).append(value(row))
    return {name: statistics.median(values) for name, values in found.items()}


def _bars(axes: Any, title: str, values: dict[str, float], *, log: bool = False) -> None:
    names = list(values)
    axes.barh(names, list(values.values()), color=[OURS if name.startswith("daulat") else OTHERS for name in names])
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
    axes.margins(x=0.3)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    for index, value in enumerate(values.values()):
        axes.annotate(f" {value:,.0f}" if value >= 100 else f" {value:.2g}", (value, index), va="center", fontsize=8)


def _cpu(unit: str) -> Callable[[dict[str, Any]], float]:
    def value(row: dict[str, Any]) -> float:
        used = sum(seconds for role, seconds in row["window"]["cpu_seconds"].items() if role != "engine")
        return float(used / row["load"][unit] * 1e6)

    return value


def main() -> None:
    """See the module."""
    source, target = map(Path, sys.argv[1:])
    rows = json.loads(source.read_text())["rows"]
    figure, axes = plt.subplots(2, 2, figsize=(11, 6), layout="constrained")
    panels = [
        ("requests a second, one core (log)", _medians(rows, "json-256", lambda row: row["load"]["per_second"])),
        ("CPU us a request, all processes (log)", _medians(rows, "json-256", _cpu("requests"))),
        ("CPU us a chunk, all processes, 256 streams", _medians(rows, "streams", _cpu("events"))),
        (
            "median ms to first token, 256 streams",
            _medians(rows, "streams", lambda row: row["load"]["ttft_us"]["p50"] / 1000),
        ),
    ]
    for number, (place, (title, values)) in enumerate(zip(axes.flat, panels, strict=True)):
        without_direct = {name: value for name, value in values.items() if name != "direct" or number == 3}
        if without_direct:
            _bars(place, title, without_direct, log=number < 2)
    mpl.rcParams["svg.hashsalt"] = "daulat"  # the same figures give the same file
    figure.savefig(target, metadata={"Date": None})


main()

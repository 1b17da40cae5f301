"""What a lease says of its node's hardware: public facts, self-reported (G1)."""

from __future__ import annotations

import os
import platform
from collections import Counter
from typing import Any

import psutil

from daulat.adapters.accelerators import discover
from daulat.fleet.inventory import Inventory


def look() -> Inventory:
    """The accelerators and their health. Runs vendors' tools, so it may take some seconds."""
    return discover(deep=False)


def facts(found: Inventory) -> dict[str, Any]:
    """CPU, memory, kernel, and the accelerators by product."""
    return {
        "cpu": platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_mib": psutil.virtual_memory().total // 2**20,
        "kernel": platform.release(),
        "accelerators": accelerators(found),
    }


def accelerators(found: Inventory) -> list[dict[str, Any]]:
    """How many of each product there are, and how many of them say that they are well enough to work."""
    devices = [one for one in found.accelerators if one.vendor != "cpu" and one.partition is None]
    kinds = [(one.vendor, one.product or "unknown", one.architecture or "unknown") for one in devices]
    fit = Counter(kind for kind, one in zip(kinds, devices, strict=True) if one.health.fit)
    return [
        {"vendor": vendor, "product": product, "architecture": architecture, "count": count, "fit": fit[kind]}
        for kind, count in sorted(Counter(kinds).items())
        for vendor, product, architecture in [kind]
    ]

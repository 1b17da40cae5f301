"""A log may hold the same output several times, as a machine was asked again and again: the last one holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Final

from daulat.core.accelerator import Accelerator, Health
from daulat.fleet.outputs.lines import Reading

Key = tuple[object, ...]
_TABLE: Final = ("npu-smi", "info")  # nothing chooses its NPUs: one that is no more in it is lost


def newest(found: list[Reading]) -> list[Reading]:
    """The readings of one text without those that a later one of the same output and devices takes the place of.

    A later table replaces what an earlier one said of the devices that are in both. A device that contradicts the later
    one stays: it is of another machine, and `inventory.together` says so. An NPU that is no more there is lost.
    """
    last: dict[Key, Reading] = {}
    for reading in found:
        if (key := _key(reading)) is not None:
            last[key] = reading
    times = Counter(_key(reading) for reading in found)
    kept: list[Reading] = []
    for reading in found:
        key = _key(reading)
        if key is None or times[key] == 1:
            kept.append(reading)
        elif reading is last[key]:
            words = f"line {reading.line}: {reading.tool} {reading.what}".rstrip()
            said = f"{words} is here {times[key]} times: what the last one says holds"
            kept.append(replace(reading, problems=(*reading.problems, said)) if reading.whole else reading)
        elif reading.whole:
            kept += _left(reading, last[key])
    return kept


def _key(reading: Reading) -> Key | None:
    """What makes two readings the same output; `None` where that is not known."""
    if reading.whole:
        return reading.tool, reading.what
    ids = tuple((part.card, part.die, part.physical_id) for part in reading.accelerators)
    told = "-t " in reading.what or reading.what.startswith("-") or reading.what == "info watch"
    told &= "proc-mem" not in reading.what  # who has used a chip is told of every time
    return (reading.tool, reading.what, *ids) if told and ids and (None, None, None) not in ids else None


def _left(reading: Reading, last: Reading) -> list[Reading]:
    """What an earlier look has and the last has not."""
    places = {(part.card, part.die, part.partition): part for part in last.accelerators}
    names = {part.unique_id or "": part for part in last.accelerators if part.unique_id}
    left = []
    for part in reading.accelerators:
        other = names.get(part.unique_id or "") or places.get((part.card, part.die, part.partition))
        if other is None and (reading.tool, reading.what) == _TABLE:
            reason = f"it is in the table of line {reading.line}, and no more in that of line {last.line}"
            left.append(
                Accelerator(part.vendor, part.product, part.architecture, part.card, part.die, health=_lost(reason))
            )
        elif other is None or _contradict(part, other):
            left.append(part)
    return [replace(reading, accelerators=tuple(left), problems=())] if left else []


def _lost(reason: str) -> Health:
    return Health("unknown", (reason,))


def _contradict(one: Accelerator, other: Accelerator) -> bool:
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("product", "pci", "serial", "unique_id"))
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)

"""The table of a bare `amd-smi` (ROCm 6.4 and later): two rows a GPU. Written after public captures."""

from __future__ import annotations

import re
from typing import Final

from daulat.core.accelerator import Accelerator, Ecc, Health, Utilisation, judged
from daulat.fleet.outputs.lines import (
    MAX_DEVICES,
    Line,
    Reading,
    celsius,
    integer,
    malformed,
    pci,
    percent,
    quantity,
    watts,
    within,
)

_WIDEST: Final = 300  # characters of a row
_TITLE: Final = re.compile(r"AMD-SMI\s+\S+\s+amdgpu version:\s*(\S+)")
_FIRST: Final = re.compile(r"([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])\s+(\S.*)", re.IGNORECASE)
_USE: Final = re.compile(r"(\d{1,3} %|N/A)\s+(-?\d{1,3} \u00b0C|N/A)\s+(\d{1,9}|N/A)\s+(\d{1,5}|N/A)(?:/\d{1,5} W)?")
_SECOND: Final = re.compile(r"(\d{1,4})\s+(\S+)\s+(\S+)\s+(\S+)")
_MEMORY: Final = re.compile(r"(\d{1,3} %|N/A)\s+(?:\d{1,3}\.\d %|N/A)\s+(\d{1,9})/(\d{1,9}) (MB|GB)")
_CELLS: Final = 2


def is_table(text: str) -> bool:
    return len(text) <= _WIDEST and text.strip().startswith("|") and _TITLE.search(text) is not None


def read_table(lines: list[Line]) -> Reading:
    """All GPUs; processes are not read.

    Raises:
        InvalidRequest: a row of a GPU is missing or unlike any that is known; quotes it.
    """
    driver: str | None = None
    found: list[Accelerator] = []
    waiting: tuple[Line, list[str]] | None = None
    for line in lines:
        title = _TITLE.search(line.text[:_WIDEST])
        cells = [cell.strip() for cell in line.text.strip().strip("|").split("|")]
        if title is not None:
            driver = title[1]
        elif cells[0].startswith("Processes"):
            break
        elif waiting is not None:
            found.append(_gpu(waiting, (line, cells), driver))
            waiting = None
        elif len(cells) == _CELLS and _FIRST.fullmatch(cells[0]) is not None:
            waiting = (line, cells)
        if len(found) > MAX_DEVICES:
            raise malformed(line, f"more than {MAX_DEVICES} GPUs")
    if waiting is not None:
        raise malformed(waiting[0], "the second row of this GPU is missing")
    return Reading("amd-smi", "", lines[0].number, tuple(found), whole=True)


def _gpu(one: tuple[Line, list[str]], two: tuple[Line, list[str]], driver: str | None) -> Accelerator:
    line, cells = one
    under, below = two
    first, use = _FIRST.fullmatch(cells[0]), _USE.fullmatch(cells[1])
    ids = _SECOND.fullmatch(below[0])
    memory = _MEMORY.fullmatch(below[1]) if len(below) == _CELLS else None
    if first is None or use is None:
        raise malformed(line, "this is not the first row of a GPU (address, name, use, temperature, errors, power)")
    if ids is None or memory is None:
        raise malformed(under, "this is not the second row of a GPU (numbers, use, fan, memory)")
    used, total = (quantity(f"{amount} {memory[4]}", under) for amount in (memory[2], memory[3]))
    within(used, total, under)
    errors = integer(use[3], line)
    return Accelerator(
        "amd",
        product=first[2].removeprefix("...").strip(),
        card=integer(ids[1], under),
        pci=pci(first[1], line),
        driver=None if driver == "Linuxver" else driver,
        memory_used=used,
        memory_total=total,
        temperature=celsius(use[2], line),
        power=watts(use[4], line),
        utilisation=Utilisation(
            core=percent(memory[1].replace(" ", ""), under), memory_bandwidth=percent(use[1].replace(" ", ""), line)
        ),
        ecc=Ecc(double_bit=errors),
        health=judged(Health(), Ecc(double_bit=errors), "amd"),
    )

"""The CPU as an accelerator: one a NUMA node, with its cores, memory and the instruction sets that engines use."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Final

from daulat.core.accelerator import Accelerator, Health
from daulat.fleet.outputs.lines import Reading

_SETS: Final = frozenset(
    {"avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
    | {
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimddp",
        "asimdhp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
        "svebf16",
        "svei8mm",
    }
)
_KIB: Final = 1024
_NODE: Final = re.compile(r"node(\d{1,4})")
_MEMORY: Final = re.compile(r"(MemTotal|MemFree|MemAvailable|FilePages|SReclaimable):\s+(\d{1,15}) kB")


def read(root: Path = Path("/")) -> Reading:
    """All NUMA nodes, or the machine as one where the kernel shows none."""
    product, sets = _cpu(root / "proc/cpuinfo")
    nodes = root / "sys/devices/system/node"
    found = []
    for path in sorted(nodes.glob("node*"), key=lambda path: (len(path.name), path.name)):
        match = _NODE.fullmatch(path.name)
        cpus = _text(path / "cpulist").strip()
        if match is not None and cpus:
            found.append(_node(int(match[1]), cpus, _memory(_text(path / "meminfo")), product, sets))
    if not found:
        everything = f"0-{(os.cpu_count() or 1) - 1}"
        found.append(_node(None, everything, _memory(_text(root / "proc/meminfo")), product, sets))
    return Reading("kernel", "cpu", 1, tuple(found))


def _node(
    number: int | None, cpus: str, memory: tuple[int | None, int | None], product: str | None, sets: tuple[str, ...]
) -> Accelerator:
    return Accelerator(
        "cpu",
        product=product,
        architecture=platform.machine(),
        card=number or 0,
        numa_node=number,
        cpu_affinity=cpus,
        cores=_count(cpus),
        memory_kind="DDR",
        memory_total=memory[0],
        memory_used=memory[1],
        features=sets,
        health=Health("ok"),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _cpu(path: Path) -> tuple[str | None, tuple[str, ...]]:
    product, flags = None, set[str]()
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        key = name.strip().lower()
        if key in {"model name", "cpu model"} and product is None:
            product = value.strip() or None
        if key in {"flags", "features"}:
            flags |= set(value.split())
    return product, tuple(sorted(_SETS & flags))


def _memory(text: str) -> tuple[int | None, int | None]:
    """Bytes in all and in use; what the kernel can give back at once is not in use."""
    kib = {name: int(number) for name, number in _MEMORY.findall(text)}
    total = kib.get("MemTotal")
    free = kib.get("MemAvailable")
    if free is None and "MemFree" in kib:
        free = kib["MemFree"] + kib.get("FilePages", 0) + kib.get("SReclaimable", 0)
    if total is None:
        return None, None
    return total * _KIB, None if free is None else max(0, total - free) * _KIB


def _count(cpus: str) -> int:
    """How many CPUs are in `0-3,8`."""
    ends = (piece.partition("-")[::2] for piece in cpus.split(","))
    return sum(int(last or first) - int(first) + 1 for first, last in ends)

"""`nvidia-smi --query-gpu=... --format=csv`, `-L`, `nvlink -s`, `dmon`, and the table of a bare `nvidia-smi`."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field, replace
from typing import Any, Final

from daulat.core.accelerator import MIB, Accelerator, Ecc, Health, Process, Utilisation, judged
from daulat.fleet.outputs.lines import (
    Context,
    Convert,
    Line,
    Reading,
    celsius,
    complete,
    identity,
    integer,
    known,
    malformed,
    pci,
    percent,
    quantity,
    watts,
    within,
    word,
)


def _mib(text: str, line: Line) -> int | None:
    return quantity(text, line, unit="MiB")


_COLUMNS: Final[dict[str, tuple[str, Convert]]] = {
    "index": ("card", integer),
    "name": ("product", word),
    "gpu_name": ("product", word),
    "uuid": ("unique_id", identity),
    "gpu_uuid": ("unique_id", identity),
    "serial": ("serial", identity),
    "gpu_serial": ("serial", identity),
    "pci.bus_id": ("pci", pci),
    "gpu_bus_id": ("pci", pci),
    "driver_version": ("driver", word),
    "kmd_version": ("driver", word),
    "vbios_version": ("firmware", word),
    "memory.total": ("memory_total", _mib),
    "memory.used": ("memory_used", _mib),
    "temperature.gpu": ("temperature", celsius),
    "temperature.memory": ("memory_temperature", celsius),
    "power.draw": ("power", watts),
    "power.draw.average": ("power", watts),
    "utilization.gpu": ("core", percent),
    "utilization.memory": ("memory_bandwidth", percent),
    "ecc.errors.corrected.volatile.dram": ("single_bit", integer),
    "ecc.errors.uncorrected.volatile.dram": ("double_bit", integer),
    "ecc.errors.uncorrected.volatile.sram": ("sram_double_bit", integer),
    "ecc.errors.uncorrected.volatile.total": ("double_bit", integer),
    "ecc.errors.corrected.volatile.total": ("single_bit", integer),
    "ecc.errors.uncorrected.aggregate.total": ("total_double_bit", integer),
    "ecc.errors.corrected.aggregate.total": ("total_single_bit", integer),
}
_COLUMN: Final = re.compile(r"[a-z][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*")
_WIDEST: Final = 300  # characters of a table's row
_QUERY: Final = re.compile(r"--query-(?:gpu|compute-apps)[= ]\s*([A-Za-z0-9_.,]+)")
_LISTED: Final = re.compile(r"GPU (\d{1,4}): (.+?) \(UUID: (GPU-[0-9a-fA-F-]+)\)")
_MIG: Final = re.compile(r"MIG (\S+)\s+Device\s+(\d{1,3}): \(UUID: (MIG-[0-9a-zA-Z/-]+)\)")
_NVLINK: Final = re.compile(r"Link (\d{1,2}): (\d{1,4}(?:\.\d{1,3})? GB/s|<inactive>|.*inactive.*)", re.IGNORECASE)
_MONITORED: Final = {"pwr": "power", "gtemp": "temperature", "mtemp": "memory_temperature", "fb": "memory_used"}
_MONITORED_RATES: Final = {"sm": "core", "mem": "memory_bandwidth"}
_SUMS: Final = frozenset({"core", "memory_bandwidth"})
_ECC: Final = frozenset({"single_bit", "double_bit", "total_single_bit", "total_double_bit", "sram_double_bit"})


def columns(text: str) -> list[str] | None:
    """The names in a CSV's header; `None` where a line is none."""
    names = [cell.partition("[")[0].strip() for cell in text.split(",")]
    good = all(_COLUMN.fullmatch(name) for name in names) and any(name in _COLUMNS for name in names)
    return names if good and len(names) > 1 else None


def asked(context: Context) -> list[str] | None:
    """The names that a command line asked for, where its output may have no header."""
    match = _QUERY.search(context.arguments)
    return None if match is None else match[1].strip(",").split(",")


def _header(text: str, wanted: list[str] | None) -> list[str] | None:
    """The names in the first line, if it is a header."""
    names = [cell.partition("[")[0].strip() for cell in text.split(",")]
    meant = wanted is not None and sum(name in wanted for name in names) * 2 > len(names)
    return names if meant else columns(text)


def read_csv(lines: list[Line], context: Context) -> Reading:
    """One GPU a row. A column that is not known is left out; a unit may stand in the header or behind each value."""
    names = _header(lines[0].text, asked(context))
    rows = lines[1:] if names is not None else lines
    names = names or asked(context) or []
    complete(rows, separator=",")
    if {"pid", "used_gpu_memory", "used_memory"} & set(names):
        return _read_users(rows, names, lines[0])
    found = []
    for line in rows:
        cells = [cell.strip() for cell in next(csv.reader([line.text]))]
        if len(cells) != len(names):
            raise malformed(line, f"{len(cells)} of {len(names)} values")
        values: dict[str, Any] = {}
        for name, cell in zip(names, cells, strict=True):
            if name in _COLUMNS:
                field, convert = _COLUMNS[name]
                value = convert(cell, line)
                values[field] = value if values.get(field) is None else values[field]
        rates = {name: values.pop(name) for name in _SUMS & set(values)}
        errors = {name: values.pop(name) for name in _ECC & set(values)}
        ecc = Ecc(**errors)
        health = judged(Health(), ecc, "nvidia")
        within(values.get("memory_used"), values.get("memory_total"), line)
        found.append(Accelerator("nvidia", utilisation=Utilisation(**rates), ecc=ecc, health=health, **values))
    return Reading("nvidia-smi", "--query-gpu", lines[0].number, tuple(found))


def _read_users(rows: list[Line], names: list[str], first: Line) -> Reading:
    """`--query-compute-apps`: one process a row, each with what is told of its GPU."""
    found = []
    for line in rows:
        cells = [cell.strip() for cell in next(csv.reader([line.text]))]
        if len(cells) != len(names):
            raise malformed(line, f"{len(cells)} of {len(names)} values")
        said = dict(zip(names, cells, strict=True))
        values: dict[str, Any] = {
            _COLUMNS[name][0]: _COLUMNS[name][1](cell, line) for name, cell in said.items() if name in _COLUMNS
        }
        pid = integer(said.get("pid", ""), line)
        memory = _mib(said.get("used_gpu_memory", said.get("used_memory", "")), line)
        users = () if pid is None else (Process(pid, known(said.get("process_name", said.get("name", ""))), memory),)
        if "process_name" not in said:
            values.pop("product", None)
        found.append(Accelerator("nvidia", **values, processes=users))
    return Reading("nvidia-smi", "--query-compute-apps", first.number, tuple(found))


def is_list(text: str) -> bool:
    return _LISTED.search(text) is not None or _MIG.search(text) is not None


def read_list(lines: list[Line]) -> Reading:
    """`nvidia-smi -L`: names and UUIDs, MIG devices under their GPUs."""
    found: list[Accelerator] = []
    problems: list[str] = []
    gpu: Accelerator | None = None
    for line in lines:
        whole, part = _LISTED.search(line.text), _MIG.search(line.text)
        if whole is not None:
            gpu = Accelerator("nvidia", product=whole[2], card=int(whole[1]), unique_id=identity(whole[3], line))
            found.append(gpu)
        elif part is not None and gpu is not None:
            found.append(
                Accelerator(
                    "nvidia",
                    product=gpu.product,
                    card=gpu.card,
                    partition=f"MIG {part[2]}",
                    features=(part[1],),
                    parent=gpu.unique_id,
                    unique_id=identity(part[3], line),
                )
            )
        elif (problem := _of_links(line)) is None:
            raise malformed(line, "this is neither a GPU, a MIG device of one nor a link")
        elif problem and gpu is not None:
            problems.append(f"GPU {gpu.card}: {problem}")
    return Reading("nvidia-smi", "-L", lines[0].number, tuple(found), problems=tuple(problems))


def _of_links(line: Line) -> str | None:
    """What is wrong with a link of `nvlink -s`, "" for nothing; `None` where a line is of none."""
    text = line.text.strip()
    match = _NVLINK.fullmatch(text)
    if match is not None:
        return f"its NVLink {match[1]} is inactive" if "inactive" in match[2].lower() else ""
    return "" if "nvlink" in text.lower() else None


_TITLE: Final = re.compile(r"NVIDIA-SMI\s+\S+.*?(?:Driver|KMD) Version:\s*(\S+)")
_BUS: Final = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]")
_ROW: Final = re.compile(r"(?:[0-9A-Fa-f]{4,8}:\S{2,}:\S{2,}|N/A)(?:\s+(?:On|Off|N/A))?")
_FIRST: Final = re.compile(r"(\d{1,4})\s+(.+?)(?:\s+(?:On|Off|N/A|P0|WDDM|TCC|MCDM|ERR!))?")
_SECOND: Final = re.compile(r"(\S+?)\s*(\d+C|N/A|ERR!)\s+(P\d{1,2}|N/A|ERR!|P\?)\s+(\S+?)\s*/\s*(\S+)")
_FB: Final = re.compile(r"(\d{1,9})MiB\s*/\s*(\d{1,9})MiB")
_NO_FB: Final = re.compile(r"Not Supported|N/A|ERR!|N/A\s*/\s*N/A|ERR!\s*/\s*ERR!|Unknown Error", re.IGNORECASE)
_USE: Final = re.compile(r"(\d{1,3}%|N/A|ERR!)(?:\s+.*)?")
_MIG_ROW: Final = re.compile(r"(\d{1,4})\s+(\d{1,3}|N/A)\s+(\d{1,3}|N/A)\s+(\d{1,3})")
_USER: Final = re.compile(r"\|\s+(\d{1,4})\s+(\S+\s+\S+)\s+(\d{1,9})\s+([CGM+/]+)\s+(\S.*?)\s+(\d{1,9}MiB|N/A)\s+\|")
_OLD_USER: Final = re.compile(r"\|\s+(\d{1,4})\s+(\d{1,9})\s+([CGM+/]+)\s+(\S.*?)\s+(\d{1,9}MiB|N/A)\s+\|")


def is_monitor(text: str) -> bool:
    """Whether a line is a header of `nvidia-smi dmon`."""
    words = text.strip().lower().split()
    return words[:1] == ["#"] and words[1:2] in (["gpu"], ["idx"]) and not {"pid", "type"} & set(words)


def read_monitor(lines: list[Line]) -> Reading:
    """`nvidia-smi dmon`: a row a GPU, again and again; the last is what holds."""
    head: list[str] = []
    found: dict[int, Accelerator] = {}
    complete([line for line in lines if "#" not in line.text])
    for line in lines:
        cells = line.text.split()
        if cells[:1] == ["#"]:
            head = [cell.lower() for cell in cells[1:]] if cells[1].lower() == "gpu" else head
            continue
        if len(cells) < len(head):
            raise malformed(line, f"{len(cells)} of {len(head)} values")
        said = dict(zip(head, cells, strict=False))
        card = integer(said.get("gpu", ""), line)
        if card is None or "pid" in said:
            raise malformed(line, "a row of dmon begins with the number of its GPU")
        converts = {"power": watts, "temperature": celsius, "memory_temperature": celsius, "memory_used": _mib}
        values: dict[str, Any] = {
            field: converts[field](said[name], line) for name, field in _MONITORED.items() if name in said
        }
        rates = {field: percent(said[name], line) for name, field in _MONITORED_RATES.items() if name in said}
        found[card] = Accelerator("nvidia", card=card, utilisation=Utilisation(**rates), **values)
    return Reading("nvidia-smi", "dmon", lines[0].number, tuple(found.values()))


def is_table(text: str) -> bool:
    return (
        len(text) <= _WIDEST
        and "NVIDIA-SMI" in text
        and _TITLE.search(text) is not None
        and text.strip().startswith("|")
    )


@dataclass(slots=True)
class _Table:
    """What the rows so far have said."""

    part: str = "gpus"  # then "mig", then "processes"
    driver: str | None = None
    waiting: tuple[Line, list[str]] | None = None
    gpus: dict[int, Accelerator] = field(default_factory=dict)
    partitions: list[Accelerator] = field(default_factory=list)
    users: list[tuple[int, Process]] = field(default_factory=list)


def read_table(lines: list[Line]) -> Reading:
    """The table of a bare `nvidia-smi`: two rows a GPU, MIG devices, then the processes.

    Raises:
        InvalidRequest: the second row of a GPU is missing or unlike any that is known; quotes it.
    """
    table = _Table()
    for line in lines:
        if len(line.text) > _WIDEST:
            raise malformed(line, "no table of nvidia-smi is as wide")
        _take(line, [cell.strip() for cell in line.text.strip().strip("|").split("|")], table)
    if table.waiting is not None:
        raise malformed(table.waiting[0], "the second row of this GPU is missing")
    gpus = [
        replace(gpu, processes=tuple(user for card, user in table.users if card == gpu.card))
        for gpu in table.gpus.values()
    ]
    return Reading("nvidia-smi", "", lines[0].number, (*gpus, *table.partitions), whole=True)


def _take(line: Line, cells: list[str], table: _Table) -> None:
    title = _TITLE.search(line.text)
    if title is not None:
        table.driver = title[1]
    elif cells[0] in {"MIG devices:", "Processes:"} or cells[0].startswith("Processes:"):
        table.part = "mig" if cells[0].startswith("MIG") else "processes"
    elif table.part == "mig":
        table.partitions += _partition(line, cells, table)
    elif table.part == "processes":
        table.users += _table_user(line)
    elif table.waiting is not None:
        gpu = _table_gpu(table.waiting, (line, cells), table.driver)
        if gpu.card in table.gpus:
            raise malformed(table.waiting[0], "this GPU is there twice")
        table.gpus[gpu.card or 0], table.waiting = gpu, None
    elif len(cells) > 2 and _ROW.fullmatch(cells[1]) is not None and _FIRST.fullmatch(cells[0]):  # noqa: PLR2004
        table.waiting = (line, cells)
    elif len(cells) > 2 and _BUS.search(cells[1]) is not None:  # noqa: PLR2004
        raise malformed(line, "a GPU's first row begins with its number and name")
    else:
        table.users += _table_user(line)


def _partition(line: Line, cells: list[str], table: _Table) -> list[Accelerator]:
    match, memory = _MIG_ROW.fullmatch(cells[0]), _FB.search(cells[1] if len(cells) > 1 else "")
    gpu = None if match is None else table.gpus.get(int(match[1]))
    if match is None or memory is None or gpu is None:
        return []
    used, total = int(memory[1]) * MIB, int(memory[2]) * MIB
    within(used, total, line)
    return [
        Accelerator(
            "nvidia",
            product=gpu.product,
            card=gpu.card,
            pci=gpu.pci,
            partition=f"MIG {match[4]}",
            features=tuple(f"{name} {said}" for name, said in (("GI", match[2]), ("CI", match[3])) if said != "N/A"),
            parent=gpu.pci,
            memory_used=used,
            memory_total=total,
            driver=table.driver,
        )
    ]


def _table_user(line: Line) -> list[tuple[int, Process]]:
    new, old = _USER.fullmatch(line.text.strip()), _OLD_USER.fullmatch(line.text.strip())
    match = new or old
    if match is None:
        return []
    pid, name, memory = (match[3], match[5], match[6]) if new is not None else (match[2], match[4], match[5])
    amount = integer(memory.removesuffix("MiB"), line)
    return [(int(match[1]), Process(int(pid), name, None if amount is None else amount * MIB))]


def _table_gpu(one: tuple[Line, list[str]], two: tuple[Line, list[str]], driver: str | None) -> Accelerator:
    line, cells = one
    under, below = two
    first = _FIRST.fullmatch(cells[0])
    second = _SECOND.fullmatch(below[0]) if len(below) > 2 else None  # noqa: PLR2004
    memory = _FB.fullmatch(below[1]) if second is not None else None
    use = _USE.fullmatch(below[2]) if second is not None else None
    if first is None:
        raise malformed(line, "a GPU's first row begins with its number and name")
    if second is None or use is None or (memory is None and not _NO_FB.fullmatch(below[1])):
        raise malformed(under, "this is not the second row of a GPU (temperature, power, memory, utilisation)")
    used, total = (None, None) if memory is None else (int(memory[1]) * MIB, int(memory[2]) * MIB)
    within(used, total, under)
    failed = "ERR!" in (second[2], second[4], use[1]) or "ERR!" in below[1]
    errors = cells[2].split()[0] if cells[2] else ""
    lost = int(errors) if re.fullmatch(r"[0-9]{1,9}", errors) else None
    bus = _BUS.search(cells[1])
    name = first[2].strip()
    return Accelerator(
        "nvidia",
        product=name.removesuffix("...").strip(),  # cut by the tool itself
        card=int(first[1]),
        pci=None if bus is None else pci(bus[0], line),
        memory_used=used,
        memory_total=total,
        temperature=None if second[2] == "ERR!" else celsius(second[2], under),
        power=None if second[4] == "ERR!" else watts(second[4], under),
        utilisation=Utilisation(core=None if use[1] == "ERR!" else percent(use[1], under)),
        ecc=Ecc(double_bit=lost),
        driver=driver,
        health=judged(
            Health("critical", ("the driver reads ERR! from it",)) if failed else Health(),
            Ecc(double_bit=lost),
            "nvidia",
        ),
    )

"""The tables of `npu-smi info` and `npu-smi info -m`.

A chip takes two rows: card, name, health, power; then chip, bus id, usage. What stands in a column is known from the
header's words, in which releases and products differ: `Chip`, `Chip Phy-ID` (A3), `Chip Device` (310P), a cell of its
own for `NPU ID` and no chips (950), with or without `HBM-Usage(MB)`. Numbers may touch the slash (`22283/ 32768`), so
widths mean nothing. The layouts are those of npu-smi's own source (`npu_info_print.c` of the open driver) and captures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Final

from daulat.core.accelerator import MIB, Accelerator, Health, Process, State, Utilisation
from daulat.fleet.outputs.lines import (
    MAX_DEVICES,
    Line,
    Reading,
    celsius,
    complete,
    integer,
    known,
    malformed,
    pci,
    percent,
    watts,
    within,
)

STATES: Final[dict[str, State]] = {
    "ok": "ok",
    "good": "ok",
    "healthy": "ok",
    "warning": "warning",
    "alarm": "alarm",
    "critical": "critical",
    "fault": "critical",
    "unknown status": "unknown",
    "unknown": "unknown",
    "na": "unknown",
}
_IDS: Final = {
    "npu": "card",
    "npuid": "card",
    "chip": "die",
    "chipid": "die",
    "phy-id": "physical_id",
    "chipphy-id": "physical_id",
    "device": "logical_id",
    "chiplogicid": "logical_id",
    "logicid": "logical_id",
    "logic-id": "logical_id",
    "slotid": "slot",
    "name": "product",
    "chipname": "product",
}
_HEAD: Final = re.compile(
    r"Chip\s+Logic\s+ID|Chip\s?Phy-ID|Chip\s+Phy-ID|Chip\s+Name|Chip\s+ID|NPU\s+ID|Slot\s+ID|Logic-ID|Logic\s+ID|Phy-ID"
    r"|Device|Chip|NPU|Name",
    re.IGNORECASE,
)
_INFO_HEAD: Final = re.compile(r"NPU\s+ID|Chip\s+ID|Slot\s+ID|Phy-ID|Logic-ID|Device|Chip|NPU|Name", re.IGNORECASE)
_VERSION: Final = re.compile(r"npu-smi\s+(\S+)\s+Version:\s*(\S+)", re.IGNORECASE)
_NO_PROCESSES: Final = re.compile(r"No running processes found in NPU\s+(\d{1,9})", re.IGNORECASE)
_CELLS: Final = 3
_PROCESS_CELLS: Final = 4
_GENERATIONS: Final = (
    (r"910B[1-9]", "A2"),
    (r"910_93|910C", "A3"),
    (r"910A|910PRO ?[AB]|910PREMIUM ?A", "910A"),
    (r"310P", "310P"),
    (r"310B", "310B"),
    (r"310$", "310"),
    (r"950", "A5"),
)
_NAMED: Final = re.compile(r"[0-9]{3}|^(?:NA|-)$")  # every chip's name has a number of three digits
_NO_LOGIC_ID: Final = "mcu"


@dataclass(slots=True)
class _Table:
    """What the headers and rows so far have said."""

    first: list[str] | None = None  # left cell's names of a chip's first row
    second: list[str] | None = None
    values: list[str] | None = None  # right cell's names of the first row
    usages: list[str] | None = None  # of the second
    processes: list[str] | None = None
    apart: bool = False  # number and name have cells of their own (950)
    driver: str | None = None
    waiting: tuple[Line, list[str]] | None = None  # a chip's first row
    chips: dict[tuple[int | None, int | None], Accelerator] = field(default_factory=dict)
    users: list[tuple[int | None, int | None, Process]] = field(default_factory=list)

    def complete(self) -> None:
        if self.waiting is not None:
            raise malformed(self.waiting[0], "the second row of this chip is missing")

    def take(self, line: Line, cells: list[str]) -> None:
        """One row that is no header."""
        if _NO_PROCESSES.search(line.text):
            return
        if self.apart and self.processes is None and len(cells) == _CELLS + 1:
            cells = _one_left(cells)
        if self.processes is not None or len(cells) >= _PROCESS_CELLS:
            self.users.append(_process(line, cells, self))
        elif self.waiting is None:
            self.waiting = (line, cells)
        else:
            chip = _chip(self.waiting, (line, cells), self)
            if (chip.card, chip.die) in self.chips:
                raise malformed(self.waiting[0], "this chip is there twice")
            if len(self.chips) >= MAX_DEVICES:
                raise malformed(line, f"more than {MAX_DEVICES} chips")
            self.chips[chip.card, chip.die], self.waiting = chip, None


def is_title(text: str) -> bool:
    """Whether a row is the first of `npu-smi info`: its version."""
    return len(text) <= _WIDEST and text.strip().startswith("|") and _VERSION.search(text) is not None


def is_chip(text: str) -> bool:
    """Whether a row is the first of a chip: number and name, health, sensors."""
    cells = [cell.strip().lower() for cell in text.strip().split("|")[1:-1]]
    return len(cells) == _CELLS and cells[1] in STATES and cells[0][:1].isdigit()


def is_user(text: str) -> bool:
    """Whether a row is in the table of processes."""
    return _NO_PROCESSES.search(text) is not None or text.count("|") > _PROCESS_CELLS


def read_tables(lines: list[Line]) -> Reading:
    """Everything in the bars-and-pluses of `npu-smi info`: the chips, and who uses them.

    Raises:
        InvalidRequest: a row does not fit its header, is cut off, or is twice; quotes it.
    """
    table = _Table()
    for line in lines:
        cells = _cells(line)
        if cells is None:
            table.complete()
        elif table.apart and len(cells) == _CELLS + 1 and not cells[0] and not cells[1] and "id" in cells[2].lower():
            table.second, table.usages = [], cells[3].replace("NPU Util", "NPU-Util").split()
        elif not _header(line, cells, table):
            table.take(line, cells)
    table.complete()
    found = _with_users(_generations(list(table.chips.values())), table.users)
    return Reading("npu-smi", "info", lines[0].number, tuple(found), whole=table.driver is not None)


def _one_left(cells: list[str]) -> list[str]:
    """A row whose number and name stand in cells of their own, as other releases print it."""
    return [f"{cells[0]} {cells[1]}".strip(), *cells[2:]]


def _cells(line: Line) -> list[str] | None:
    """A row's cells; `None` for a rule."""
    text = line.text.strip()
    if set(text) <= set("+-=| "):
        return None
    if not (text.startswith("|") and text.endswith("|") and len(text) > 1):
        raise malformed(line, "a row of a table begins and ends with |")
    return [cell.strip() for cell in text[1:-1].split("|")]


def _header(line: Line, cells: list[str], table: _Table) -> bool:
    """Whether a row is a title or a header; what it says is kept."""
    version = _VERSION.search(cells[0])
    if version is not None:
        table.driver = version[2]
        return True
    left = cells[0].lower()
    if not left.startswith(("npu", "chip")) or any(character.isdigit() for character in left):
        return False
    if len(cells) == _CELLS + 1 and left == "npu id" and cells[1].lower() == "name":
        table.apart = True
        cells = _one_left(cells)
    names = [name.lower().replace(" ", "") for name in _INFO_HEAD.findall(cells[0])]
    if len(cells) >= _PROCESS_CELLS and "id" in cells[1].lower() and "memory" in cells[3].lower():
        table.processes = [cell.lower() for cell in cells]
    elif len(cells) == _CELLS and "name" in names:
        table.first, table.values, table.processes = names, cells[2].split(), None
    elif len(cells) == _CELLS and names:
        table.second, table.usages = names, cells[2].split()
    else:
        raise malformed(line, "no release is known that has this header")
    return True


def _row(line: Line, cells: list[str], names: list[str] | None, right: list[str] | None) -> tuple[list[str], list[str]]:
    """A row's left and right cell in pieces, as many as its header has."""
    if len(cells) != _CELLS:
        raise malformed(line, f"{len(cells)} cells where a chip's row has {_CELLS}")
    left = cells[0].split(None, max(0, len(names) - 1)) if names else cells[0].split()
    pieces = " ".join(cells[2].split()).replace(" /", "/").replace("/ ", "/").split()
    if names is not None and len(left) != len(names):
        raise malformed(line, f"{len(left)} of {len(names)} values under {' '.join(names)!r}")
    if right is not None and len(pieces) != len(right):
        raise malformed(line, f"{len(pieces)} of {len(right)} values under {' '.join(right)!r}")
    return left, pieces


def _chip(one: tuple[Line, list[str]], two: tuple[Line, list[str]], table: _Table) -> Accelerator:
    line, cells = one
    left, values = _row(line, cells, table.first, table.values)
    state = STATES.get(cells[1].lower())
    if len(left) < 2 or (table.values is None and len(values) < 2):  # noqa: PLR2004  an id and a name; two sensors
        raise malformed(line, "this is not the first row of a chip (number, name, health, power, temperature)")
    if state is None:
        raise malformed(line, f"{cells[1][:40]!r} is no health that is known ({', '.join(STATES)})")
    under, below = two
    ids, usages = _row(under, below, table.second, table.usages)
    if table.usages is None:  # a cut capture: the first chip's shape is everybody's
        table.usages = ["aicore(%)", "memory-usage(mb)", "hbm-usage(mb)"][: len(usages)]
        table.second = ["chip", "phy-id" if "hbm-usage(mb)" in table.usages else "device"][: len(ids)]
        if len(ids) > len(table.second) or len(usages) > len(table.usages):
            raise malformed(under, "this is not the second row of a chip (number, address, usage)")
    sensors = _by_name(table.values or ["power(w)", "temp(c)"], values)
    rates = _by_name(table.usages, usages)
    known_ids: dict[str, Any] = {
        _IDS[name]: integer(value, under) for name, value in zip(table.second or [], ids, strict=True) if name in _IDS
    }
    card = integer(left[0], line)
    if card is None:
        raise malformed(line, "a chip's row begins with the number of its NPU")
    memory = _memory(under, rates)
    kind = next((kind for kind in ("HBM", "DDR") if kind in memory), None)
    used, total = memory[kind] if kind is not None else (None, None)
    name = product(" ".join(left[1:]))
    reasons = () if state == "ok" else (f"npu-smi says {cells[1]}",)
    return Accelerator(
        "ascend",
        product=name,
        architecture=generation(name) or ("910A" if {"HBM", "DDR"} <= memory.keys() else None),
        card=card,
        pci=pci(below[1], under),
        memory_kind=kind,
        memory_used=used,
        memory_total=total,
        utilisation=Utilisation(
            core=percent(rates.get("aicore", "NA"), under), overall=percent(rates.get("npu-util", "NA"), under)
        ),
        power=watts(sensors.get("power", "NA"), line),
        temperature=celsius(sensors.get("temp", "NA"), line),
        health=Health(state, reasons),
        driver=table.driver,
        **known_ids,
    )


def _by_name(names: list[str], pieces: list[str]) -> dict[str, str]:
    """Values by their header's words without the unit: `temp` for `Temp(C)`. What stands first is not always power."""
    return {name.lower().partition("(")[0]: piece for name, piece in zip(names, pieces, strict=False)}


def _memory(line: Line, rates: dict[str, str]) -> dict[str, tuple[int | None, int]]:
    """Bytes used and in all by kind, of those that the chip has. Only the first 910 has both."""
    found: dict[str, tuple[int | None, int]] = {}
    for name, piece in rates.items():
        if not name.endswith("-usage"):
            continue
        used_text, slash, total_text = piece.partition("/")
        if not slash:
            raise malformed(line, f"{piece[:40]!r} under {name!r} is not `used / total`")
        used, total = integer(used_text, line), integer(total_text, line)
        in_bytes = None if used is None else used * MIB
        within(in_bytes, None if total is None else total * MIB, line)
        if total:
            found["HBM" if "hbm" in name else "DDR"] = (in_bytes, total * MIB)
    return found


def product(name: str) -> str:
    """`Ascend 910B3` from `910B3`, `Ascend910B3` or `Ascend 910B3`."""
    bare = re.sub(r"^ascend[\s_-]*", "", name.strip(), flags=re.IGNORECASE)
    return f"Ascend {bare}"


def generation(name: str | None) -> str | None:
    """The generation that a chip's name tells. `910` tells none (A3 and the first 910 say that), nor does `910B`."""
    bare = (name or "").upper().removeprefix("ASCEND").strip()
    return next((found for pattern, found in _GENERATIONS if re.match(pattern, bare)), None)


def _generations(chips: list[Accelerator]) -> list[Accelerator]:
    dies: dict[int | None, int] = {}
    for chip in chips:
        dies[chip.card] = dies.get(chip.card, 0) + 1
    pairs = any(count > 1 for count in dies.values())
    return [
        replace(
            chip,
            architecture=chip.architecture
            or ("A3" if pairs and chip.physical_id is not None and chip.product == "Ascend 910" else None),
        )
        for chip in chips
    ]


def _process(line: Line, cells: list[str], table: _Table) -> tuple[int | None, int | None, Process]:
    head = table.processes or []
    expected = len(head) or _PROCESS_CELLS
    if len(cells) < expected:
        raise malformed(line, f"{len(cells)} cells where a process has {expected}")
    behind = expected - _CELLS  # cells after the name, which may itself hold a bar
    name = "|".join(cells[2 : len(cells) - behind])
    amount = integer(cells[len(cells) - behind], line)
    unit = next((cell for cell in head if "memory" in cell), "")
    factor = MIB if "(mb)" in unit else 1 if "(b)" in unit else None
    place = [integer(piece, line) for piece in cells[0].split()]
    pid = integer(cells[1], line)
    if pid is None or len(place) not in {1, 2} or place[0] is None:
        raise malformed(line, "a process has the number of its NPU, its chip and its id")
    memory = None if amount is None or factor is None else amount * factor
    return place[0], place[1] if len(place) > 1 else None, Process(pid, name or None, memory)


def _with_users(chips: list[Accelerator], users: list[tuple[int | None, int | None, Process]]) -> list[Accelerator]:
    """Every process goes to its chip; where the chips' table was cut off, to a chip of which nothing else is known."""
    by_place: dict[tuple[int | None, int | None], Accelerator] = {(chip.card, chip.die): chip for chip in chips}
    for card, die, process in users:
        place = (card, die)
        if place not in by_place and die is None:
            place = next((key for key in by_place if key[0] == card), place)
        chip = by_place.get(place) or Accelerator("ascend", card=card, die=die)
        if process not in chip.processes:
            by_place[place] = replace(chip, processes=(*chip.processes, process))
    return list(by_place.values())


def is_mapping(text: str) -> bool:
    """Whether a line is the header of `npu-smi info -m`."""
    names = _HEAD.findall(text)
    return len(names) > 2 and not _HEAD.sub("", text).strip()  # noqa: PLR2004


def read_mapping(lines: list[Line]) -> Reading:
    """`npu-smi info -m`: which NPU, chip, logical and physical id are the same device. The Mcu is none."""
    head, *rows = lines
    names = [re.sub(r"\s+", "", name).lower() for name in _HEAD.findall(head.text)]
    complete(rows, len(names))
    found = []
    for line in rows:
        pieces = line.text.split(None, len(names) - 1)
        if len(pieces) != len(names):
            raise malformed(line, f"{len(pieces)} of {len(names)} values")
        if _NO_LOGIC_ID in {piece.strip().lower() for piece in pieces}:
            continue
        values: dict[str, Any] = {}
        for name, piece in zip(names, pieces, strict=True):
            key = _IDS[name]
            values[key] = product(piece) if key == "product" else integer(piece, line)
        if values.get("card") is None:
            raise malformed(line, "a row begins with the number of its NPU")
        if not line.ended and _NAMED.search(pieces[-1]) is None:
            raise malformed(line, "this row is cut off in the name of its chip")
        if known(pieces[-1]) is None:
            values["product"] = None
        found.append(Accelerator("ascend", architecture=generation(values.get("product")), **values))
        if len(found) > MAX_DEVICES:
            raise malformed(line, f"more than {MAX_DEVICES} chips")
    return Reading("npu-smi", "info -m", head.number, tuple(found))


_WIDEST: Final = 400  # characters of a header
_WATCHED: Final[dict[str, str]] = {
    "npuid(idx)": "card",
    "chipid(idx)": "die",
    "pwr(w)": "power",
    "temp(c)": "temperature",
    "aicore(%)": "core",
    "aicube(%)": "cube",
    "aivector(%)": "vector",
    "memorybw(%)": "memory_bandwidth",
    "npuutil(%)": "overall",
}
_WATCH_HEAD: Final = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)*\((?:Idx|W|C|%|MB|MHz|KB/s)\)")


def is_watch(text: str) -> bool:
    """Whether a line is the header of `npu-smi info watch`."""
    return len(text) <= _WIDEST and text.lstrip().lower().startswith("npuid(idx)")


def read_watch(lines: list[Line]) -> Reading:
    """`npu-smi info watch`: a row a chip, again and again. The last that was said of a chip is what holds.

    Raises:
        InvalidRequest: a row has fewer values than its header has names, or a number is none; quotes it.
    """
    head = [name.lower().replace(" ", "") for name in _WATCH_HEAD.findall(lines[0].text)]
    found: dict[tuple[int | None, int | None], Accelerator] = {}
    complete(lines[1:])
    for line in lines[1:]:
        if is_watch(line.text):
            continue
        cells = line.text.split()
        if len(cells) != len(head):
            raise malformed(line, f"{len(cells)} of {len(head)} values under 'npu-smi info watch'")
        said = {_WATCHED[name]: cell for name, cell in zip(head, cells, strict=True) if name in _WATCHED}
        card, die = integer(said.pop("card"), line), integer(said.pop("die", "NA"), line)
        if card is None:
            raise malformed(line, "a row begins with the number of its NPU")
        power, heat = watts(said.pop("power", "NA"), line), celsius(said.pop("temperature", "NA"), line)
        rates = Utilisation(**{name: percent(cell, line) for name, cell in said.items()})
        if len(found) >= MAX_DEVICES:
            raise malformed(line, f"more than {MAX_DEVICES} chips")
        found[card, die] = Accelerator("ascend", card=card, die=die, power=power, temperature=heat, utilisation=rates)
    return Reading("npu-smi", "info watch", lines[0].number, tuple(found.values()))

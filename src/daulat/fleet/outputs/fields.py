"""`npu-smi info -t ...` and `-l`: outputs of `name : value`, some for a card, some chip by chip.

A chip's block may be closed by its `Chip ID` (`-t usages`) or begun by it (`-t board -c`), so a block is what stands
between empty lines, or up to a name that comes again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from daulat.core.accelerator import MIB, Accelerator, Ecc, Health, Process, State, Utilisation, judged
from daulat.fleet.outputs import faults
from daulat.fleet.outputs.lines import (
    MAX_DEVICES,
    Context,
    Convert,
    Line,
    Reading,
    celsius,
    integer,
    known,
    malformed,
    pci,
    percent,
    watts,
    word,
)
from daulat.fleet.outputs.npu_smi import STATES, generation, product

_FIELDS: Final[dict[str, tuple[str, Convert]]] = {
    "npuid": ("card", integer),
    "chipid": ("die", integer),
    "chiplogicid": ("logical_id", integer),
    "chipphy-id": ("physical_id", integer),
    "chipphyid": ("physical_id", integer),
    "slotid": ("slot", integer),
    "vdieid": ("unique_id", word),
    "ddieid": ("unique_id", word),  # 950
    "serialnumber": ("serial", word),
    "pciebusinfo": ("pci", pci),
    "productname": ("board", word),
    "softwareversion": ("driver", word),
    "firmwareversion": ("firmware", word),
    "nputemperature(c)": ("temperature", celsius),
    "temperature(c)": ("temperature", celsius),
    "socmaxtemperature(c)": ("temperature", celsius),
    "hbmtemperature(c)": ("memory_temperature", celsius),
    "npureal-timepower(w)": ("power", watts),
    "power(w)": ("power", watts),
    "powerdissipation(w)": ("power", watts),
    "aicorecount": ("cores", integer),
    "aicorecurfreq(mhz)": ("frequency", integer),
}
_RATES: Final = {
    "aicoreusagerate(%)": "core",
    "aivectorusagerate(%)": "vector",
    "aicubeusagerate(%)": "cube",
    "npuutilization(%)": "overall",
    "hbmbandwidthusagerate(%)": "memory_bandwidth",
    "hbmusagerate(%)": "memory",
}
_ECC: Final = {
    "singlebiterrorcount": "single_bit",
    "doublebiterrorcount": "double_bit",
    "single-biterrorcount": "single_bit",  # 310B
    "double-biterrorcount": "double_bit",
    "singlebitaggregatetotalerrcnt": "total_single_bit",
    "doublebitaggregatetotalerrcnt": "total_double_bit",
    "singlebitisolatedpagescount": "single_bit_isolated_pages",
    "doublebitisolatedpagescount": "double_bit_isolated_pages",
}
_PROCESS: Final = re.compile(
    r"Process\s+id\s*:\s*(\d{1,9})\s+Process\s+name\s*:(.*?)Process\s+memory\s*\((MB|B)\)\s*:\s*(\S+)\s*$",
    re.IGNORECASE,
)
_CODES: Final = re.compile(r"[0-9A-Fa-f]{1,16}")
_CAPACITIES: Final = (("hbmcapacity(mb)", "HBM"), ("ddrcapacity(mb)", "DDR"), ("memorycapacity(mb)", "DDR"))
_HEALTH: Final = ("healthstatus", "health", "healthy")  # with its own line it names no NPU: the command above does
_MOST_REASONS: Final = 50

_NOTE: Final = re.compile(
    r"\.{3,}|No process in device\.|Get pid name failed\.|fail to get .{1,80}|[yY]|Are you sure .{1,80}", re.ASCII
)
_EVENT: Final = re.compile(r"event id=0x([0-9A-Fa-f]{1,16}), severity=([0-3])\b")
_SEVERITIES: Final[tuple[State, ...]] = ("ok", "warning", "alarm", "critical")  # of DCMI: hint, minor, major, critical

Block = dict[str, tuple[Line, str]]


def read_fields(lines: list[Line], context: Context) -> Reading:
    """All chips, or cards, that the blocks speak of.

    Raises:
        InvalidRequest: a line is no `name : value`, or a number is none; quotes it.
    """
    found: list[Accelerator] = []
    card, listing, headed = context.card, False, False
    blocks = list(_blocks(lines))
    _complete(lines, [block for block, _ in blocks])
    for count, (block, users) in enumerate(blocks):
        if count > 2 * MAX_DEVICES:
            raise malformed(lines[0], f"more than {MAX_DEVICES} devices follow")
        if "npuid" in block:
            card = integer(block["npuid"][1], block["npuid"][0])
        listing |= "totalcount" in block
        if _is_of_mcu(block):
            continue
        anonymous = block.keys().isdisjoint({"npuid", "chipid"}) and not block.keys().isdisjoint(_HEALTH) and not headed
        headed = block.keys() == {"npuid", "chipcount"} and not listing
        die = context.die if context.card is None or card == context.card else None  # another's, without its command
        part = _accelerator(block, users, context.card if anonymous else card, die)
        if part is not None:
            found.append(part)
        elif listing and "npuid" in block:
            found.append(Accelerator("ascend", card=card))
    return Reading("npu-smi", f"info {context.what}".strip(), lines[0].number, tuple(found), problems=_problems(lines))


def _complete(lines: list[Line], blocks: list[Block]) -> None:
    """Refuse a last line that may be cut off: no newline ends it, and its chip's number, which ends all, is missing."""
    headed = any(block.keys() == {"npuid", "chipcount"} for block in blocks[:-1])
    closed = not blocks or not blocks[-1].keys().isdisjoint({"npuid", "chipid", "chipname", *_HEALTH})
    if headed and not closed and lines[-1].text.strip() and not lines[-1].ended:
        raise malformed(lines[-1], "this output is cut off: the Chip ID that closes it is missing")


def _blocks(lines: list[Line]) -> Iterator[tuple[Block, list[Process]]]:
    block: Block = {}
    users: list[Process] = []
    for line, key, value in _pairs(lines):
        process = _PROCESS.search(line.text)
        if process is not None:
            users.append(_user(process, line))
            continue
        if (not key or key in block or _begins(key, block)) and (block or users):
            yield block, users
            block, users = {}, []
        if key:
            block[key] = (line, value)
    if block or users:
        yield block, users


def _begins(key: str, block: Block) -> bool:
    """Whether a name begins another output's block: its NPU, its count, or a health under more than numbers."""
    return key in {"npuid", "totalcount"} or (key in _HEALTH and not block.keys() <= {"npuid", "chipid"})


def _pairs(lines: list[Line]) -> Iterator[tuple[Line, str, str]]:
    """Names and values; a value that goes on over several (spaced) lines in one piece; "" for an empty line."""
    waiting: list[tuple[Line, str, str]] = []  # a pair, and empty lines behind it
    for line in lines:
        name, colon, value = line.text.strip().partition(":")
        key = re.sub(r"\s+", "", name).lower()
        if key and not colon:
            if _NOTE.fullmatch(line.text.strip()) is None:
                raise malformed(line, "this is not `name : value`")
            continue
        if colon and not key:
            if not waiting:
                raise malformed(line, "this value has no name")
            above = waiting[0]
            waiting = [(above[0], above[1], f"{above[2]}\n{value.strip()}")]
            continue
        if key:
            yield from waiting
            waiting = []
        waiting.append((line, key, value.strip()))
    yield from waiting


def _user(match: re.Match[str], line: Line) -> Process:
    amount = integer(match[4], line)
    factor = MIB if match[3].upper() == "MB" else 1
    return Process(int(match[1]), match[2].strip() or None, None if amount is None else amount * factor)


def _is_of_mcu(block: Block) -> bool:
    return "chipname" in block and block["chipname"][1].strip().lower() == "mcu"


def _accelerator(block: Block, users: list[Process], card: int | None, die: int | None) -> Accelerator | None:
    """What a block says of a chip; `None` where it only counts, or heads the blocks below."""
    values: dict[str, Any] = {}
    for key, (name, convert) in _FIELDS.items():
        if key in block:
            values[name] = convert(block[key][1], block[key][0])
    values.setdefault("card", card)
    if values.get("die") is None:
        values["die"] = die
    if "chipname" in block and known(block["chipname"][1]) is not None:
        values["product"] = product(block["chipname"][1])
        values["architecture"] = generation(values["product"])
    values |= _memory(block)
    rates = {name: percent(block[key][1], block[key][0]) for key, name in _RATES.items() if key in block}
    errors: dict[str, Any] = {
        name: integer(block[whole][1], block[whole][0])
        for key, name in _ECC.items()
        for whole in (f"hbm{key}", f"ddr{key}", key)
        if whole in block and (whole.startswith("hbm") or f"hbm{key}" not in block)
    }
    ecc = Ecc(**errors)
    health = _health(block, ecc)
    said = {name for name, value in values.items() if value is not None} - {"card", "die"}
    if not (said or rates or errors or users or health != Health() or "chipid" in block):
        return None
    return Accelerator(
        "ascend", **values, utilisation=Utilisation(**rates), ecc=ecc, health=health, processes=tuple(users)
    )


def _memory(block: Block) -> dict[str, Any]:
    for key, kind in _CAPACITIES:
        if key in block:
            total = integer(block[key][1], block[key][0])
            if total:
                return {"memory_kind": kind, "memory_total": total * MIB}
    return {}


def _health(block: Block, ecc: Ecc) -> Health:
    key = next((key for key in _HEALTH if key in block), None)
    if key is None:
        state = STATES["unknown"]
    else:
        line, text = block[key]
        found = STATES.get(text.strip().lower())
        if found is None:
            raise malformed(line, f"{text[:40]!r} is no health that is known ({', '.join(STATES)})")
        state = found
    reasons = [part.strip() for part in block.get("errorinformation", (None, ""))[1].split("\n") if known(part)]
    codes = _codes(block)
    events = _EVENT.findall(block.get("faulteventinformation", (None, ""))[1])
    health = Health(state)
    if events:
        health = health.at_least(_SEVERITIES[max(int(severity) for _, severity in events)])
        codes = (*codes, *(code.upper() for code, _ in events[:128]))
        reasons += [f"fault event 0x{code}, severity {severity}" for code, severity in events]
    if "compatibility" in block and (known(block["compatibility"][1]) or "OK").upper() != "OK":
        reasons.append(f"driver and firmware: compatibility {block['compatibility'][1]}")
    said = faults.weighed(Health(health.state, tuple(reasons[:_MOST_REASONS]), codes))
    beside = "ddrdoublebiterrorcount" if "hbmdoublebiterrorcount" in block else ""  # the first 910 has both memories
    if beside in block and (count := integer(block[beside][1], block[beside][0])):
        said = said.at_least("alarm", f"{count} double bit errors of the DDR")
    return judged(said, ecc, "ascend")


def _codes(block: Block) -> tuple[str, ...]:
    if "errorcode" not in block:
        return ()
    line, text = block["errorcode"]
    found = (known(text) or "").replace(",", " ").split()
    for code in found:
        if not _CODES.fullmatch(code.removeprefix("0x")):
            raise malformed(line, f"{code[:40]!r} is not a code in hexadecimal")
    return tuple(code.upper().removeprefix("0X") for code in found[:128])


def _problems(lines: list[Line]) -> tuple[str, ...]:
    """A count that does not fit the blocks is cut output: say so."""
    totals = [line for line in lines if line.text.strip().lower().startswith("total count")]
    if not totals:
        return ()
    line = totals[0]
    said = integer(line.text.partition(":")[2], line)
    there = sum(1 for other in lines if re.sub(r"\s+", "", other.text.partition(":")[0]).lower() == "npuid")
    if said == there:
        return ()
    return (f"line {line.number}: {said} NPUs are counted, {there} are listed",)

"""Lines, numbers and what all readers share. Numbers are read whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from daulat.core.accelerator import MIB, Accelerator
from daulat.errors import InvalidRequest

MAX_CHARACTERS: Final = 8 * 2**20
MAX_LINES: Final = 100_000
MAX_LINE: Final = 16_384  # characters; a JSON document may stand in one line
MAX_DEVICES: Final = 4096  # more than any supernode has in one output
_QUOTED: Final = 160
_ABSENT: Final = frozenset(
    {"", "-", "--", "na", "n/a", "[n/a]", "null", "none", "unknown", "[unknown error]", "[not supported]"}
    | {
        "not available in wddm driver model",
        "requested functionality has been deprecated",
        "[unknown]",
        "unknown error",
    }
    | {"[gpu is lost]", "gpu is lost", "[gpu requires reset]", "gpu requires reset"}
    | {"not supported", "not available", "[not available]", "insufficient permissions", "[insufficient permissions]"}
)
_INTEGER: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_DECIMAL: Final = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?", re.ASCII)
_COLOURS: Final = re.compile(  # nvidia-smi underlines the header of a topology; a browser eats the escape before it
    r"\x1b\[[0-?]{0,40}[ -/]{0,4}[@-~]|\x1b\][^\x07\x1b\n]{0,200}(?:\x07|\x1b\\)"
    r"|\x1b[()][A-Za-z0-9]|\x1b[=>]|\[(?:0|1|4)?m"
)
_QUOTE: Final = re.compile(r"^\s{0,80}(?:>\s?){1,8}")
_COMMENT: Final = re.compile(r"^\s{0,80}(?:#|//|\*|--)\s{0,8}(?=\+[-=]{2}|\|)")
_RULE: Final = re.compile(r"\+[-=]{10,}\+?")
_LONGEST_PREFIX: Final = 80
_PCI: Final = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.ASCII | re.IGNORECASE)
_MASKED: Final = re.compile(r"[0-9a-fx*]{2,8}:(?:[0-9a-fx*]{2}:)?[0-9a-fx*]{2}\.[0-9x*]", re.ASCII | re.IGNORECASE)
_HIDDEN: Final = re.compile(r"(?:GPU-|MIG-)?[0xX*.-]{4,}|<?\[?(?:redacted|masked|hidden|removed)\]?>?", re.IGNORECASE)
_MOST_PERCENT: Final = 100
_COLDEST: Final = -100  # degrees Celsius; some boards do start below zero
_HOTTEST: Final = 300


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a saved output, numbered from 1. `ended`: a newline stands behind it; else it may be cut off."""

    number: int
    text: str
    ended: bool = True


@dataclass(frozen=True, slots=True)
class Edge:
    """One cell of a topology: how `one` reaches `other`, by the names that the topology has."""

    one: str
    other: str
    kind: str


@dataclass(frozen=True, slots=True)
class Context:
    """What the command line above an output says: `npu-smi info -t usages -i 3 -c 0`."""

    tool: str = ""
    what: str = ""
    card: int | None = None
    die: int | None = None
    device: int | None = None  # hccn_tool's -i: the physical id
    loop: tuple[int, ...] = ()  # the ids that a shell's loop gives to -i, in order
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one output says. `problems` are the tool's own words for what went wrong.

    `whole`: it shows all devices of its machine, so that a later one in the same text takes its place.
    """

    tool: str
    what: str
    line: int
    accelerators: tuple[Accelerator, ...] = ()
    edges: tuple[Edge, ...] = ()
    affinities: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    whole: bool = False


def malformed(line: Line, why: str) -> InvalidRequest:
    """The error for a line that cannot be read: its number, the reason, its words."""
    words = line.text.strip()
    quoted = words if len(words) <= _QUOTED else f"{words[:_QUOTED]} ..."
    return InvalidRequest(f"line {line.number}: {why}: {quoted!r}", code="malformed_output")


def split(text: str) -> list[Line]:
    """All lines of a text.

    Raises:
        InvalidRequest: it is larger than any tool's output.
    """
    if len(text) > MAX_CHARACTERS or text.count("\n") > MAX_LINES:
        raise InvalidRequest(
            f"at most {MAX_CHARACTERS} characters and {MAX_LINES} lines are read", code="malformed_output"
        )
    cleaned = _COLOURS.sub("", text.replace("\r\n", "\n").removeprefix("\ufeff").replace("\xa0", " "))
    lines = [Line(number, line.rstrip()) for number, line in enumerate(_unquoted(cleaned.split("\n")), 1)]
    lines[-1] = replace(lines[-1], ended=False)
    for line in lines:
        long = len(line.text) > MAX_LINE and "--query-" not in line.text  # a list of names may be longer
        if long and not line.text.lstrip().startswith(("{", "[{")):
            raise malformed(line, f"a line has at most {MAX_LINE} characters")
    return lines


def _unquoted(lines: list[str]) -> list[str]:
    """The lines without what people and logs put before them: `> `, a comment's `# `, a container's name."""
    said = [line for line in lines if line.strip()]
    if said and sum(_QUOTE.match(line) is not None for line in said) * 2 > len(said):
        lines = [_QUOTE.sub("", line, count=1) for line in lines]
    lines = [_COMMENT.sub("", line, count=1) for line in lines]
    prefix = ""
    for at, line in enumerate(lines):
        rule = _RULE.search(line[: _LONGEST_PREFIX + 20])
        if rule is not None:
            prefix = line[: rule.start()] if "|-" not in line[: rule.start()] else ""
        if prefix.strip() and line.startswith(prefix):
            lines[at] = line[len(prefix) :]
    return lines


def complete(rows: list[Line], cells: int | None = None, separator: str | None = None) -> None:
    """Refuse a last row that may be cut off: no newline ends it, and its last cell begins another row's last cell.

    `cells`: how many a row has where the last may hold spaces.

    Raises:
        InvalidRequest: it may be; quotes it.
    """
    if not rows or rows[-1].ended or not rows[-1].text.strip():
        return
    *above, last = (line.text.split(separator, -1 if cells is None else cells - 1)[-1:] for line in rows)
    short = last[0].strip() if last else ""
    if any(other and other[0].strip() != short and other[0].strip().startswith(short) for other in above):
        raise malformed(rows[-1], f"this row may be cut off in {short[:40]!r}: a newline ends a row that is whole")


def known(text: str) -> str | None:
    """A value's words, or `None` where the tool says that it has none."""
    stripped = text.strip()
    return None if stripped.lower() in _ABSENT else stripped


def integer(text: str, line: Line) -> int | None:
    """A whole number, 0 or more; `None` for `NA`, `-` and their like."""
    found = known(text)
    if found is None:
        return None
    if not _INTEGER.fullmatch(found):
        raise malformed(line, f"{found[:40]!r} is not a whole number")
    return int(found)


def decimal(text: str, line: Line) -> float | None:
    """A number; `None` for `NA`, `-` and their like."""
    found = known(text)
    if found is None:
        return None
    if not _DECIMAL.fullmatch(found):
        raise malformed(line, f"{found[:40]!r} is not a number")
    return float(found)


def percent(text: str, line: Line) -> float | None:
    """A share of 0 to 100; a `%` behind it is allowed."""
    found = decimal(text.strip().removesuffix("%"), line)
    if found is not None and not 0 <= found <= _MOST_PERCENT:
        raise malformed(line, f"{found:g} is not a percentage")
    return found


def watts(text: str, line: Line) -> float | None:
    found = decimal(text.strip().removesuffix("W"), line)
    if found is not None and found < 0:
        raise malformed(line, f"{found:g} W is not a power")
    return found


def celsius(text: str, line: Line) -> float | None:
    found = decimal(text.strip().removesuffix("C").removesuffix("\u00b0").strip(), line)
    if found is not None and not _COLDEST <= found <= _HOTTEST:
        raise malformed(line, f"{found:g} C is not a temperature")
    return found


_UNITS: Final = {"b": 1, "bytes": 1, "kb": 2**10, "kib": 2**10, "mb": 2**20, "mib": 2**20, "gb": 2**30, "gib": 2**30}


def quantity(text: str, line: Line, *, unit: str = "") -> int | None:
    """Bytes from `24576 MiB`, or from a bare number in `unit`. Vendors write MB and mean 2^20 bytes."""
    found = known(text)
    if found is None:
        return None
    number, _, said = found.partition(" ")
    factor = _UNITS.get((said.strip() or unit).lower())
    if factor is None:
        raise malformed(line, f"{found[:40]!r} is not an amount of memory")
    value = integer(number, line)
    return None if value is None else value * factor


def within(used: int | None, total: int | None, line: Line) -> None:
    """Refuse more memory (bytes) in use than there is, in any tool's output.

    Raises:
        InvalidRequest: there is; quotes the line.
    """
    if used is not None and total is not None and used > total:
        raise malformed(line, f"{used // MIB} of {total // MIB} MB are used, which is more than there is")


def pci(text: str, line: Line) -> str | None:
    """A PCI address as Linux writes it: `0000:c1:00.0`; `None` where it was masked (`0000:xx:00.0`)."""
    found = known(text)
    if found is None:
        return None
    match = _PCI.fullmatch(found)
    if match is None and _MASKED.fullmatch(found) is not None and ("x" in found.lower() or "*" in found):
        return None  # somebody made it unreadable before showing it
    if match is None:
        raise malformed(line, f"{found[:40]!r} is not a PCI address")
    return f"{(match[1] or '0000')[-4:]}:{match[2]}".lower()


def word(text: str, _line: Line) -> str | None:
    """Any words."""
    return known(text)


def identity(text: str, _line: Line) -> str | None:
    """A serial number or unique id; `None` where it was masked before somebody showed it."""
    found = known(text)
    return None if found is None or _HIDDEN.fullmatch(found) is not None else found


Convert = Callable[[str, Line], object]

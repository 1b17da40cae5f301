"""Topologies of `npu-smi info -t topo` and `nvidia-smi topo -m`, and the device files of `/dev`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from daulat.core.accelerator import Accelerator
from daulat.fleet.outputs.lines import MAX_DEVICES, Edge, Line, Reading, complete, malformed

_NAME: Final = re.compile(r"(?:NPU|GPU|Phy-ID|NIC|Chip|mlx\d?_|bond)[ _]?\d{1,5}\b", re.IGNORECASE)
_TAIL: Final = re.compile(r"\s*(?:CPU Affinity)?\s*(?:NUMA Affinity)?\s*(?:GPU NUMA ID)?\s*", re.IGNORECASE)
_KIND: Final = re.compile(
    r"X|SELF|SYS|NODE|PHB|PIX|PXB|HCCS|SIO|HCCS_SW|UB|XLINK|XLINK_SW|NA|N/A|NV\d{1,3}|XGMI|PCIE", re.IGNORECASE
)
_CPUS: Final = re.compile(r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*")
_DEVICE: Final = re.compile(r"(?:\S.*\s)?(?:/dev/)?davinci(\d{1,5})")
_NOT_NUMBERED: Final = re.compile(r"(?:.*\s)?(?:/dev/)?(?:davinci_manager(?:_docker)?|devmm_svm|hisi_hdc|total \d+)")


def is_topology(text: str) -> bool:
    """Whether a line is the header of a topology: names of devices, and affinity at most behind them."""
    return len(_NAME.findall(text)) > 0 and _TAIL.fullmatch(_NAME.sub("", text)) is not None


def read_topology(lines: list[Line], tool: str) -> Reading:
    """A square of relations, and the CPUs near each device where they are told.

    Raises:
        InvalidRequest: a row has fewer relations than the header has names, or one that does not exist; quotes it.
    """
    head, *rows = lines
    names = [_plain(name) for name in _NAME.findall(head.text)]
    if len(names) > MAX_DEVICES:
        raise malformed(head, f"more than {MAX_DEVICES} devices")
    complete(rows)
    edges: list[Edge] = []
    near: list[tuple[str, str]] = []
    seen: set[str] = set()
    for line in rows:
        match = _NAME.match(line.text.strip())
        if match is None:
            raise malformed(line, "a row begins with the name of its device")
        one = _plain(match[0])
        if one in seen or one not in names:
            raise malformed(line, f"{one} is there twice, or is not in the header")
        seen.add(one)
        cells = line.text.strip()[match.end() :].split()
        edges += _row(line, one, names, cells)
        if len(cells) > len(names) and _CPUS.fullmatch(cells[len(names)]):
            near.append((one, cells[len(names)]))
    return Reading(tool, "topo", head.number, edges=tuple(edges), affinities=tuple(near))


def _row(line: Line, one: str, names: list[str], cells: list[str]) -> Iterator[Edge]:
    if len(cells) < len(names):
        raise malformed(line, f"{len(cells)} relations for {len(names)} devices")
    for other, cell in zip(names, cells, strict=False):
        if _KIND.fullmatch(cell) is None:
            raise malformed(line, f"{cell[:20]!r} is no relation of two devices")
        if (cell.upper() in {"X", "SELF"}) != (one == other):
            raise malformed(line, f"X stands for the device itself, and {other} has {cell}")
        if one != other:
            yield Edge(one, other, cell.upper())


def _plain(name: str) -> str:
    return re.sub(r"\s+", "", name)


def is_device_file(text: str) -> bool:
    """Whether a line is of `ls /dev/davinci*`, long or short."""
    bare = text.strip()
    return _DEVICE.fullmatch(bare) is not None or _NOT_NUMBERED.fullmatch(bare) is not None or _several(bare)


def _several(text: str) -> bool:
    words = text.split()
    return len(words) > 1 and all(re.fullmatch(r"(?:/dev/)?davinci(?:\d{1,5}|_manager)", word) for word in words)


def read_device_files(lines: list[Line]) -> Reading:
    """`davinciN`: N is the physical id, of one digit or more."""
    complete(lines)
    numbers: list[int] = []
    for line in lines:
        for name in line.text.split() if _several(line.text) else [line.text.strip()]:
            match = _DEVICE.fullmatch(name)
            if match is not None:
                numbers.append(int(match[1]))
                if len(numbers) > MAX_DEVICES:
                    raise malformed(line, f"more than {MAX_DEVICES} devices")
            elif _NOT_NUMBERED.fullmatch(name) is None:
                raise malformed(line, "this is no device file of an NPU")
    found = tuple(Accelerator("ascend", physical_id=number) for number in sorted(set(numbers)))
    return Reading("/dev", "davinci", lines[0].number, found)

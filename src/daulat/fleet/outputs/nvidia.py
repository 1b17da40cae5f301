"""`nvidia-smi -q`, as a tree by indentation or as XML (`-q -x`): one branch a GPU, with its MIG devices in it.

Releases and both forms differ in names alone, so a fact has several paths; the first that says something holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from xml.parsers import expat

from daulat.core.accelerator import Accelerator, Ecc, Health, Process, Utilisation
from daulat.fleet.outputs.lines import (
    MAX_DEVICES,
    Convert,
    Line,
    Reading,
    celsius,
    identity,
    integer,
    known,
    malformed,
    pci,
    percent,
    quantity,
    watts,
    word,
)

_GPU: Final = re.compile(r"GPU ([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])")
_BLANKS: Final = re.compile(r"\s+")
_DEEPEST: Final = 12  # no release has more than eight levels

Path = tuple[str, ...]
Node = tuple[Path, Line, str | None]  # path, line, value

_FIELDS: Final[Mapping[str, tuple[Convert, tuple[str, ...]]]] = {
    "product": (word, ("Product Name", "product_name")),
    "architecture": (word, ("Product Architecture", "product_architecture")),
    "physical_id": (integer, ("Minor Number", "minor_number")),
    "serial": (identity, ("Serial Number", "serial")),
    "unique_id": (identity, ("GPU UUID", "uuid")),
    "board": (word, ("Board Part Number", "board_part_number")),
    "firmware": (word, ("VBIOS Version", "vbios_version")),
    "memory_total": (quantity, ("FB Memory Usage/Total", "fb_memory_usage/total")),
    "memory_used": (quantity, ("FB Memory Usage/Used", "fb_memory_usage/used")),
    "temperature": (celsius, ("Temperature/GPU Current Temp", "temperature/gpu_temp")),
    "memory_temperature": (celsius, ("Temperature/Memory Current Temp", "temperature/memory_temp")),
    "power": (
        watts,
        (
            "GPU Power Readings/Average Power Draw",
            "GPU Power Readings/Power Draw",
            "GPU Power Readings/Instantaneous Power Draw",
            "Power Readings/Power Draw",
            "gpu_power_readings/average_power_draw",
            "gpu_power_readings/power_draw",
            "gpu_power_readings/instant_power_draw",
            "power_readings/power_draw",
        ),
    ),
}
_RATES: Final[Mapping[str, tuple[str, ...]]] = {
    "core": ("Utilization/Gpu", "Utilization/GPU", "utilization/gpu_util"),
    "memory_bandwidth": ("Utilization/Memory", "utilization/memory_util"),
}
_ECC: Final[Mapping[str, tuple[str, ...]]] = {
    f"{total}{bit}": (
        f"ECC Errors/{since}/DRAM {new}",
        f"ECC Errors/{since}/{old} Bit/Device Memory",
        f"ecc_errors/{since.lower()}/dram_{new.lower()}",
        f"ecc_errors/{since.lower()}/{old.lower()}_bit/device_memory",
    )
    for total, since in (("", "Volatile"), ("total_", "Aggregate"))
    for bit, new, old in (("single_bit", "Correctable", "Single"), ("double_bit", "Uncorrectable", "Double"))
}
_WRONG: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("a reset is required", ("GPU Reset Status/Reset Required", "gpu_reset_status/reset_required")),
    (
        "drain and reset are recommended",
        ("GPU Reset Status/Drain and Reset Recommended", "gpu_reset_status/drain_and_reset_recommended"),
    ),
    (
        "remapping of memory rows failed",
        ("Remapped Rows/Remapping Failure Occurred", "remapped_rows/remapped_row_failure"),
    ),
    (
        "pages of memory wait for their retirement",
        (
            "Retired Pages/Pending Page Blacklist",
            "Retired Pages/Pending Retirement",
            "retired_pages/pending_blacklist",
            "retired_pages/pending_retirement",
        ),
    ),
)
_HOT: Final = tuple(
    path
    for group, tag in (
        ("Clocks Event Reasons", "clocks_event_reason"),
        ("Clocks Throttle Reasons", "clocks_throttle_reason"),
    )
    for path in (
        f"{group}/HW Thermal Slowdown",
        f"{group}/HW Slowdown/HW Thermal Slowdown",
        f"{group}/SW Thermal Slowdown",
        f"{tag}s/{tag}_hw_thermal_slowdown",
        f"{tag}s/{tag}_sw_thermal_slowdown",
    )
)
_ACTION: Final = ("GPU Recovery Action", "gpu_recovery_action")
_MIG: Final[Mapping[str, tuple[Convert, tuple[str, ...]]]] = {
    "unique_id": (identity, ("MIG UUID", "uuid")),
    "memory_total": (quantity, ("FB Memory Usage/Total", "Shared FB Memory Usage/Total", "fb_memory_usage/total")),
    "memory_used": (quantity, ("FB Memory Usage/Used", "Shared FB Memory Usage/Used", "fb_memory_usage/used")),
}
_INSTANCES: Final = (
    ("GI", ("GPU Instance ID", "gpu_instance_id")),
    ("CI", ("Compute Instance ID", "compute_instance_id")),
)
_OTHERS: Final = frozenset({"MIG Device", "Processes", "mig_devices", "processes", "Accounted Processes"})


class _Said:
    """What a branch says, by path; the first time that a path is there counts."""

    def __init__(self, line: Line, nodes: list[Node]) -> None:
        self._blank = (line, "")
        self._values: dict[str, tuple[Line, str]] = {}
        for path, at, value in nodes:
            if value is not None:
                self._values.setdefault("/".join(path), (at, value))

    def words(self, paths: tuple[str, ...]) -> tuple[Line, str]:
        found = (self._values[path] for path in paths if path in self._values)
        return next(((at, text) for at, text in found if known(text) is not None), self._blank)

    def take(self, paths: tuple[str, ...], convert: Convert) -> Any:
        at, text = self.words(paths)
        return convert(text, at)


def is_nvidia_q(text: str) -> bool:
    return "NVSMI LOG" in text


def is_nvidia_xml(text: str) -> bool:
    return text.lstrip().startswith(("<?xml", "<!DOCTYPE nvidia_smi_log", "<nvidia_smi_log"))


def read_q(lines: list[Line]) -> Reading:
    """All GPUs of `nvidia-smi -q`, and their MIG devices.

    Raises:
        InvalidRequest: a number cannot be read; quotes the line.
    """
    return _read(lines[0], _tree(lines), "-q")


def read_xml(lines: list[Line]) -> Reading:
    """The same out of `nvidia-smi -q -x`. Entities are refused, its DTD is not looked at.

    Raises:
        InvalidRequest: as of `read_q`; or this is no XML, or XML of something else.
    """
    return _read(lines[0], _elements(lines), "-q -x")


def _read(first: Line, nodes: Iterator[Node], what: str) -> Reading:
    driver = ""
    attached: tuple[Line, int] | None = None
    gpus: list[tuple[Line, str, list[Node]]] = []
    for path, line, value in nodes:
        match = _GPU.fullmatch(path[0])
        if match is None:
            if path in {("Driver Version",), ("driver_version",), ("KMD Version",), ("kmd_version",)}:
                driver = known(value or "") or ""
            if path in {("Attached GPUs",), ("attached_gpus",)}:
                count = integer(value or "", line)
                attached = None if count is None else (line, count)
            continue
        if len(path) == 1:
            gpus.append((line, match[1], []))
        elif gpus:
            gpus[-1][2].append((path[1:], line, value))
        if len(gpus) > MAX_DEVICES:
            raise malformed(line, f"more than {MAX_DEVICES} GPUs")
    problems: tuple[str, ...] = ()
    if attached is not None and len(gpus) != attached[1]:  # so it is with `-i`, too
        problems = (f"line {attached[0].number}: {attached[1]} GPUs are attached, {len(gpus)} are shown",)
    found: list[Accelerator] = []
    for index, (line, bus, branch) in enumerate(gpus):
        gpu = _gpu(index, bus, line, branch, driver or None)
        found += [gpu, *_partitions(gpu, branch)]
    return Reading("nvidia-smi", what, first.number, tuple(found), problems=problems)


def _elements(lines: list[Line]) -> Iterator[Node]:
    """The elements of an XML document in order, those of a GPU under the name that `-q` gives it."""
    last = next((at for at, line in enumerate(lines) if line.text.strip() == "</nvidia_smi_log>"), len(lines))
    lines = lines[: last + 1]
    found: list[Node] = []
    stack: list[str] = []
    text: list[str] = []
    parser = expat.ParserCreate("utf-8")

    def line() -> Line:
        return lines[min(max(parser.CurrentLineNumber, 1), len(lines)) - 1]

    def start(tag: str, attributes: dict[str, str]) -> None:
        if not stack and tag != "nvidia_smi_log":
            raise malformed(line(), "this XML is not of nvidia-smi")
        if len(stack) > _DEEPEST:
            raise malformed(line(), "this is nested too deep")
        stack.append(f"GPU {attributes.get('id', '')}" if tag == "gpu" and len(stack) == 1 else tag)
        text.clear()
        if len(stack) > 1:
            found.append((tuple(stack[1:]), line(), None))

    def end(_tag: str) -> None:
        value = "".join(text).strip()
        if value and len(stack) > 1:
            found.append((tuple(stack[1:]), line(), value))
        stack.pop()
        text.clear()

    def entity(*_said: Any) -> None:
        raise malformed(line(), "XML with entities of its own is not read")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text.append
    parser.EntityDeclHandler = entity
    try:
        parser.Parse("\n".join(one.text for one in lines).encode(errors="replace"), True)
    except expat.ExpatError as error:
        at = lines[min(max(error.lineno, 1), len(lines)) - 1]
        raise malformed(at, f"this is not XML ({expat.errors.messages[error.code]})") from None
    return iter(found)


def _tree(lines: list[Line]) -> Iterator[Node]:
    """Every line under the names above it that are indented less."""
    above: list[tuple[int, str]] = []
    for line in lines:
        text = line.text.expandtabs()
        bare = text.strip()
        if not bare or bare.startswith("==="):
            continue
        depth = len(text) - len(text.lstrip())
        match = _GPU.fullmatch(bare)
        name, colon, value = (bare, "", "") if match is not None else bare.partition(" : ")
        if not colon and match is None and ":" in bare and bare.rstrip().endswith(":"):
            name, colon = bare.removesuffix(":"), ":"
        while above and above[-1][0] >= depth:
            above.pop()
        above.append((depth, _BLANKS.sub(" ", name.strip())))
        if len(above) > _DEEPEST:
            raise malformed(line, "this is indented too deep")
        yield tuple(name for _, name in above), line, value.strip() if colon else None


def _gpu(index: int, bus: str, line: Line, nodes: list[Node], driver: str | None) -> Accelerator:
    said = _Said(line, [node for node in nodes if node[0][0] not in _OTHERS])
    ecc = Ecc(**{name: said.take(paths, integer) for name, paths in _ECC.items()})
    mig = said.words(("MIG Mode/Current", "mig_mode/current_mig"))[1]
    return Accelerator(
        "nvidia",
        **{name: said.take(paths, convert) for name, (convert, paths) in _FIELDS.items()},
        card=index,
        driver=driver,
        pci=pci(bus, line),
        utilisation=Utilisation(**{name: said.take(paths, percent) for name, paths in _RATES.items()}),
        ecc=ecc,
        health=_health(said, ecc),
        processes=tuple(_processes(nodes)),
        features=("mig",) if mig == "Enabled" else (),
    )


def _health(said: _Said, ecc: Ecc) -> Health:
    """NVIDIA has no one word for health: it is what recovery the driver asks for, and what is lost."""
    action = known(said.words(_ACTION)[1])
    reasons = [] if action is None else [f"the driver asks for recovery: {action}"]
    reasons += [words for words, paths in _WRONG if said.words(paths)[1] == "Yes"]
    if ecc.double_bit:
        reasons.append(f"{ecc.double_bit} uncorrectable errors of the memory")
    if any(said.words((path,))[1] == "Active" for path in _HOT):
        return Health("alarm" if reasons else "warning", (*reasons, "it is slowed down because it is hot"))
    if reasons:
        return Health("critical" if action is not None or ecc.double_bit else "alarm", tuple(reasons))
    return Health("ok" if known(said.words(_FIELDS["product"][1])[1]) is not None else "unknown")


def _processes(nodes: list[Node]) -> Iterator[Process]:
    pid: int | None = None
    name: str | None = None
    for path, line, value in nodes:
        if path[0] not in {"Processes", "processes"} or value is None:
            continue
        if path[-1] in {"Process ID", "pid"}:
            pid, name = integer(value, line), None
        elif path[-1] in {"Name", "process_name"}:
            name = known(value)
        elif path[-1] in {"Used GPU Memory", "used_memory"} and pid is not None:
            yield Process(pid, name, quantity(value, line))


def _partitions(gpu: Accelerator, nodes: list[Node]) -> Iterator[Accelerator]:
    """One accelerator a MIG device: its own memory, the GPU's health."""
    found: list[list[Node]] = []
    for path, line, value in nodes:
        inner = path[1:] if path[0] == "MIG Device" else path[2:] if path[:2] == ("mig_devices", "mig_device") else None
        if inner is None:
            continue
        if not inner:
            found.append([])
        elif found:
            found[-1].append((inner, line, value))
    for number, branch in enumerate(found):
        said = _Said(Line(0, ""), branch)
        index = known(said.words(("Index", "index"))[1]) or str(number)
        places = [(short, said.words(paths)[1]) for short, paths in _INSTANCES]
        yield replace(
            gpu,
            **{name: said.take(paths, convert) for name, (convert, paths) in _MIG.items()},
            partition=f"MIG {index}",
            features=tuple(f"{short} {place}" for short, place in places if known(place) is not None),
            parent=gpu.unique_id or gpu.pci,
            utilisation=Utilisation(),
            power=None,
            processes=(),
        )

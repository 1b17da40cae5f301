"""`nvidia-smi -q`, as a tree by indentation or as XML (`-q -x`): one branch a GPU, with its MIG devices in it.

Releases and both forms differ in names alone, so a fact has several paths; the first that says something holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from xml.parsers import expat

from daulat.core.accelerator import Accelerator, Ecc, Health, Process, Utilisation, judged
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
    within,
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
_SRAM: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {  # counts that are summed
    f"{total}sram_double_bit": (
        *(
            (f"ECC Errors/{since}/SRAM Uncorrectable{kind}", f"ecc_errors/{since.lower()}/sram_uncorrectable{tag}")
            for kind, tag in (("", ""), (" Parity", "_parity"), (" SEC-DED", "_secded"))
        ),
        *(
            (f"ECC Errors/{since}/Double Bit/{place}", f"ecc_errors/{since.lower()}/double_bit/{tag}")
            for place, tag in (
                *(("Register File", "register_file"), ("L1 Cache", "l1_cache"), ("L2 Cache", "l2_cache")),
                *(("Texture Memory", "texture_memory"), ("Texture Shared", "texture_shm"), ("CBU", "cbu")),
            )
        ),
    )
    for total, since in (("", "Volatile"), ("total_", "Aggregate"))
}
_COUNTED: Final = frozenset({"ECC Errors", "ecc_errors"})  # the section without which nothing is known of the health
_MEMORY: Final = frozenset({*_COUNTED, "Retired Pages", "retired_pages", "Remapped Rows", "remapped_rows"})
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
        "the errors of its SRAM are more than the vendor bears",
        ("ECC Errors/Aggregate/SRAM Threshold Exceeded", "ecc_errors/aggregate/sram_threshold_exceeded"),
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
_UNTOLD: Final = "its health is not known: the sections of its ECC errors are not here, or are cut off"
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
    problems = [
        f"line {line.number}: GPU {at}: {_UNTOLD}" for at, (line, _, nodes) in enumerate(gpus) if not _told(nodes)
    ]
    if attached is not None and len(gpus) != attached[1]:  # so it is with `-i`, too
        problems.append(f"line {attached[0].number}: {attached[1]} GPUs are attached, {len(gpus)} are shown")
    found: list[Accelerator] = []
    for index, (line, bus, branch) in enumerate(gpus):
        gpu = _gpu(index, bus, line, branch, driver or None)
        found += [gpu, *_partitions(gpu, branch)]
    return Reading("nvidia-smi", what, first.number, tuple(found), problems=tuple(problems), whole=True)


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
    ecc = _ecc(said)
    mig = said.words(("MIG Mode/Current", "mig_mode/current_mig"))[1]
    return Accelerator(
        "nvidia",
        **_fields(said, _FIELDS),
        card=index,
        driver=driver,
        pci=pci(bus, line),
        utilisation=Utilisation(**{name: said.take(paths, percent) for name, paths in _RATES.items()}),
        ecc=ecc,
        health=_health(said, ecc, told=_told(nodes)),
        processes=tuple(_processes(nodes)),
        features=("mig",) if mig == "Enabled" else (),
    )


def _fields(said: _Said, table: Mapping[str, tuple[Convert, tuple[str, ...]]]) -> dict[str, Any]:
    values = {name: said.take(paths, convert) for name, (convert, paths) in table.items()}
    within(values["memory_used"], values["memory_total"], said.words(table["memory_used"][1])[0])
    return values


def _ecc(said: _Said) -> Ecc:
    counts = {name: said.take(paths, integer) for name, paths in _ECC.items()}
    for name, places in _SRAM.items():
        found = [count for paths in places if (count := said.take(paths, integer)) is not None]
        counts[name] = sum(found) if found else None
    return Ecc(**counts)


def _told(nodes: list[Node]) -> bool:
    """Whether a GPU's branch has the sections that tell its health, to their end: a later one follows."""
    sections = [path[0] for path, _, _ in nodes]
    return bool(sections) and not _COUNTED.isdisjoint(sections) and sections[-1] not in _MEMORY


def _health(said: _Said, ecc: Ecc, *, told: bool) -> Health:
    """NVIDIA has no one word for health: it is what recovery the driver asks for, and what is lost."""
    health = Health("ok")
    if (action := known(said.words(_ACTION)[1])) is not None:
        health = health.at_least("critical", f"the driver asks for recovery: {action}")
    health = health.at_least("ok", *(words for words, paths in _WRONG if said.words(paths)[1] == "Yes"))
    if health.reasons:
        health = health.at_least("alarm")
    health = judged(health, ecc, "nvidia")
    if any(said.words((path,))[1] == "Active" for path in _HOT):
        health = health.at_least("warning", "it is slowed down because it is hot")
    return health if told or not health.fit else replace(health, state="unknown")


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
            **_fields(said, _MIG),
            partition=f"MIG {index}",
            features=tuple(f"{short} {place}" for short, place in places if known(place) is not None),
            parent=gpu.unique_id or gpu.pci,
            utilisation=Utilisation(),
            power=None,
            processes=(),
        )

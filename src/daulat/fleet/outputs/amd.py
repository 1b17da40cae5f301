"""AMD, as well as it goes: what `rocm-smi` and `amd-smi list|static|metric` say, as JSON and as text.

Written after the tools' public documentation; nothing here was tried on a device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from daulat.core.accelerator import Accelerator, Utilisation
from daulat.errors import InvalidRequest
from daulat.fleet.outputs.lines import (
    MAX_DEVICES,
    Convert,
    Line,
    Reading,
    celsius,
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

_CARD: Final = re.compile(r"card(\d{1,4})")
_WIDEST: Final = 400  # characters of a first line
_TREE: Final = re.compile(r"GPU: \d{1,4}")
_LINE: Final = re.compile(r"GPU\[(\d{1,4})\]\s*:\s*([^:]{1,80}?)\s*:\s*(.*)")
_CONCISE: Final = re.compile(r"(?:Device|GPU)\s+.*VRAM%\s+GPU%")
_ROW: Final = re.compile(r"\s*(\d{1,4})\s+\S")
_HEAT: Final = re.compile(r"\s(-?\d{1,3}(?:\.\d{1,3})?)\s?(?:\u00b0C|c)(?=\s)")
_POWER: Final = re.compile(r"(?:\u00b0C|c|N/A)\s+(\d{1,5}(?:\.\d{1,3})?)W(?=\s)")
_ROCM: Final[tuple[tuple[str, str, Convert], ...]] = (
    ("card series", "product", word),
    ("card model", "board", word),
    ("unique id", "unique_id", word),
    ("serial number", "serial", word),
    ("pci bus", "pci", pci),
    ("vbios version", "firmware", word),
    ("gfx version", "architecture", word),
    ("vram total memory (b)", "memory_total", integer),
    ("vram total used memory (b)", "memory_used", integer),
    ("temperature (sensor junction) (c)", "temperature", celsius),
    ("temperature (sensor edge) (c)", "temperature", celsius),
    ("temperature (sensor memory) (c)", "memory_temperature", celsius),
    ("current socket graphics package power (w)", "power", watts),
    ("average graphics package power (w)", "power", watts),
)
_SMI: Final[tuple[tuple[str, str, Convert], ...]] = (
    ("asic.market_name", "product", word),
    ("asic.asic_serial", "serial", word),
    ("asic.target_graphics_version", "architecture", word),
    ("uuid", "unique_id", word),
    ("bdf", "pci", pci),
    ("bus.bdf", "pci", pci),
    ("driver.version", "driver", word),
    ("vbios.version", "firmware", word),
    ("vram.size", "memory_total", quantity),
    ("mem_usage.total_vram", "memory_total", quantity),
    ("mem_usage.used_vram", "memory_used", quantity),
    ("temperature.hotspot", "temperature", celsius),
    ("temperature.mem", "memory_temperature", celsius),
    ("power.socket_power", "power", watts),
)


def read_json(lines: list[Line]) -> Reading:
    """All GPUs of one JSON document.

    Raises:
        InvalidRequest: this is no JSON, or JSON of another tool.
    """
    first = lines[0]
    try:
        document = json.loads("\n".join(line.text for line in lines))
    except (ValueError, RecursionError):
        raise malformed(first, "this is not JSON") from None
    if isinstance(document, dict) and any(_CARD.fullmatch(name) for name in document):
        return Reading("rocm-smi", "--json", first.number, tuple(_rocm(document, first)))
    gpus = document.get("gpu_data") if isinstance(document, dict) else document
    if isinstance(gpus, list) and all(isinstance(gpu, dict) and "gpu" in gpu for gpu in gpus):
        return Reading("amd-smi", "--json", first.number, tuple(_smi(gpus, first)))
    raise InvalidRequest(
        f"line {first.number}: this JSON is of no tool that is known (rocm-smi, amd-smi)", code="malformed_output"
    )


def is_text(text: str) -> bool:
    """Whether a line begins an output of amd-smi or rocm-smi that is no JSON."""
    return any(form(text) for form in FORMS)


def _form(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: len(text) <= _WIDEST and pattern.fullmatch(text.strip()) is not None


FORMS: Final = (_form(_TREE), _form(_LINE), _form(_CONCISE))  # of which each begins with lines of its own


def read_text(lines: list[Line]) -> Reading:
    """The same as text: amd-smi's tree, rocm-smi's lines for each GPU, or its table."""
    head = lines[0].text.strip()
    if _TREE.fullmatch(head) is not None:
        return Reading("amd-smi", "", lines[0].number, tuple(_trees(lines)))
    if _LINE.fullmatch(head) is not None:
        said: dict[str, dict[str, str]] = {}
        for line in lines:
            match = _LINE.fullmatch(line.text.strip())
            if match is not None:
                said.setdefault(f"card{match[1]}", {}).setdefault(match[2].strip(), match[3].strip())
        return Reading("rocm-smi", "", lines[0].number, tuple(_rocm(said, lines[0])))
    return Reading("rocm-smi", "", lines[0].number, tuple(filter(None, map(_concise, lines[1:]))))


def _trees(lines: list[Line]) -> Iterator[Accelerator]:
    """`GPU: 0`, and names in capitals below it, indented by what they belong to."""
    gpu: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in [*lines, Line(0, "GPU: 0")]:
        text = line.text.expandtabs()
        name, colon, value = text.strip().partition(":")
        depth = len(text) - len(text.lstrip())
        while above and above[-1][0] >= depth:
            above.pop()
        if _TREE.fullmatch(text.strip()) is not None and not above:
            if gpu:
                yield from _smi([gpu], line if line.number else lines[0])
            gpu = {"gpu": value.strip()}
            above = [(depth, "")]
        elif colon and gpu:
            above.append((depth, f"{name.strip().lower()}."))
            gpu.setdefault("".join(part for _, part in above)[:-1], value.strip())


def _concise(line: Line) -> Accelerator | None:
    """A row of rocm-smi's table: the sensors have units, memory and use come last."""
    match = _ROW.match(line.text)
    if match is None:
        return None
    vram_and_use = line.text.split()[-1]
    heat, power = _HEAT.search(line.text), _POWER.search(line.text)
    return Accelerator(
        "amd",
        card=int(match[1]),
        temperature=None if heat is None else celsius(heat[1], line),
        power=None if power is None else watts(power[1], line),
        utilisation=Utilisation(core=percent(vram_and_use, line) if vram_and_use.endswith("%") else None),
    )


def _rocm(document: Mapping[str, Any], line: Line) -> Iterator[Accelerator]:
    system = document.get("system")
    driver = str(system.get("Driver version", "")) if isinstance(system, dict) else ""
    for name, values in list(document.items())[:MAX_DEVICES]:
        match = _CARD.fullmatch(name)
        if match is None or not isinstance(values, dict):
            continue
        lowered = {key.lower(): str(value) for key, value in values.items()}
        said = _converted(lowered, _ROCM, line)
        core = percent(lowered.get("gpu use (%)", ""), line)
        yield Accelerator("amd", card=int(match[1]), driver=known(driver), utilisation=Utilisation(core=core), **said)


def _smi(gpus: list[dict[str, Any]], line: Line) -> Iterator[Accelerator]:
    for gpu in gpus[:MAX_DEVICES]:
        flat = dict(_flat(gpu))
        card = integer(flat.get("gpu", ""), line)
        core = percent(flat.get("usage.gfx_activity", "").replace(" ", ""), line)
        yield Accelerator("amd", card=card, utilisation=Utilisation(core=core), **_converted(flat, _SMI, line))


def _converted(values: Mapping[str, str], table: tuple[tuple[str, str, Convert], ...], line: Line) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field, convert in table:
        said = values.get(name, "")
        if field not in found and known(said) is not None and not said.startswith("N/A"):  # `N/A (Secondary die)`
            found[field] = convert(said, line)
    within(found.get("memory_used"), found.get("memory_total"), line)
    return found


def _flat(value: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """`a.b` -> words; amd-smi's `{"value": 5, "unit": "MB"}` becomes `5 MB`."""
    for name, inner in value.items():
        if isinstance(inner, dict) and "value" in inner:
            yield f"{above}{name}", f"{inner['value']} {inner.get('unit', '')}".strip()
        elif isinstance(inner, dict) and depth < 4:  # noqa: PLR2004  no document has more
            yield from _flat(inner, f"{above}{name}.", depth + 1)
        else:
            yield f"{above}{name}", str(inner)

"""What accelerators this machine has: every source that is there is asked, and none stops the others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from daulat.adapters.accelerators import cpu, dcmi, nvml
from daulat.adapters.accelerators.tools import Tools
from daulat.core.accelerator import Accelerator
from daulat.errors import InvalidRequest
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture, topology
from daulat.fleet.outputs.lines import Line, Reading

_AT_ONCE: Final = 4  # tools side by side: the driver serialises most of it
_OF_CARD: Final = ("board", "usages", "common")
_OF_DIE: Final = ("health", "ecc", "memory")
_OF_PORT: Final = ("-link", "-ip", "-net_health", "-speed", "-link_stat", "-stat", "-optical")


def discover(tools: Tools | None = None, *, root: Path = Path("/"), deep: bool = True) -> Inventory:
    """This machine's accelerators. `deep` asks card by card and port by port too, which takes a while.

    The errors of an NPU's memory are asked for in any case: its one word for its health may be OK beside them.
    `root`: where `dev`, `proc` and `sys` are, for tests.
    """
    tools = tools or Tools()
    readings = [cpu.read(root), *_ascend(tools, root, deep=deep), *_nvidia(tools), *_amd(tools)]
    readings += [Reading(name, "", 0, problems=(words,)) for name, words in tools.silent.items()]
    return together(readings)


def ask(tools: Tools, name: str, *arguments: str) -> list[Reading]:
    """What a tool's output says; what it says wrongly is a problem, and the others go on."""
    said = tools.run(name, *arguments)
    if said is None or not said.strip():
        return []
    command = f"$ {name} {' '.join(arguments)}"
    try:
        return capture.read(f"{command}\n{said}")
    except InvalidRequest as error:
        return [Reading(name, " ".join(arguments), 0, problems=(f"{command[2:]}: {error.message}",))]


def _ascend(tools: Tools, root: Path, *, deep: bool) -> Iterator[Reading]:
    files = device_files(root / "dev")
    library = dcmi.read()
    if library is not None:
        yield library
    found = ask(tools, "npu-smi", "info")
    if found:
        found += ask(tools, "npu-smi", "info", "-m")
        found += ask(tools, "npu-smi", "info", "-t", "topo")
    if files.accelerators and not found and library is None:
        words = "NPUs have device files here, and neither npu-smi nor libdcmi.so is found: install the driver's tools"
        yield Reading("/dev", "davinci", 0, problems=(words,))
    yield files
    yield from found
    known = [part for reading in (*found, *filter(None, [library])) for part in reading.accelerators]
    sensors = library is None or not library.accelerators
    questions = _in_depth(known, files, sensors=sensors) if deep else _errors(known) if sensors else []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for readings in pool.map(lambda words: ask(tools, *words), questions):
            yield from (reading for reading in readings if not _unsupported(reading))


def _errors(known: list[Accelerator]) -> list[tuple[str, ...]]:
    """One question a card, which is answered die by die: a look every half minute must not take longer than that."""
    cards = sorted({part.card for part in known if part.card is not None})
    return [("npu-smi", "info", "-t", "ecc", "-i", str(card)) for card in cards]


def _in_depth(known: list[Accelerator], files: Reading, *, sensors: bool) -> list[tuple[str, ...]]:
    """Questions card by card, die by die, port by port. `sensors`: those that DCMI has not told already."""
    cards = sorted({part.card for part in known if part.card is not None})
    dies = sorted({(part.card, part.die) for part in known if part.card is not None and part.die is not None})
    inventory = together([Reading("npu-smi", "", 0, tuple(known)), files])
    npus = [part for part in inventory.accelerators if part.vendor == "ascend" and part.card is not None]
    ports = sorted({part.physical_id for part in npus if part.physical_id is not None})
    return [
        *(
            ("npu-smi", "info", "-t", what, "-i", str(card))
            for card in cards
            for what in (_OF_CARD if sensors else ("board",))
        ),
        *(
            ("npu-smi", "info", "-t", what, "-i", str(card), "-c", str(die))
            for card, die in dies
            for what in (_OF_DIE if sensors else ())
        ),
        *(("hccn_tool", "-i", str(port), what, "-g") for port in ports for what in _OF_PORT),
    ]


def _unsupported(reading: Reading) -> bool:
    """A type that this product does not have is no fault of it."""
    return bool(reading.problems) and all("does not support" in words for words in reading.problems)


def device_files(folder: Path) -> Reading:
    """`/dev/davinciN`, of any number of digits."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name.startswith("davinci"))
    except OSError:
        names = []
    if not names:
        return Reading("/dev", "davinci", 0)
    return topology.read_device_files([Line(at, name) for at, name in enumerate(names, 1)])


def _nvidia(tools: Tools) -> Iterator[Reading]:
    library = nvml.read()
    if library is not None:
        yield library
        if library.accelerators:
            yield from ask(tools, "nvidia-smi", "topo", "-m")
            return
    found = ask(tools, "nvidia-smi", "-q")
    yield from found
    if any(reading.accelerators for reading in found):
        yield from ask(tools, "nvidia-smi", "topo", "-m")


def _amd(tools: Tools) -> Iterator[Reading]:
    if tools.find("amd-smi") is not None:
        yield from ask(tools, "amd-smi", "static", "--json")
        yield from ask(tools, "amd-smi", "metric", "--json")
    else:
        yield from ask(tools, "rocm-smi", "-a", "--showmeminfo", "vram", "--json")

"""All that outputs say, put together: which parts are of the same device, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from daulat.core.accelerator import Accelerator, Health, Link, merged
from daulat.fleet.outputs.lines import Reading

_NAME: Final = re.compile(r"(NPU|GPU|Phy-ID|Chip)[ _]?(\d+)", re.IGNORECASE)
_MOST_NAMED: Final = 16
_SAME: Final = ("product", "pci", "serial", "unique_id")  # what cannot differ within one device
_MEANINGS: Final = (
    ("-8002", "this user may not: run it as root, or as a member of HwHiAiUser's group"),
    ("-8005", "the driver is not loaded, or its device files are out of reach of this user or container"),
    ("-8006", "the device did not answer in time"),
    ("-8007", "there is no device of this number"),
    ("-8008", "the device does not exist, or has been lost"),
    ("-8012", "the device is not ready: it is starting, being reset, or broken"),
    ("-8013", "this is not answered within a container: ask on the host"),
    ("-8017", "its firmware is being upgraded"),
    ("-8020", "another container without privileges has the same NPU: give each its own, or stop the other"),
    ("-8255", "this product or release does not have it"),
    ("couldn't communicate with the NVIDIA driver", "the NVIDIA driver is not loaded"),
    ("version mismatch", "driver and library are of different releases: restart after the upgrade"),
    ("GPU is lost", "the GPU fell off the bus: restart the machine, then look at its slot and power"),
)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices of one machine, how they are joined, and what is wrong or does not fit.

    `notes`: what was concluded and not told, so that people may check it. Nothing is wrong.
    """

    accelerators: tuple[Accelerator, ...]
    topology: dict[str, dict[str, str]]
    affinity: dict[str, str]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def together(readings: Iterable[Reading]) -> Inventory:
    """One inventory from outputs of one machine, in any order. Parts that contradict each other stay apart."""
    every = list(readings)
    problems = [_explained(words) for reading in every for words in reading.problems]
    parts = [(part, reading) for reading in every for part in reading.accelerators]
    listed = [part for part, reading in parts if part.vendor == "ascend" and reading.tool != "/dev"]
    files = [part for part, reading in parts if reading.tool == "/dev"]
    notes: list[str] = []
    found = [
        *_ascend(listed, files, problems, notes),
        *(_gathered([part for part, _ in parts if part.vendor in {"nvidia", "amd"}], _gpu_keys, problems)),
        *(part for part, _ in parts if part.vendor == "cpu"),
    ]
    topology: dict[str, dict[str, str]] = {}
    for reading in every:
        for edge in reading.edges:
            topology.setdefault(edge.one, {})[edge.other] = edge.kind
    affinity = dict(pair for reading in every for pair in reading.affinities)
    joined = _joined(found, topology, affinity)
    return Inventory(tuple(joined), topology, affinity, tuple(dict.fromkeys(problems)), tuple(notes))


def _explained(words: str) -> str:
    meaning = next((meaning for sign, meaning in _MEANINGS if sign.lower() in words.lower()), None)
    return words if meaning is None else f"{words} ({meaning})"


def _ascend(
    listed: list[Accelerator], files: list[Accelerator], problems: list[str], notes: list[str]
) -> Iterator[Accelerator]:
    """NPUs by card and die; what is known of a card alone goes to its dies, what is known by physical id to its die."""
    of_machine = [part for part in listed if part.card is None and part.physical_id is None and _anonymous(part)]
    ports = [part for part in listed if part.card is None and part not in of_machine]
    placed = [part for part in listed if part.card is not None]
    dies = _gathered([part for part in placed if part.die is not None], _die_keys, problems)
    cards = _gathered([part for part in placed if part.die is None], _card_keys, problems)
    homeless = []
    for card in cards:
        mine = [die for die in dies if die.card == card.card]
        if not mine:
            homeless.append(card)
        part = card if len(mine) == 1 else replace(card, processes=(), pci=None)  # the card's address is one die's
        for die in mine:
            if not _contradicts([die], part, problems):
                dies[dies.index(die)] = merged([die, part])
    devices = _numbered([*dies, *homeless], {part.physical_id for part in (*ports, *files)} - {None})
    devices = _in_order(devices, files, problems, notes)
    rest = [*_homeless(devices, ports, problems), *_lost(devices, files, problems)]
    for device in [*devices, *_gathered(rest, _physical_keys, problems)]:
        yield merged([device, *of_machine])
    if of_machine and not devices and not rest:
        yield merged(of_machine)


def _anonymous(part: Accelerator) -> bool:
    """Whether a part is true of every NPU of its machine: the driver's or the firmware's version."""
    return part == Accelerator("ascend", driver=part.driver, firmware=part.firmware)


def _numbered(devices: list[Accelerator], numbers: set[int | None]) -> list[Accelerator]:
    """The devices with their physical ids, as far as they can be known from the numbers of ports and device files.

    Where no table tells physical ids, N is the card N if all cards have one die and the numbers agree as sets: one is
    within the other. In a virtual machine both may begin at 4, or only one of them: then `_in_order` tells.
    """
    cards = {device.card for device in devices}
    single = len(cards) == len(devices) and all(device.physical_id is None for device in devices)
    if not single or not (cards <= numbers or numbers <= cards):
        return devices
    return [replace(device, physical_id=device.card) if device.card in numbers else device for device in devices]


def _in_order(
    devices: list[Accelerator], files: list[Accelerator], problems: list[str], notes: list[str]
) -> list[Accelerator]:
    """The devices with the numbers of as many device files, where nothing else tells them: both count upwards.

    The driver counts its chips in the order of their physical ids, whatever the first one's number is. Where there are
    more files than chips, or fewer, nobody can know, and a problem says what to do.
    """
    numbers = sorted({part.physical_id for part in files if part.physical_id is not None})
    if not devices or not numbers or any(device.physical_id is not None for device in devices):
        return devices
    named = ", ".join(f"/dev/davinci{number}" for number in numbers[:_MOST_NAMED])
    if len(numbers) != len(devices) or any(device.card is None for device in devices):
        problems.append(
            f"{len(numbers)} device files are there ({named}), npu-smi lists {len(devices)} NPUs, and nothing tells "
            "which is which, so nothing can be placed on them: give this machine or container libdcmi.so, which tells "
            "their physical ids, or as many device files as it has NPUs"
        )
        return devices
    logical = all(device.logical_id is not None for device in devices)
    order = sorted(
        range(len(devices)),
        key=lambda at: (devices[at].logical_id if logical else devices[at].card or 0, devices[at].die or 0),
    )
    found = list(devices)
    for at, number in zip(order, numbers, strict=True):
        found[at] = replace(devices[at], physical_id=number)
    pairs = ", ".join(f"{found[at].name} is /dev/davinci{found[at].physical_id}" for at in order[:_MOST_NAMED])
    notes.append(f"nothing tells which device file is whose: both are taken to count upwards, so {pairs}")
    return found


def _attached(devices: list[Accelerator], parts: list[Accelerator]) -> list[Accelerator]:
    """Give each part to the device of its physical id, in place; those that belong to none are returned."""
    places = {device.physical_id: at for at, device in enumerate(devices) if device.physical_id is not None}
    left = []
    for part in parts:
        at = None if part.physical_id is None else places.get(part.physical_id)
        if at is None:
            left.append(part)
        else:
            devices[at] = merged([devices[at], part])
    return left


def _homeless(devices: list[Accelerator], ports: list[Accelerator], problems: list[str]) -> list[Accelerator]:
    """Ports of NPUs that no table lists. Where it is not known whose they are, they are no devices more."""
    left = _attached(devices, ports)
    if not devices:
        return left
    numbered = any(device.physical_id is not None for device in devices)
    shown = [part for part in left if numbered and part.physical_id is not None]
    for part in left:
        if part not in shown:
            address = part.port.address or part.port.state
            what = f"this port ({address})" if address is not None else "this"
            keep = "" if address is not None else f" ({part.health.state}): keep the command line above it"
            problems.append(f"{part.name}: it is not known which NPU {what} belongs to{keep}")
    return shown


def _lost(devices: list[Accelerator], files: list[Accelerator], problems: list[str]) -> Iterator[Accelerator]:
    """Device files without an NPU: the die is lost."""
    left = _attached(devices, files)
    if devices and all(device.physical_id is None for device in devices):
        return
    for part in left:
        if not devices:
            yield part
            continue
        reason = f"/dev/davinci{part.physical_id} is there, npu-smi lists no such NPU"
        problems.append(reason)
        yield replace(part, health=Health("unknown", (reason,)))


Keys = Callable[[Accelerator], list[tuple[object, ...]]]


def _die_keys(part: Accelerator) -> list[tuple[object, ...]]:
    return [("die", part.card, part.die)]


def _card_keys(part: Accelerator) -> list[tuple[object, ...]]:
    return [("card", part.card)]


def _physical_keys(part: Accelerator) -> list[tuple[object, ...]]:
    return [] if part.physical_id is None else [("physical", part.physical_id)]


def _gpu_keys(part: Accelerator) -> list[tuple[object, ...]]:
    ids = (("uuid", part.unique_id), ("pci", part.pci), ("card", part.card), ("serial", part.serial))
    found: list[tuple[object, ...]] = [
        (part.vendor, name, value, part.partition) for name, value in ids if value is not None
    ]
    return found


def _gathered(parts: list[Accelerator], keys: Keys, problems: list[str]) -> list[Accelerator]:
    """One device for all parts that share a key."""
    groups: list[list[Accelerator]] = []
    owner: dict[tuple[object, ...], int] = {}
    for part in parts:
        at = next((owner[key] for key in keys(part) if key in owner), None)
        if at is None or _contradicts(groups[at], part, problems):
            groups.append([part])
            at = len(groups) - 1
        else:
            groups[at].append(part)
        for key in keys(part):
            owner.setdefault(key, at)
    return [merged(group) for group in groups]


def _contradicts(group: list[Accelerator], part: Accelerator, problems: list[str]) -> bool:
    for name in _SAME:
        said = getattr(part, name)
        other = next((value for mine in group if (value := getattr(mine, name)) is not None), None)
        if None not in (said, other) and not _alike(str(said), str(other)):
            problems.append(
                f"{part.name}: {name} is {other} in one output and {said} in another: are they of one machine?"
            )
            return True
    return False


def _alike(one: str, other: str) -> bool:
    """Whether two values can be the same: npu-smi says `Ascend 910` of a die that others call `Ascend 910C`."""
    short, long = sorted((one.rstrip(".").lower(), other.rstrip(".").lower()), key=len)
    return long.startswith(short)


def _joined(
    devices: list[Accelerator], topology: dict[str, dict[str, str]], affinity: dict[str, str]
) -> Iterator[Accelerator]:
    single = len({device.card for device in devices}) == len(devices)
    for device in devices:
        name = next((name for name in {**topology, **affinity} if _is(device, name, single=single)), None)
        if name is None:
            yield device
            continue
        links = tuple(Link(peer, kind) for peer, kind in topology.get(name, {}).items())
        yield replace(device, links=(*device.links, *links), cpu_affinity=device.cpu_affinity or affinity.get(name))


def _is(device: Accelerator, name: str, *, single: bool) -> bool:
    """Whether a topology's name is this device's: by card, or by physical id where a card has several dies."""
    match = _NAME.fullmatch(name)
    if match is None or device.partition is not None:
        return False
    kind, number = match[1].lower(), int(match[2])
    if kind == "gpu":
        return device.vendor != "ascend" and device.card == number
    if device.vendor != "ascend":
        return False
    if kind == "npu" and single and device.card is not None:
        return device.card == number
    return device.physical_id == number

"""Known accelerators: chips as software sees them, and the nodes they come in. Data: `accelerator/*.toml`.

A chip here is what the driver lists as one device: on Atlas A3 that is a die, half of a 910C package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from daulat.catalog import tables
from daulat.catalog.precision import PRECISIONS
from daulat.errors import ConfigError, NotFound

VENDORS: Final = ("huawei", "nvidia", "amd", "cpu")
ATTENTION: Final = ("grouped", "latent", "compressed")
MOST_DEVICES: Final = 100_000
# 8xH200 and H200x8; the first is tried first, since names such as CloudMatrix384 end like the second.
_COUNTED: Final = (
    re.compile(r"(?P<count>\d{1,6})\s*x\s*(?P<name>.+)\Z", re.IGNORECASE),
    re.compile(r"(?P<name>.+?)\s*x\s*(?P<count>\d{1,6})\Z", re.IGNORECASE),
    re.compile(r"(?P<name>.+)(?P<count>)\Z"),
)
_CPU: Final = re.compile(r"cpu:(\d{1,6})\s*gib\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ChipSpec:
    """One device. `memory`: GiB the driver reports; `bandwidth`: GB/s of it, 0 if not known; `flops`: dense TFLOPS.

    `precisions`: weights it computes with (keys of `daulat.catalog.precision.PRECISIONS`). `names`: as the tools print
    it. `package`: devices in one package (2 on Atlas A3). `attention`: kinds for which engines have kernels on it
    (grouped, latent, compressed). `idle`: GiB that engines cannot have. `confidence`: "published", or what is open.
    """

    vendor: str
    title: str
    names: tuple[str, ...]
    memory: float
    bandwidth: float
    flops: Mapping[str, float]
    precisions: tuple[str, ...]
    source: str
    package: int = 1
    attention: tuple[str, ...] = ATTENTION
    idle: float = 0
    watts: float = 0
    confidence: str = "published"
    id: str = ""

    def __post_init__(self) -> None:
        if self.vendor not in VENDORS:
            raise ValueError(f"vendor is {self.vendor!r}, expected one of {', '.join(VENDORS)}")
        unknown = sorted(set(self.precisions) - set(PRECISIONS))
        if unknown:
            raise ValueError(f"unknown precisions {unknown}; known are {sorted(PRECISIONS)}")
        if not self.attention or not set(self.attention) <= set(ATTENTION):
            raise ValueError(f"attention is {list(self.attention)}, expected some of {', '.join(ATTENTION)}")
        if self.memory < 0 or self.bandwidth < 0:
            raise ValueError("memory and bandwidth cannot be negative")


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A machine, or a machine of machines. `devices`: in one node; `nodes`: how many make the system.

    `within`: GB/s a device and direction inside a node, `between`: Gbit/s a device between nodes, 0 if not known;
    `domain`: devices that reach each other at `within` (more than one node's in a super-node).
    """

    title: str
    names: tuple[str, ...]
    chip: str
    devices: int
    within: float
    between: float
    source: str
    nodes: int = 1
    domain: int = 0
    link: str = ""
    confidence: str = "published"
    id: str = ""

    def __post_init__(self) -> None:
        if self.devices < 1 or self.nodes < 1:
            raise ValueError("devices and nodes are at least 1")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a model shall run on: `nodes` nodes of `devices` chips each. `node.id` is "" where it is ad hoc."""

    chip: ChipSpec
    node: NodeSpec
    devices: int
    nodes: int

    @property
    def total(self) -> int:
        """Devices in all."""
        return self.devices * self.nodes

    def __str__(self) -> str:
        if self.nodes > 1:
            return f"{self.nodes} x {self.node.title}"
        return self.node.title if self.devices >= self.node.devices else f"{self.devices} x {self.chip.title}"

    def with_nodes(self, nodes: int) -> Hardware:
        """The same nodes, another number of them.

        Raises:
            ConfigError: not a number that can be.
        """
        if not 1 <= nodes <= MOST_DEVICES // self.devices:
            most = MOST_DEVICES // self.devices
            raise ConfigError(f"{nodes} nodes of {self.devices} devices: from 1 to {most} can be planned")
        return replace(self, nodes=nodes)


@dataclass(frozen=True, slots=True)
class Accelerators:
    """The catalogue's chips and nodes, by id."""

    chips: Mapping[str, ChipSpec]
    nodes: Mapping[str, NodeSpec]


def parse(files: Mapping[str, Mapping[str, Any]]) -> Accelerators:
    """Chips and nodes out of parsed TOML files.

    Raises:
        ConfigError: a table is not as it should be, or a name is unknown or taken; names file, entry and key.
    """
    chips: dict[str, ChipSpec] = {}
    nodes: dict[str, NodeSpec] = {}
    for name, top in files.items():
        unknown = sorted(set(top) - {"chip", "node"})
        if unknown:
            raise ConfigError(f"unknown tables {unknown}; known are chip and node", location=name)
        chips |= {
            key: replace(chip, id=key)
            for key, chip in tables.entries(ChipSpec, top.get("chip", {}), f"{name}, [chip]").items()
        }
        nodes |= {
            key: replace(node, id=key)
            for key, node in tables.entries(NodeSpec, top.get("node", {}), f"{name}, [node]").items()
        }
    for node in nodes.values():
        if node.chip not in chips:
            raise ConfigError(f"chip {node.chip!r} is not defined", location=f"accelerators, [node.{node.id}]")
    items: list[ChipSpec | NodeSpec] = [*chips.values(), *nodes.values()]
    owners: dict[str, str] = {}
    for item in items:
        for known in _known(item):
            if owners.setdefault(known, item.id) != item.id:
                raise ConfigError(f"{known!r} names both {owners[known]} and {item.id}", location="accelerators")
    return Accelerators(MappingProxyType(chips), MappingProxyType(nodes))


@cache
def accelerators() -> Accelerators:
    """The catalogue's accelerators."""
    return parse(tables.files("accelerator"))


def chip(name: str) -> ChipSpec | None:
    """The chip that a tool prints under that name, such as `910B3` or `NVIDIA H200`; None where it is not known."""
    wanted = _plain(name)
    for spec in accelerators().chips.values():
        if wanted in _known(spec):
            return spec
    return None


def hardware(text: str) -> Hardware:
    """What `--on` names: a node (`a3`, `atlas-800i-a2`, `gb200-nvl72`, `2xA3` for two of them), a number of chips
    (`8xH200`, `910B3x8`), or `cpu:64GiB`.

    Raises:
        ConfigError: the number cannot be.
        NotFound: no such node or chip; says what is known.
    """
    text = text.strip()
    if text.lower().startswith("cpu"):
        return _cpu(text)
    for pattern in _COUNTED:
        counted = pattern.match(text)
        found = _counted(counted["name"], int(counted["count"] or 1)) if counted else None
        if found is not None:
            return found
    known = accelerators()
    raise NotFound(
        f"no hardware {text!r} in the catalogue. Nodes: {', '.join(known.nodes)}; chips, as in 8xH200: "
        f"{', '.join(known.chips)}; or cpu:64GiB"
    )


def _counted(name: str, count: int) -> Hardware | None:
    """So many of the nodes, or else of the chips, of that name."""
    node, found = _node(name), chip(name)
    if (node or found) and not 1 <= count <= MOST_DEVICES:
        raise ConfigError(f"{count} of {name!r}: from 1 to {MOST_DEVICES} can be planned", location="--on")
    if node is not None:
        return _whole(node, count)
    return _chips(found, count) if found is not None else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _node(name: str) -> NodeSpec | None:
    wanted = _plain(name)
    for spec in accelerators().nodes.values():
        if wanted in _known(spec):
            return spec
    return None


def _known(item: ChipSpec | NodeSpec) -> set[str]:
    return {_plain(name) for name in (item.id, *item.names)}


def _whole(node: NodeSpec, times: int) -> Hardware:
    base = Hardware(accelerators().chips[node.chip], node, node.devices, 1)
    return base.with_nodes(node.nodes * times)


def _chips(found: ChipSpec, count: int) -> Hardware:
    """So many chips, in nodes of the kind they come in; fewer than a node's are one node, partly used."""
    homes = [node for node in accelerators().nodes.values() if node.chip == found.id]
    home = min(homes, key=lambda node: node.nodes) if homes else None
    if home is None or count <= home.devices:
        node = home or NodeSpec(found.title, (), found.id, count, 0, 0, found.source)
        return Hardware(found, node, count, 1)
    if count % home.devices:
        raise ConfigError(
            f"{count} devices are no whole number of nodes: {home.title} has {home.devices}", location="--on"
        )
    return Hardware(found, home, home.devices, count // home.devices)


def _cpu(text: str) -> Hardware:
    """The catalogue's CPU, with the memory said."""
    said = _CPU.match(text)
    gib = int(said[1]) if said else 0
    if not gib:
        raise ConfigError(f"{text!r}: how much memory? Write it as in cpu:64GiB", location="--on")
    base = accelerators().chips["cpu"]
    found = replace(base, memory=float(gib))
    return Hardware(found, NodeSpec(f"CPU, {gib} GiB", (), "cpu", 1, 0, 0, base.source), 1, 1)

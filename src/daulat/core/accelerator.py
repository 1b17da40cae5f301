"""What is known of one accelerator: an NPU's die, a GPU or a part of one, a socket of a CPU.

Unknown is `None` (or an empty tuple), never a guess and never 0. Readers of single outputs (`fleet/`) each know a part;
`merged` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

Vendor = Literal["ascend", "nvidia", "amd", "cpu"]
State = Literal["ok", "warning", "alarm", "critical", "unknown"]
MIB: Final = 2**20
_WORSE: Final[tuple[State, ...]] = ("unknown", "ok", "warning", "alarm", "critical")


@dataclass(frozen=True, slots=True)
class Health:
    """What the device, or its driver, says of itself. `codes` are the vendor's own, in hexadecimal as printed."""

    state: State = "unknown"
    reasons: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether work may be placed here: a warning does not stop anybody, the unknown does."""
        return self.state in {"ok", "warning"}

    def at_least(self, state: State, *reasons: str) -> Health:
        """The same or worse, with reasons more."""
        worst = max(self.state, state, key=_WORSE.index)
        return Health(worst, _joined(self.reasons, reasons), self.codes)


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Percent of the time, 0 to 100. `core`: AI cores, or streaming multiprocessors; `overall`: the vendor's sum."""

    core: float | None = None
    vector: float | None = None
    cube: float | None = None
    overall: float | None = None
    memory_bandwidth: float | None = None
    memory: float | None = None  # percent of the bytes, not of the time


@dataclass(frozen=True, slots=True)
class Ecc:
    """Errors of the device's memory since its driver was loaded, `total_*` since it was made.

    `double_bit` are those that could not be corrected; `sram_double_bit` the same of a GPU's caches and registers.
    `enabled`: whether errors are looked for at all.
    """

    single_bit: int | None = None
    double_bit: int | None = None
    total_single_bit: int | None = None
    total_double_bit: int | None = None
    single_bit_isolated_pages: int | None = None
    double_bit_isolated_pages: int | None = None
    sram_double_bit: int | None = None
    total_sram_double_bit: int | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """The way to another device, in the tool's words: `peer` as a topology names it, `kind` such as HCCS, SIO, NV18."""

    peer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Port:
    """The device's own network port (RoCE). `counters` in the tool's own names."""

    state: Literal["up", "down"] | None = None
    address: str | None = None
    netmask: str | None = None
    gateway: str | None = None
    health: str | None = None
    speed_mbps: int | None = None
    link_ups: int | None = None
    peer: str | None = None
    peer_port: str | None = None
    tx_mb_s: float | None = None
    rx_mb_s: float | None = None
    optical: tuple[tuple[str, float], ...] = ()
    optical_present: bool | None = None
    counters: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """Somebody who uses the device. `memory` in bytes."""

    pid: int
    name: str | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device that work can be placed on.

    `card` is the board or package (npu-smi's NPU ID), `die` the chip on it (its Chip ID); `logical_id` counts what the
    driver sees, `physical_id` is the N of `/dev/davinciN`, or NVIDIA's minor number. `unique_id` is the VDie id or
    UUID. Memory is in bytes, power in watts, temperatures in degrees Celsius, the cores' frequency in MHz, their
    voltage in volts. `partition` names a MIG instance of `parent`.
    """

    vendor: Vendor
    product: str | None = None
    architecture: str | None = None
    card: int | None = None
    die: int | None = None
    logical_id: int | None = None
    physical_id: int | None = None
    slot: int | None = None
    serial: str | None = None
    unique_id: str | None = None
    pci: str | None = None
    numa_node: int | None = None
    cpu_affinity: str | None = None
    memory_kind: str | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    utilisation: Utilisation = Utilisation()
    temperature: float | None = None
    memory_temperature: float | None = None
    power: float | None = None
    frequency: int | None = None
    voltage: float | None = None
    health: Health = Health()
    ecc: Ecc = Ecc()
    links: tuple[Link, ...] = ()
    port: Port = Port()
    processes: tuple[Process, ...] = ()
    firmware: str | None = None
    driver: str | None = None
    board: str | None = None
    cores: int | None = None
    features: tuple[str, ...] = ()
    partition: str | None = None
    parent: str | None = None

    @property
    def name(self) -> str:
        """How people and topologies call it, e.g. `NPU 3 die 1`."""
        kind = {"ascend": "NPU", "nvidia": "GPU", "amd": "GPU", "cpu": "CPU"}[self.vendor]
        if self.card is None:
            number = self.logical_id if self.physical_id is None else self.physical_id
            label = "physical " if self.physical_id is not None and self.vendor == "ascend" else ""
            return f"{kind} {label}{'?' if number is None else number}"
        die = "" if self.die is None else f" die {self.die}"
        return f"{kind} {self.card}{die}" + (f" {self.partition}" if self.partition else "")


def judged(health: Health, ecc: Ecc, vendor: Vendor) -> Health:
    """A health as the errors of the memory make it, whatever the vendor's own word for it is.

    What could not be corrected since the driver was loaded has garbled somebody's numbers, and may again. Pages that
    were isolated, and errors of earlier days, are told and stop nobody: that is how such memory is mended.
    """
    kind = "double bit" if vendor == "ascend" else "uncorrectable"
    worse: State = "critical" if vendor == "nvidia" else "alarm"
    if ecc.double_bit:
        health = health.at_least(worse, f"{ecc.double_bit} {kind} errors of the memory")
    if ecc.sram_double_bit:
        health = health.at_least(worse, f"{ecc.sram_double_bit} uncorrectable errors of the SRAM")
    if ecc.total_double_bit and not ecc.double_bit:
        health = health.at_least(health.state, f"{ecc.total_double_bit} {kind} errors of the memory in its life")
    for bits, pages in (("single", ecc.single_bit_isolated_pages), ("double", ecc.double_bit_isolated_pages)):
        if pages:
            health = health.at_least(health.state, f"{pages} pages of the memory are isolated for {bits} bit errors")
    return health


def merged(parts: Iterable[Accelerator]) -> Accelerator:
    """One value from several parts of the same device. What was said first stands; of health, the worst."""
    first, *rest = parts
    for part in rest:
        first = replace(first, **{item.name: _both(item.name, first, part) for item in fields(Accelerator)})
    return first


def _both(name: str, one: Accelerator, other: Accelerator) -> Any:
    mine, theirs = getattr(one, name), getattr(other, name)
    if isinstance(mine, Health):
        worst = max(mine.state, theirs.state, key=_WORSE.index)
        return Health(worst, _joined(mine.reasons, theirs.reasons), _joined(mine.codes, theirs.codes))
    if isinstance(mine, Utilisation | Ecc | Port):
        parts = {f.name: _known(getattr(mine, f.name), getattr(theirs, f.name)) for f in fields(mine)}
        return replace(mine, **parts)
    return _known(mine, theirs)


def _known(mine: Any, theirs: Any) -> Any:
    if isinstance(mine, tuple):
        return _joined(mine, theirs)
    return theirs if mine is None else mine


def _joined(mine: tuple[Any, ...], theirs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*mine, *(item for item in theirs if item not in mine))

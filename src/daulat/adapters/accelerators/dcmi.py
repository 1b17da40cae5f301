"""Ascend's DCMI (`libdcmi.so`, which npu-smi itself stands on) by ctypes.

Structures and meanings after the public header of mind-cluster (`dcmi_interface_api.h`). A function that a release
lacks, or that fails for a device, leaves its facts unknown. Not tried on a device: the tests call a library of ours.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from ctypes import Structure, byref, c_char, c_int, c_ubyte, c_uint, c_ulong, c_ulonglong
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from daulat.core.accelerator import MIB, Accelerator, Ecc, Health, Port, Process, State, Utilisation, judged
from daulat.fleet.outputs import faults
from daulat.fleet.outputs.lines import Reading
from daulat.fleet.outputs.npu_smi import generation, product

_PLACES: Final = ("/usr/local/Ascend/driver/lib64/driver", "/usr/local/Ascend/driver/lib64", "/usr/local/dcmi")
_NAME: Final = "libdcmi.so"
_NPU: Final = 0  # dcmi_unit_type
_DDR, _HBM = 0, 2  # dcmi_device_type
_CORES_NOW: Final = 7  # dcmi_freq_type
_VDIE: Final = 1
_NO_POWER: Final = frozenset({0x7FFD, 0x7FFF})  # of an MCU: not valid, and not readable
_MOST_CARDS: Final = 64
_MOST_CODES: Final = 128
_MOST_PROCESSES: Final = 64
_STATES: Final[dict[int, State]] = {0: "ok", 1: "warning", 2: "alarm", 3: "critical"}
_NETWORK: Final = {
    0: "Success",
    1: "Socket failed",
    2: "Receive timeout",
    3: "Unreachable",
    4: "Time exceeded",
    5: "Fault",
    6: "Init",
    7: "Thread error",
    8: "Detect ip set",
}
_PERCENT: Final = 100


class _ChipInfo(Structure):
    _fields_: ClassVar = [
        ("chip_type", c_char * 32),
        ("chip_name", c_char * 32),
        ("chip_ver", c_char * 32),
        ("aicore_cnt", c_uint),
        ("npu_name", c_char * 32),
    ]


class _Pcie(Structure):
    _fields_: ClassVar = [
        ("vendor", c_uint),
        ("subvendor", c_uint),
        ("device", c_uint),
        ("subdevice", c_uint),
        ("domain", c_int),
        ("bus", c_uint),
        ("slot", c_uint),
        ("function", c_uint),
        ("reserve", c_ubyte * 32),
    ]


class _Ecc(Structure):
    _fields_: ClassVar = [(name, c_uint) for name in ("flag", "single", "double", "all_single", "all_double")] + [
        (name, c_uint) for name in ("single_pages", "double_pages", "next_single", "next_double")
    ]


class _Hbm(Structure):
    _fields_: ClassVar = [
        ("size", c_ulonglong),  # MB
        ("freq", c_uint),
        ("usage", c_ulonglong),
        ("temp", c_int),
        ("bandwidth", c_uint),
    ]


class _Memory(Structure):
    _fields_: ClassVar = [
        ("size", c_ulonglong),  # MB
        ("available", c_ulonglong),
        ("freq", c_uint),
        ("hugepagesize", c_ulong),
        ("hugepages_total", c_ulong),
        ("hugepages_free", c_ulong),
        ("utiliza", c_uint),
        ("reserve", c_ubyte * 60),
    ]


class _Multi(Structure):
    _fields_: ClassVar = [
        ("aic", c_uint),
        ("aiv", c_uint),
        ("aicore", c_uint),
        ("npu", c_uint),
        ("reserved", c_uint * 8),
    ]


class _Die(Structure):
    _fields_: ClassVar = [("words", c_uint * 5)]


class _User(Structure):
    _fields_: ClassVar = [("pid", c_int), ("memory", c_ulong)]


def _load() -> ctypes.CDLL | None:
    beside = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    for folder in (*filter(None, beside), *_PLACES):
        path = Path(folder) / _NAME
        if path.is_file():
            try:
                return ctypes.CDLL(str(path))
            except OSError:
                continue
    return None


def read(library: ctypes.CDLL | None = None) -> Reading | None:
    """Everything that DCMI says of this machine's NPUs; `None` where there is no library."""
    library = library or _load()
    if library is None:
        return None
    asked = _Library(library)
    code = asked.call("dcmi_init")
    if code != 0:
        return Reading("dcmi", "", 0, problems=(f"dcmi_init failed, ret is {code}",))
    count, cards = c_int(), (c_int * _MOST_CARDS)()
    code = asked.call("dcmi_get_card_list", byref(count), cards, c_int(_MOST_CARDS))
    if code != 0 or not 0 <= count.value <= _MOST_CARDS:
        return Reading("dcmi", "", 0, problems=(f"dcmi_get_card_list failed, ret is {code}",))
    found: list[Accelerator] = []
    for card in cards[: count.value]:
        dies = [asked.device(card, die) for die in asked.dies(card)]
        if len(dies) == 1 and dies[0].power is None:  # what a board of two draws is neither's
            dies = [replace(dies[0], power=asked.board_power(card))]
        found += dies
    return Reading("dcmi", "", 0, tuple(found))


def _watts(tenths: int) -> float | None:
    return None if tenths < 0 or tenths in _NO_POWER else tenths / 10


class _Library:
    """Calls by name, with what is missing or fails as `None`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> int:
        """DCMI's return code; -1 where this release has no such function."""
        function = getattr(self._library, name, None)
        return -1 if function is None else int(function(*arguments))

    def number(self, name: str, card: int, die: int, *before: Any, kind: Any = c_uint) -> int | None:
        value = kind()
        return int(value.value) if self.call(name, c_int(card), c_int(die), *before, byref(value)) == 0 else None

    def filled(self, name: str, card: int, die: int, value: Any, *before: Any) -> Any:
        return value if self.call(name, c_int(card), c_int(die), *before, byref(value)) == 0 else None

    def dies(self, card: int) -> list[int]:
        """The NPUs on a card, without its MCU and CPU."""
        most, mcu, cpu = c_int(), c_int(), c_int()
        code = self.call("dcmi_get_device_id_in_card", c_int(card), byref(most), byref(mcu), byref(cpu))
        if code != 0 or not 0 <= most.value <= _MOST_CARDS:
            return []
        kinds = {die: self.number("dcmi_get_device_type", card, die, kind=c_int) for die in range(most.value)}
        return [die for die, kind in kinds.items() if kind in {_NPU, None} and die not in {mcu.value, cpu.value} - {0}]

    def device(self, card: int, die: int) -> Accelerator:
        chip = _ChipInfo()
        known = self.filled("dcmi_get_device_chip_info_v2", card, die, chip) or self.filled(
            "dcmi_get_device_chip_info", card, die, chip
        )
        name = product((chip.npu_name or chip.chip_name).decode(errors="replace")) if known else None
        logical, physical = self._ids(card, die)
        power = self.number("dcmi_get_device_power_info", card, die, kind=c_int)
        temperature = self.number("dcmi_get_device_temperature", card, die, kind=c_int)
        kind, total, used, hbm = self._memory(card, die)
        volts = self.number("dcmi_get_device_voltage", card, die)  # in hundredths
        ecc = self._ecc(card, die)
        network = self.number("dcmi_get_device_network_health", card, die, kind=c_int)
        return Accelerator(
            "ascend",
            product=name,
            architecture=generation(name),
            card=card,
            die=die,
            logical_id=logical,
            physical_id=physical,
            unique_id=self._die_id(card, die),
            pci=self._pci(card, die),
            memory_kind=kind,
            memory_total=total,
            memory_used=used,
            memory_temperature=None if hbm is None else float(hbm.temp),
            utilisation=self._utilisation(card, die, hbm),
            temperature=None if temperature is None else float(temperature),
            power=None if power is None else _watts(power),
            frequency=self.number("dcmi_get_device_frequency", card, die, c_int(_CORES_NOW)),
            voltage=None if volts is None else volts / 100,
            health=judged(faults.weighed(self._health(card, die)), ecc, "ascend"),
            ecc=ecc,
            port=Port(health=None if network is None else _NETWORK.get(network)),
            processes=self._users(card, die),
            cores=chip.aicore_cnt or None if known else None,
        )

    def board_power(self, card: int) -> float | None:
        """Watts of a whole card, from its MCU: a 310P has no sensor of its own. (In tenths, as the die's.)"""
        power = c_int()
        code = self.call("dcmi_mcu_get_power_info", c_int(card), byref(power))
        return _watts(power.value) if code == 0 else None

    def _ids(self, card: int, die: int) -> tuple[int | None, int | None]:
        logical, physical = c_int(), c_uint()
        if self.call("dcmi_get_device_logic_id", byref(logical), c_int(card), c_int(die)) != 0:
            return None, None
        code = self.call("dcmi_get_device_phyid_from_logicid", c_uint(logical.value), byref(physical))
        return logical.value, physical.value if code == 0 else None

    def _pci(self, card: int, die: int) -> str | None:
        found = self.filled("dcmi_get_device_pcie_info_v2", card, die, _Pcie())
        return None if found is None else f"{found.domain:04x}:{found.bus:02x}:{found.slot:02x}.{found.function:x}"

    def _die_id(self, card: int, die: int) -> str | None:
        found = self.filled("dcmi_get_device_die_v2", card, die, _Die(), c_int(_VDIE))
        return None if found is None else " ".join(f"{word:08X}" for word in found.words)

    def _memory(self, card: int, die: int) -> tuple[str | None, int | None, int | None, Any]:
        hbm = self.filled("dcmi_get_device_hbm_info", card, die, _Hbm())
        if hbm is not None and hbm.size:
            return "HBM", hbm.size * MIB, hbm.usage * MIB, hbm
        ddr = self.filled("dcmi_get_device_memory_info_v3", card, die, _Memory())
        if ddr is None or not ddr.size:
            return None, None, None, None
        return "DDR", ddr.size * MIB, (ddr.size - ddr.available) * MIB, None

    def _utilisation(self, card: int, die: int, hbm: Any) -> Utilisation:
        rates = self.filled("dcmi_get_device_multi_utilization_rate", card, die, _Multi())
        bandwidth = _rate(hbm.bandwidth) if hbm is not None else None
        if rates is None:
            core = self.number("dcmi_get_device_utilization_rate", card, die, c_int(2))
            return Utilisation(core=None if core is None else _rate(core), memory_bandwidth=bandwidth)
        return Utilisation(_rate(rates.aicore), _rate(rates.aiv), _rate(rates.aic), _rate(rates.npu), bandwidth)

    def _health(self, card: int, die: int) -> Health:
        value = self.number("dcmi_get_device_health", card, die)
        if value is None:
            return Health("unknown", ("DCMI does not say how it is",))
        state = _STATES.get(value, "unknown")
        count, codes = c_int(), (c_uint * _MOST_CODES)()
        code = self.call(
            "dcmi_get_device_errorcode_v2", c_int(card), c_int(die), byref(count), codes, c_uint(_MOST_CODES)
        )
        found = codes[: max(0, min(count.value, _MOST_CODES))] if code == 0 else []
        return Health(
            state, () if state == "ok" else (f"DCMI says health {value}",), tuple(f"{one:X}" for one in found)
        )

    def _ecc(self, card: int, die: int) -> Ecc:
        """Of the HBM, or of the DDR where there is none."""
        kinds = (self.filled("dcmi_get_device_ecc_info", card, die, _Ecc(), c_int(kind)) for kind in (_HBM, _DDR))
        found = next(filter(None, kinds), None)
        if found is None:
            return Ecc()
        counts = (found.single, found.double, found.all_single, found.all_double)
        return Ecc(*counts, found.single_pages, found.double_pages, enabled=bool(found.flag))

    def _users(self, card: int, die: int) -> tuple[Process, ...]:
        users, count = (_User * _MOST_PROCESSES)(), c_int()
        code = self.call("dcmi_get_device_resource_info", c_int(card), c_int(die), users, byref(count))
        if code != 0 or not 0 <= count.value <= _MOST_PROCESSES:
            return ()
        return tuple(Process(user.pid, memory=user.memory) for user in users[: count.value])


def _rate(value: int) -> float | None:
    """A percentage; devices that have none answer with more than 100."""
    return float(value) if value <= _PERCENT else None

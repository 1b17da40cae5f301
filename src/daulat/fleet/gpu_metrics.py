"""Metrics of NVIDIA GPUs under DCGM exporter's names, labels and units: dashboards and alerts over those go on working.

After `etc/default-counters.csv` and `internal/pkg/rendermetrics` of github.com/NVIDIA/dcgm-exporter (commit d5e5f510):
memory in MiB, power in W, temperature in degrees Celsius. Only what NVML tells is there, not what DCGM measures itself
(`DCGM_FI_PROF_*`, XID errors, NVLink's bandwidth). What is not known has no sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from daulat.core.accelerator import MIB, Accelerator
from daulat.fleet.inventory import Inventory
from daulat.fleet.npu_metrics import Samples, labelled

HELP: Final[Mapping[str, tuple[str, str]]] = {
    "DCGM_FI_DEV_GPU_TEMP": ("gauge", "GPU temperature (in C)."),
    "DCGM_FI_DEV_MEMORY_TEMP": ("gauge", "Memory temperature (in C)."),
    "DCGM_FI_DEV_POWER_USAGE": ("gauge", "Power draw (in W)."),
    "DCGM_FI_DEV_GPU_UTIL": ("gauge", "GPU utilization (in %)."),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("gauge", "Memory utilization (in %)."),
    "DCGM_FI_DEV_FB_FREE": ("gauge", "Framebuffer memory free (in MiB)."),
    "DCGM_FI_DEV_FB_USED": ("gauge", "Framebuffer memory used (in MiB)."),
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": ("counter", "Total number of single-bit volatile ECC errors."),
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": ("counter", "Total number of double-bit volatile ECC errors."),
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": ("counter", "Total number of single-bit persistent ECC errors."),
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": ("counter", "Total number of double-bit persistent ECC errors."),
}
_PROFILE: Final = re.compile(r"\b\d{1,2}g\.\d{1,3}gb\S*")


def samples(found: Inventory) -> Samples:
    """Samples by metric: label text -> value. Empty where the machine has no NVIDIA GPU."""
    every: Samples = {}
    for one in found.accelerators:
        if one.vendor == "nvidia":
            who = labelled(**_labels(one))
            for name, value in _values(one):
                if value is not None:
                    every.setdefault(name, {})[who] = float(value)
    return every


def _labels(one: Accelerator) -> dict[str, str]:
    card = "" if one.card is None else str(one.card)
    minor = card if one.physical_id is None else str(one.physical_id)
    who = {
        "gpu": card,
        "UUID": (one.unique_id if one.partition is None else one.parent) or "",
        "pci_bus_id": "" if one.pci is None else f"0000{one.pci.upper()}",  # a domain of eight digits, as NVML has it
        "device": f"nvidia{minor}",
        "modelName": one.product or "",
    }
    if one.partition is not None:
        words = " ".join((*one.features, one.product or ""))
        profile = _PROFILE.search(words)
        instance = next((word.removeprefix("GI ") for word in one.features if word.startswith("GI ")), "")
        who |= {"GPU_I_PROFILE": profile[0] if profile is not None else "", "GPU_I_ID": instance}
    return who | ({} if one.driver is None else {"DCGM_FI_DRIVER_VERSION": one.driver})


def _values(one: Accelerator) -> Iterator[tuple[str, float | None]]:
    total, used = one.memory_total, one.memory_used
    yield "DCGM_FI_DEV_FB_USED", None if used is None else used / MIB
    yield "DCGM_FI_DEV_FB_FREE", None if used is None or total is None else (total - used) / MIB
    if one.partition is not None:  # the rest is the whole GPU's
        return
    yield "DCGM_FI_DEV_GPU_TEMP", one.temperature
    yield "DCGM_FI_DEV_MEMORY_TEMP", one.memory_temperature
    yield "DCGM_FI_DEV_POWER_USAGE", one.power
    yield "DCGM_FI_DEV_GPU_UTIL", one.utilisation.core
    yield "DCGM_FI_DEV_MEM_COPY_UTIL", one.utilisation.memory_bandwidth
    yield "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", one.ecc.single_bit
    yield "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", _sum(one.ecc.double_bit, one.ecc.sram_double_bit)
    yield "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", one.ecc.total_single_bit
    yield "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", _sum(one.ecc.total_double_bit, one.ecc.total_sram_double_bit)


def _sum(memory: int | None, sram: int | None) -> int | None:
    """NVML counts both in one; nvidia-smi tells them apart."""
    return None if memory is None and sram is None else (memory or 0) + (sram or 0)

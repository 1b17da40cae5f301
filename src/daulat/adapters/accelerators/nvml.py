"""NVIDIA's NVML through `nvidia-ml-py`: GPUs, and the MIG devices on them.

What a GPU or a driver does not support stays unknown. Not tried on a device: the tests put a library of ours in NVML's
place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from daulat.core.accelerator import Accelerator, Ecc, Health, Process, Utilisation, judged
from daulat.fleet.outputs.lines import Reading

_MOST_GPUS: Final = 64
_ARCHITECTURES: Final = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada Lovelace",
} | {
    9: "Hopper",
    10: "Blackwell",
}
_HOT: Final = 0x20 | 0x40  # software and hardware thermal slowdown
_MOST_PERCENT: Final = 100


def read(nvml: Any = None) -> Reading | None:
    """All GPUs; `None` where there is no NVML. A driver that does not answer is a problem in its own words."""
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        missing = {
            getattr(nvml, name, None) for name in ("NVML_ERROR_LIBRARY_NOT_FOUND", "NVML_ERROR_DRIVER_NOT_LOADED")
        }
        if getattr(error, "value", None) in missing:
            return None  # no NVIDIA driver is installed here: nothing is wrong
        return Reading("nvml", "", 0, problems=(f"NVML: {error}",))
    try:
        return _all(nvml)
    except nvml.NVMLError as error:
        return Reading("nvml", "", 0, problems=(f"NVML: {error}",))
    finally:
        nvml.nvmlShutdown()


def _all(nvml: Any) -> Reading:
    driver = _asked(nvml, nvml.nvmlSystemGetDriverVersion)
    found: list[Accelerator] = []
    problems: list[str] = []
    for index in range(min(nvml.nvmlDeviceGetCount(), _MOST_GPUS)):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            problems.append(f"GPU {index}: {error}")
            health = Health("critical", (f"NVML: {error}",))
            found.append(Accelerator("nvidia", card=index, driver=driver, health=health))
            continue
        gpu = _gpu(nvml, index, handle, driver)
        found += [gpu, *_partitions(nvml, handle, gpu)]
    return Reading("nvml", "", 0, tuple(found), problems=tuple(problems))


def _asked(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """An answer, text as `str`; `None` where this GPU or driver has none."""
    try:
        found = function(*arguments)
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError, AttributeError):  # a driver older than the binding, too
        return None
    return found.decode(errors="replace") if isinstance(found, bytes) else found


def _gpu(nvml: Any, index: int, handle: Any, driver: str | None) -> Accelerator:
    def ask(name: str, *arguments: Any) -> Any:
        function = getattr(nvml, name, None)
        return None if function is None else _asked(nvml, function, handle, *arguments)

    address = ask("nvmlDeviceGetPciInfo")
    bus = None if address is None else address.busId
    bus = bus.decode(errors="replace") if isinstance(bus, bytes) else bus
    users = ask("nvmlDeviceGetComputeRunningProcesses") or ask("nvmlDeviceGetComputeRunningProcesses_v2") or ()
    memory, rates, power = (
        ask("nvmlDeviceGetMemoryInfo"),
        ask("nvmlDeviceGetUtilizationRates"),
        ask("nvmlDeviceGetPowerUsage"),
    )
    temperature = ask("nvmlDeviceGetTemperature", getattr(nvml, "NVML_TEMPERATURE_GPU", 0))
    ecc = _ecc(ask)
    mig = ask("nvmlDeviceGetMigMode")
    return Accelerator(
        "nvidia",
        product=ask("nvmlDeviceGetName"),
        architecture=_ARCHITECTURES.get(ask("nvmlDeviceGetArchitecture") or -1),
        card=index,
        physical_id=ask("nvmlDeviceGetMinorNumber"),
        serial=ask("nvmlDeviceGetSerial"),
        unique_id=ask("nvmlDeviceGetUUID"),
        pci=None if not bus else bus.lower()[-12:],
        memory_total=None if memory is None else int(memory.total),
        memory_used=None if memory is None else int(memory.used),
        utilisation=Utilisation()
        if rates is None
        else Utilisation(core=_rate(rates.gpu), memory_bandwidth=_rate(rates.memory)),
        temperature=None if temperature is None else float(temperature),
        power=None if power is None else power / 1000,  # milliwatts
        health=_health(ask, ecc),
        ecc=ecc,
        processes=tuple(Process(user.pid, memory=user.usedGpuMemory) for user in users),
        firmware=ask("nvmlDeviceGetVbiosVersion"),
        driver=driver,
        features=("mig",) if mig is not None and mig[0] else (),
    )


def _rate(value: int) -> float | None:
    return float(value) if 0 <= value <= _MOST_PERCENT else None


def _ecc(ask: Callable[..., Any]) -> Ecc:
    """Corrected and uncorrected, since the driver was loaded (0) and ever (1)."""
    counts = [ask("nvmlDeviceGetTotalEccErrors", kind, since) for since in (0, 1) for kind in (0, 1)]
    return Ecc(*counts)


def _health(ask: Callable[..., Any], ecc: Ecc) -> Health:
    """What the driver says is wrong; unknown where it answers none of the questions."""
    remapped, retiring = ask("nvmlDeviceGetRemappedRows"), ask("nvmlDeviceGetRetiredPagesPendingStatus")
    slowed = ask("nvmlDeviceGetCurrentClocksEventReasons")
    slowed = ask("nvmlDeviceGetCurrentClocksThrottleReasons") if slowed is None else slowed
    answered = any(one is not None for one in (remapped, retiring, slowed, ecc.double_bit))
    health = Health("ok" if answered else "unknown")
    if remapped is not None and remapped[3]:
        health = health.at_least("alarm", "remapping of memory rows failed")
    if retiring == 1:
        health = health.at_least("alarm", "pages of memory wait for their retirement")
    health = judged(health, ecc, "nvidia")
    return health.at_least("warning", "it is slowed down because it is hot") if (slowed or 0) & _HOT else health


def _partitions(nvml: Any, handle: Any, gpu: Accelerator) -> Iterator[Accelerator]:
    """The MIG devices of a GPU: memory of their own, the GPU's health."""
    if "mig" not in gpu.features:
        return
    for index in range(_asked(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _asked(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if part is None:
            continue
        memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, part)
        places = [
            (name, _asked(nvml, function, part))
            for name, function in (("GI", nvml.nvmlDeviceGetGpuInstanceId), ("CI", nvml.nvmlDeviceGetComputeInstanceId))
        ]
        yield Accelerator(
            "nvidia",
            product=_asked(nvml, nvml.nvmlDeviceGetName, part) or gpu.product,
            architecture=gpu.architecture,
            card=gpu.card,
            unique_id=_asked(nvml, nvml.nvmlDeviceGetUUID, part),
            pci=gpu.pci,
            memory_total=None if memory is None else int(memory.total),
            memory_used=None if memory is None else int(memory.used),
            health=gpu.health,
            driver=gpu.driver,
            features=tuple(f"{name} {place}" for name, place in places if place is not None),
            partition=f"MIG {index}",
            parent=gpu.unique_id,
        )

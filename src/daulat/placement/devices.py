"""Accelerators for a deployment: which are taken, and how an engine's sandbox comes to see them. Pure.

A device is named by its kind and the number of its device file: `npu:3` is `/dev/davinci3`, `gpu:0` is `/dev/nvidia0`.
Sources: the driver mounts of vllm-ascend's and NVIDIA's container documentation. Not run on silicon.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from daulat.core.accelerator import MIB, Accelerator
from daulat.errors import InvalidRequest

_KINDS: Final = {"ascend": "npu", "nvidia": "gpu"}
_FILES: Final = {
    "npu": ("/dev/davinci{}", ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")),
    "gpu": ("/dev/nvidia{}", ("/dev/nvidiactl", "/dev/nvidia-uvm")),
}
_VISIBLE: Final = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES"}
LOOKS: Final = 2  # in a row without a device, before it is taken to be gone
_MOST_SAID: Final = 3  # problems in a refusal
_USABLE: Final = 0.8  # of a device's memory, for weights: the rest is for the KV cache and the runtime


def named(accelerators: Iterable[Accelerator]) -> dict[str, Accelerator]:
    """The devices that work may be placed on, by name, in order."""
    return {name: one for name, one in _all(accelerators).items() if one.health.fit}


def _all(accelerators: Iterable[Accelerator]) -> dict[str, Accelerator]:
    found = {
        f"{_KINDS[one.vendor]}:{one.physical_id}": one
        for one in accelerators
        if one.vendor in _KINDS and one.physical_id is not None and one.partition is None
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].vendor, item[1].physical_id)))


@dataclass(frozen=True, slots=True)
class Fitness:
    """What the newest look says of devices in use. `unfit`: why nothing may run there, by name.

    `missed`: how often in a row a device was not seen, or nothing was known of its health. A tool that does not answer
    once says nothing of a chip; a chip that says that it is broken is believed at once.
    """

    unfit: Mapping[str, str] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)

    def after(self, used: Collection[str], accelerators: Iterable[Accelerator]) -> Fitness:
        """The next one, from a new look. What is unfit stays so until it is seen to be well."""
        present, unfit, missed = _all(accelerators), dict[str, str](), dict[str, int]()
        for name in used:
            one = present.get(name)
            state = "unknown" if one is None else one.health.state
            if state != "unknown":
                if one is not None and not one.health.fit:
                    unfit[name] = _why(name, one)
                continue
            missed[name] = self.missed.get(name, 0) + 1
            if name in self.unfit or missed[name] >= LOOKS:
                unfit[name] = self.unfit.get(name) or (
                    f"device {name} has disappeared" if one is None else f"device {name}: its health is not known"
                )
        return Fitness(unfit, missed)


def _why(name: str, one: Accelerator) -> str:
    said = "; ".join([*one.health.reasons[:3], *(f"error code {code}" for code in one.health.codes[:3])])
    return f"device {name} ({one.name}) is {one.health.state}" + (f": {said}" if said else "")


def checked(
    devices: Sequence[str],
    present: Collection[str],
    accelerators: Iterable[Accelerator] = (),
    problems: Sequence[str] = (),
) -> None:
    """Refuse devices that nothing can be placed on. `accelerators`, `problems`: of the look that found `present`.

    Raises:
        InvalidRequest: they are of two kinds, or one is not there or not healthy; says why, and which are.
    """
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise InvalidRequest("a deployment's devices are of one kind: NPUs or GPUs")
    every = _all(accelerators)
    for device in devices:
        if device not in present:
            has = ", ".join(present) or "none but its CPU"
            sick = f"{_why(device, every[device])}; " if device in every else ""
            wrong = "".join(f"; {words}" for words in problems[:_MOST_SAID])
            raise InvalidRequest(
                f"{sick}{device} is not here, or not healthy; this machine's accelerators are: {has}{wrong}"
            )


def choose(
    present: Mapping[str, Accelerator], taken: Collection[str], model_bytes: int, replicas: int
) -> tuple[str, ...]:
    """Free devices of one kind for so many replicas; none where there are too few, and the CPU has to do.

    Each replica gets the smallest power of two of devices whose memory holds the model's weights: tensor parallelism
    divides attention heads evenly.
    """
    for kind in _FILES:
        free = [name for name in present if name.startswith(f"{kind}:") and name not in taken]
        sizes = [present[name].memory_total or 0 for name in free]
        each = 1
        while replicas and each * replicas <= len(free):
            if min(sizes[: each * replicas]) * each * _USABLE >= max(model_bytes, MIB):
                return tuple(free[: each * replicas])
            each *= 2
    return ()


def engine_for(format_: str, devices: Sequence[str]) -> str:
    """The engine that runs a model of this format there, where the operator names none."""
    if format_ == "gguf":
        return "llama.cpp"
    return "vllm-ascend" if devices and devices[0].startswith("npu:") else "vllm"


def options(devices: Sequence[str], said: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's options with what it needs to see these devices; what the operator said comes on top."""
    if not devices:
        return dict(said)
    kind = devices[0].partition(":")[0]
    numbers = [device.partition(":")[2] for device in devices]
    pattern, shared = _FILES[kind]
    files = [*(pattern.format(number) for number in numbers), *shared]
    files += [file for file in said.get("devices", ()) if file not in files]
    return {
        **said,
        "devices": files,
        "environment": {_VISIBLE[kind]: ",".join(numbers), **said.get("environment", {})},
    }

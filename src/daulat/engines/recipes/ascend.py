"""What every engine on Ascend needs of the host: generations of chips, device nodes, the driver's files. Pure.

Source: https://github.com/vllm-project/vllm-ascend/blob/182b75e/docs/source/installation.md
"""

from __future__ import annotations

import re
from typing import Final

from daulat.catalog.accelerators import ChipSpec
from daulat.engines.recipes.recipe import Mount
from daulat.errors import ConfigError

_GENERATIONS: Final = (("910c", "a3"), ("910b", "a2"), ("310p", "310p"), ("950", "950dt"))
_DRIVER: Final = (
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64/",
    "/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info",
)
_HCCN_TOOL: Final = "/usr/local/Ascend/driver/tools/hccn_tool"
_MOST_LINES: Final = 10_000
_LONGEST_LINE: Final = 200
_ADDRESS: Final = re.compile(r"address_(\d{1,3})\s*=\s*([0-9A-Fa-f.:]{2,45})")
_HCCN: Final = "/etc/hccn.conf"  # addresses of the devices' own network ports: HCCL between nodes reads it


def generation(chip: ChipSpec) -> str:
    """Which of `a2`, `a3`, `310p`, `950dt` a chip is.

    Raises:
        ConfigError: it is no Ascend chip that engines know.
    """
    for prefix, found in _GENERATIONS:
        if chip.vendor == "huawei" and chip.id.removeprefix("ascend-").startswith(prefix):
            return found
    raise ConfigError(f"{chip.title} is no Ascend chip that this engine runs on", location="--on")


def device_addresses(text: str) -> tuple[str, ...]:
    """Addresses of a node's devices, by physical id, out of its `/etc/hccn.conf`.

    Raises:
        ConfigError: none stands there, an id is missing or too large, or a line is too long.
    """
    found: dict[int, str] = {}
    for line in text.splitlines()[:_MOST_LINES]:
        match = _ADDRESS.fullmatch(line.strip()[:_LONGEST_LINE])
        if match:
            found[int(match[1])] = match[2]
    if not found or set(found) != set(range(len(found))):
        raise ConfigError(
            f"it gives no addresses of devices 0, 1, 2, ... without a gap, but of {sorted(found)}; "
            "a line is address_0=10.0.0.1",
            location="hccn.conf",
        )
    return tuple(found[index] for index in range(len(found)))


def nodes_of_devices(soc: str, count: int) -> tuple[str, ...]:
    """Device nodes a container gets: the first `count` NPUs by physical id, and the manager's."""
    further = ("/dev/ummu", "/dev/uburma") if soc == "950dt" else ("/dev/devmm_svm",)
    return (*(f"/dev/davinci{index}" for index in range(count)), "/dev/davinci_manager", "/dev/hisi_hdc", *further)


def mounts(soc: str, weights: str, *, several: bool) -> tuple[Mount, ...]:
    """The driver's files and the weights, all read-only."""
    paths = list(_DRIVER)
    if soc != "310p":
        paths.append(_HCCN_TOOL)
    if several:
        paths.append(_HCCN)
    if soc == "950dt":
        paths.append("/etc/hixlep/")
    return (*(Mount(path, path) for path in paths), Mount(weights, weights))

"""What of a recipe goes into a deployment on this machine, under the operator's own options. Pure.

Daulat starts the engine itself, in a sandbox: address, name, weights, slots and context are its own flags already, and
what is left of the recipe's command and environment comes after them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daulat.engines.recipes.recipe import Recipe
from daulat.errors import ConfigError

PARALLEL: Final = {  # by engine: the flags of tensor and of data parallelism, and others that divide a model
    "vllm": (("--tensor-parallel-size", "-tp"), ("--data-parallel-size", "-dp"), ("--pipeline-parallel-size", "-pp")),
    "sglang": (("--tp-size", "--tp", "--tensor-parallel-size"), ("--dp-size", "--data-parallel-size"), ("--pp-size",)),
}
PARALLEL["vllm-ascend"] = PARALLEL["vllm"]
_OURS: Final = {  # by engine: what its command says already (`engines.vllm.engine.command`, `engines.sglang.command`)
    "vllm": ("--host", "--port", "--served-model-name", "--max-model-len"),
    "sglang": (
        *("--model-path", "--host", "--port", "--served-model-name", "--context-length"),
        *("--max-running-requests", "--enable-metrics"),
    ),
}
_OURS["vllm-ascend"] = _OURS["vllm"]
_SEQUENCES: Final = "--max-num-seqs"
_SAID: Final = {"--max-model-len": "--context", "--context-length": "--context", "--max-running-requests": "--slots"}
_VISIBLE: Final = ("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
# A sandbox has the loopback alone, and collectives look for another interface first.
_LOOPBACK: Final = {
    "npu": ("HCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME"),
    "gpu": ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"),
}
_LIBRARIES: Final = "/usr/local/Ascend/driver/lib64"
FILES: Final = "/daulat/files"  # where a sandbox shows what a recipe writes
_ANOTHERS: Final = re.compile(r"--no-")


@dataclass(frozen=True, slots=True)
class Deployed:
    """An engine's options with the recipe under them, and the files that it reads, by name."""

    options: Mapping[str, Any]
    files: Mapping[str, str]


def named(arguments: Iterable[str]) -> set[str]:
    """The flags among an engine's arguments, without what turns them round."""
    words = (argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("-"))
    return {_ANOTHERS.sub("--", word, count=1) for word in words}


def divided(engine: str, arguments: Sequence[str]) -> tuple[int, int] | None:
    """Tensor- and data-parallel size that the operator gave; None where nothing was said of dividing the model.

    Raises:
        ConfigError: one is no number.
    """
    kinds = PARALLEL.get(engine, ())
    if not any(flag in named(arguments) for flags in kinds for flag in flags):
        return None
    tensor, data = (_size(arguments, flags) for flags in kinds[:2])
    return (max(1, tensor // data), data) if engine == "sglang" else (tensor, data)  # it counts all devices as tensor's


def _size(arguments: Sequence[str], flags: Sequence[str]) -> int:
    found = "1"
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") in flags:
            found = value if equals else arguments[number + 1] if number + 1 < len(arguments) else ""
    if not found.isascii() or not found.isdigit() or not 1 <= int(found) <= 4096:  # noqa: PLR2004
        raise ConfigError(f"{flags[0]} is {found[:40]!r}, expected a whole number", location="--engine-options")
    return int(found)


def refuse_said(engine: str, arguments: Sequence[str]) -> None:
    """Raises:
    ConfigError: an argument says what the deployment says, so that its log entry would not be true.
    """
    for flag in sorted(named(arguments) & set(_SAID)):
        raise ConfigError(
            f"{engine}'s {flag} is the deployment's own: give {_SAID[flag]}, so that what the log says is what it gets",
            location="--engine-options",
        )


def under(recipe: Recipe, engine: str, kind: str, options: Mapping[str, Any], present: Sequence[str]) -> Deployed:
    """The options with the recipe's flags before them, its environment under theirs, and what it mounts.

    `kind`: of the devices, npu or gpu; `present`: what of this host's folders and files is there and is to be shown.
    """
    (process,) = recipe.processes
    said: Sequence[str] = options.get("arguments", ())
    ours = list(_kept(recipe, engine, process.argv, said)) if engine in _OURS else []
    moved = {file.path: f"{FILES}/{file.path.rpartition('/')[2]}" for file in recipe.files}
    environment = {name: moved.get(value, value) for name, value in process.environment.items() if name not in _VISIBLE}
    if len(process.devices) > 1:
        environment |= dict.fromkeys(_LOOPBACK[kind], "lo")
    given: Sequence[str] = options.get("read_only", ())
    shown = [path for path in present if path not in given]
    if shown and kind == "npu":
        parts = ("", "/common", "/driver")
        environment["LD_LIBRARY_PATH"] = ":".join(f"{_LIBRARIES}{part}" for part in parts)
    found = {
        **options,
        "arguments": [*ours, *said],
        "environment": {**environment, **options.get("environment", {})},
        "read_only": [*shown, *given],
    }
    return Deployed(found, {file.path.rpartition("/")[2]: file.text for file in recipe.files})


def mounted(recipe: Recipe) -> tuple[str, ...]:
    """Paths of the host that the recipe's own container has beside the weights: the driver's files."""
    mounts = recipe.container.mounts if recipe.container is not None else ()
    return tuple(mount.host.rstrip("/") for mount in mounts if mount.host.startswith(("/usr/local/", "/etc/")))


def _kept(recipe: Recipe, engine: str, argv: Sequence[str], said: Sequence[str]) -> Iterator[str]:
    """The command's flags, each with what follows it, but for ours and those that the operator gives himself.

    What divides the model is the operator's altogether where he says anything of it.
    """
    (group,) = recipe.groups
    left_out = named(said) | set(_OURS[engine])
    if group.dp == 1:
        left_out.add(_SEQUENCES)  # one rank has as many as the deployment has slots
    if divided(engine, said) is not None:
        left_out |= {flag for flags in PARALLEL[engine] for flag in flags}
    if group.dp > 1 and engine == "sglang" and "--max-running-requests" in argv:  # of all ranks, at least one each
        slots = int(argv[argv.index("--max-running-requests") + 1])
        yield from ("--max-running-requests", str(-(-slots // group.dp) * group.dp))
    keeping = False  # until the first flag: the program and the weights
    for word in argv:
        if word.startswith("--"):
            keeping = not named([word]) & left_out
        if keeping:
            yield word

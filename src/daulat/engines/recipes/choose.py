"""Which engine and which precision, where nobody has said. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from daulat.catalog.accelerators import ChipSpec
from daulat.catalog.models import ModelSpec
from daulat.catalog.precision import PRECISIONS
from daulat.engines.recipes import llamacpp, mindie, sglang, vllm, vllm_ascend
from daulat.engines.recipes.recipe import Recipe, Request
from daulat.errors import ConfigError

ENGINES: Final[Mapping[str, Callable[[Request], Recipe]]] = MappingProxyType(
    {
        "vllm": vllm.recipe,
        "vllm-ascend": vllm_ascend.recipe,
        "mindie": mindie.recipe,
        "sglang": sglang.recipe,
        "llama.cpp": llamacpp.recipe,
    }
)
_USUAL: Final = {"huawei": "vllm-ascend", "nvidia": "vllm", "amd": "vllm", "cpu": "llama.cpp"}
_PREFERRED: Final = ("w8a8", "w4a8", "fp8", "fp4", "nvfp4", "mxfp4", "bf16", "fp16", "w4a16", "int4")
_MADE: Final = {"w8a8", "w4a8", "bf16"}
_GGUF: Final = ("q8_0", "q4_k_m", "q4_0", "bf16", "fp16")


def engine(name: str | None, chip: ChipSpec) -> str:
    """The engine asked for, else the usual one of the chip's vendor.

    Raises:
        ConfigError: there is no recipe for an engine of that name.
    """
    if name is None:
        return _USUAL[chip.vendor]
    if name not in ENGINES:
        raise ConfigError(f"no recipes for engine {name!r}; there are for {', '.join(ENGINES)}", location="--engine")
    return name


def precision(wished: str | None, model: ModelSpec, chip: ChipSpec, engine_name: str) -> str:
    """The precision asked for, else the model's own where the chip computes in it, else the best there are weights for.

    Raises:
        ConfigError: no weights in what was asked for, or in anything the chip computes in.
    """
    if engine_name == "llama.cpp":
        return _gguf(wished, chip)
    loadable = {*model.weights, *(("fp16",) if "bf16" in model.weights else ())}  # engines convert the one at load
    if wished is not None and chip.vendor == "huawei" and {"bf16", "fp8"} & set(model.weights):
        loadable |= _MADE  # what is not published, the site makes: msmodelslim quantises, FP8 is cast to BF16
    if wished is not None and not any(weights.checkpoint for weights in model.weights.values()):
        loadable = set(PRECISIONS)  # somebody's own weights: they know in what these are
    if wished is not None:
        if wished not in loadable:
            raise ConfigError(
                f"no weights of {model.title} in {wished} are known; there are in {', '.join(sorted(loadable))}",
                location="--precision",
            )
        return wished
    for name in (model.native, *_PREFERRED):
        if name in loadable and name in chip.precisions:
            return name
    raise ConfigError(
        f"{chip.title} computes in {', '.join(chip.precisions)}, and {model.title} is published in "
        f"{', '.join(model.weights)}: give --precision if you have others",
        location="--precision",
    )


def _gguf(wished: str | None, chip: ChipSpec) -> str:
    known = [name for name in _GGUF if name in chip.precisions or name.startswith("q")]
    if wished is not None and wished not in known:
        raise ConfigError(f"llama.cpp takes GGUF files, in {', '.join(known)}, not {wished}", location="--precision")
    return wished or "q8_0"

"""Which engine and which precision, where nobody has said. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
_MADE: Final = {"w8a8", "w4a8", "bf16"}
_GGUF: Final = ("q8_0", "mxfp4", "q4_k_m", "q4_0", "bf16", "fp16")
_ONLY_GGUF: Final = ("q8_0", "q4_k_m", "q4_0")


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


def precisions(
    wished: str | None, model: ModelSpec, chip: ChipSpec, engine_name: str, best: Sequence[str]
) -> tuple[str, ...]:
    """The precision asked for, else those to try, in turn. `best`: what the planner would take there, best first.

    Raises:
        ConfigError: no weights in what was asked for, or in anything the chip computes in.
    """
    if engine_name == "llama.cpp":
        return _gguf(wished, model, chip)
    if wished is not None:
        _refuse_unknown(wished, model, chip)
        return (wished,)
    if not best:
        raise ConfigError(
            f"{chip.title} computes in {', '.join(chip.precisions)}, and {model.title} is published in "
            f"{', '.join(model.weights)}: give --precision if you have others",
            location="--precision",
        )
    return tuple(name for name in best if name not in _ONLY_GGUF)


def _refuse_unknown(wished: str, model: ModelSpec, chip: ChipSpec) -> None:
    loadable = {*model.weights, *(("fp16",) if "bf16" in model.weights else ())}  # engines convert the one at load
    if chip.vendor == "huawei" and {"bf16", "fp8"} & set(model.weights):
        loadable |= _MADE  # what is not published, the site makes: msmodelslim quantises, FP8 is cast to BF16
    if not any(weights.checkpoint for weights in model.weights.values()):
        loadable = set(PRECISIONS)  # somebody's own weights: they know in what these are
    if wished not in loadable:
        raise ConfigError(
            f"no weights of {model.title} in {wished} are known; there are in {', '.join(sorted(loadable))}",
            location="--precision",
        )


def _gguf(wished: str | None, model: ModelSpec, chip: ChipSpec) -> tuple[str, ...]:
    """Anybody may convert to 8 or 4 bits; experts in MXFP4 stay so where they were published so."""
    known = [name for name in _GGUF if name in chip.precisions or name.startswith("q")]
    if wished is not None:
        if wished not in known:
            raise ConfigError(
                f"llama.cpp takes GGUF files, in {', '.join(known)}, not {wished}", location="--precision"
            )
        return (wished,)
    if model.measured is not None:
        return (model.measured.name,)
    return tuple(name for name in known if name in ("q8_0", "q4_k_m") or (name == "mxfp4" and name in model.weights))

"""How a model is laid over devices: tensor, data, expert and pipeline parallelism, and what forbids a layout.

Expert parallelism is as wide as tensor times data, as vLLM and SGLang have it: attention is repeated in each
data-parallel rank, experts are spread over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from daulat.catalog.accelerators import Hardware
from daulat.catalog.shape import Compressed, GroupedQuery, Shape

HEADS_A_DEVICE: Final = 16  # of latent attention: with fewer, kernels run half empty (published layouts keep to it)
WIDEST: Final = 16  # of tensor parallelism; beyond, each step is mostly communication
LEAN: Final = 0.25  # share of a device's memory that a dense model's weights should take, so that there is room


@dataclass(frozen=True, slots=True)
class Layout:
    """Widths of each kind. Tensor times data times pipeline is the number of devices; experts lie over all of a stage.

    `experts`: 1 where none are. `context`: tensor-parallel devices that a latent cache is divided among (decode context
    parallelism), 1 where each holds it whole.
    """

    tensor: int
    data: int
    pipeline: int = 1
    experts: int = 1
    context: int = 1

    @property
    def devices(self) -> int:
        """Devices it takes."""
        return self.tensor * self.data * self.pipeline

    def __str__(self) -> str:
        widths = (self.tensor, self.data, self.pipeline, self.experts, self.context)
        named = zip(("TP", "DP", "PP", "EP", "DCP"), widths, strict=True)
        return " ".join(f"{name}{width}" for name, width in named if width > 1) or "one device"


def layout(shape: Shape, *, tensor: int, data: int = 1, pipeline: int = 1) -> Layout:
    """A layout with experts, where the model has them, over all devices of a pipeline stage."""
    return Layout(tensor, data, pipeline, tensor * data if shape.experts else 1)


def forbidden(shape: Shape, wanted: Layout, hardware: Hardware) -> str:
    """Why this layout cannot be, in one sentence; "" where it can."""
    return next(_obstacles(shape, wanted, hardware), "")


def _obstacles(shape: Shape, wanted: Layout, hardware: Hardware) -> Iterator[str]:
    attention, tensor = shape.attention, wanted.tensor
    among = f"cannot be divided among {tensor} tensor-parallel devices"
    if attention.heads % tensor:
        yield f"{attention.heads} attention heads {among}"
    for part in (attention, attention.full) if isinstance(attention, GroupedQuery) else ():
        if part is not None and part.kv_heads % tensor and tensor % part.kv_heads:
            yield f"{part.kv_heads} key-value heads {among}, nor repeated on them"
    if isinstance(attention, Compressed) and attention.output_groups % tensor:
        yield f"{attention.output_groups} output groups {among}"
    if shape.linear and shape.linear.key_heads % tensor:
        yield f"{shape.linear.key_heads} heads of linear attention {among}"
    if shape.dense_layers and shape.dense_hidden % tensor:
        yield f"an MLP {shape.dense_hidden} wide {among}"
    reach = max(hardware.devices, hardware.node.domain)
    if tensor > reach:
        yield f"tensor parallelism over {tensor} devices leaves the {reach} that a fast link joins"
    if wanted.context > 1 and (tensor % wanted.context or shape.latent is None):
        yield f"only a latent cache, on tensor-parallel devices, can be divided among {wanted.context} of them"
    if wanted.pipeline > shape.layers:
        yield f"{shape.layers} layers cannot be divided among {wanted.pipeline} pipeline stages"


def with_divided_cache(shape: Shape, wanted: Layout) -> Layout:
    """The same, with a latent cache divided among all tensor-parallel devices; others have theirs divided already."""
    return replace(wanted, context=wanted.tensor) if shape.latent else wanted


def redundant_experts(shape: Shape, wanted: Layout) -> int:
    """Copies of experts that must be added so that each device holds as many as its neighbour."""
    if shape.experts is None:
        return 0
    return -shape.experts.routed % wanted.experts


def candidates(shape: Shape, hardware: Hardware, weight_gib: float) -> list[Layout]:
    """All layouts that use every device and nothing forbids, best first.

    `weight_gib`: of all weights, which decides how wide a dense model is cut.
    """
    preferred = preferred_tensor(shape, hardware, weight_gib)
    found = [item for item in _all(shape, hardware) if not forbidden(shape, item, hardware)]
    return sorted(found, key=lambda item: _rank(shape, item, preferred))


def preferred_tensor(shape: Shape, hardware: Hardware, weight_gib: float) -> int:
    """The tensor-parallel width to aim at."""
    attention = shape.attention
    if not isinstance(attention, GroupedQuery):
        return max(1, attention.heads // HEADS_A_DEVICE)
    if shape.experts:
        return attention.kv_heads
    lean = weight_gib / max(hardware.chip.memory * LEAN, 1)
    return min(2 ** max(0, math.ceil(math.log2(lean))) if lean > 1 else 1, max(attention.kv_heads, 1))


def _all(shape: Shape, hardware: Hardware) -> Iterator[Layout]:
    total = hardware.total
    for pipeline in _divisors(hardware.nodes):
        stage = total // pipeline
        for tensor in _divisors(math.gcd(stage, shape.attention.heads)):
            if tensor <= WIDEST:
                yield layout(shape, tensor=tensor, data=stage // tensor, pipeline=pipeline)


def _rank(shape: Shape, item: Layout, preferred: int) -> tuple[int, int, float, int]:
    """Without a pipeline, without copied experts, near the preferred width, rather wider than narrower."""
    distance = abs(math.log2(item.tensor / preferred))
    return item.pipeline, min(redundant_experts(shape, item), 1), distance, -item.tensor


def _divisors(number: int) -> list[int]:
    return [width for width in range(1, number + 1) if number % width == 0]

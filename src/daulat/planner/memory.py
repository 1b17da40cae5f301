"""What one device must hold, item by item, in bytes.

Weights follow from the shape and agree with the sizes of published checkpoints within a few parts in a hundred; the
rest is an estimate from the sources beside each constant, and stated as such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from daulat.catalog.accelerators import ChipSpec
from daulat.catalog.counting import expert, mtp_parts, parts
from daulat.catalog.precision import KV_BYTES, Precision
from daulat.catalog.shape import INDEXED_RATIO, Compressed, GroupedQuery, Indexer, Latent, Shape
from daulat.planner.layout import Layout

MIB: Final = 2**20
GIB: Final = 2**30
GRAPHS: Final = "captured graphs"
_FP32: Final = 4
_BF16: Final = 2
# A process with its libraries and kernels loaded, before any weight: vLLM on CUDA 0.6 GiB, torch_npu with CANN about 1.
_PROCESS: Final = {"huawei": 1.0 * GIB, "nvidia": 0.6 * GIB, "amd": 1.0 * GIB, "cpu": 0.3 * GIB}
# Captured graphs: what vLLM reports after capture, 0.3 to 1 GiB. A CPU captures none.
_GRAPHS: Final = {"huawei": 0.8 * GIB, "nvidia": 0.8 * GIB, "amd": 0.8 * GIB, "cpu": 0.0}
# HCCL takes 2 x HCCL_BUFFSIZE a communicator (CANN's reference), 200 MB by default; vllm-ascend's published MoE
# configurations set 1024 for the experts' exchange.
_HCCL: Final = 2 * 200 * MIB
_HCCL_EXPERTS: Final = 2 * 1024 * MIB
# NCCL on 4 or 8 GPUs: 392 MiB (aiconfigurator, systems/h100_sxm.yaml); the experts' exchange about as much again twice.
_NCCL: Final = 392 * MIB
_NCCL_EXPERTS: Final = 1024 * MIB
# What the allocator holds and cannot hand out, though it expands its segments.
_FRAGMENTS: Final = 0.015
_RESIDUALS: Final = 6  # copies of a token's hidden state alive at once: residual, norm, input and output of both halves
_IMBALANCE: Final = 2  # the busiest device's share of routed tokens over the mean


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the account of a device's memory."""

    name: str
    bytes: float


@dataclass(frozen=True, slots=True)
class KvCost:
    """Bytes a device for the KV cache: for each token of context, and for each sequence whatever its length."""

    token: float
    sequence: float

    def of(self, context: int) -> float:
        """Bytes for one sequence of that many tokens."""
        return self.token * context + self.sequence


def weights(shape: Shape, precision: Precision, layout: Layout) -> tuple[Item, ...]:
    """Weights on the fullest device, MTP layers included."""
    main, further = parts(shape), mtp_parts(shape)
    stages, tensor = layout.pipeline, layout.tensor
    share = math.ceil(shape.layers / stages) / shape.layers
    attention = (main.attention * share + further.attention) / tensor + main.whole * share + further.whole
    mlp = (main.mlp * share + further.mlp) / tensor
    router = main.router * share + further.router
    # The first stage has the embedding, the last the output projection; where they are one stage, both.
    vocabulary = max(main.embedding, main.head) if stages > 1 else main.embedding + main.head
    items = [
        Item("attention", attention * precision.attention / 8),
        Item("dense layers and shared experts", mlp * precision.mlp / 8),
        Item("routed experts", _experts(shape, layout, share) * precision.experts / 8),
        Item("routers and norms (16 bits)", router * _BF16),
        Item("embedding and output projection", vocabulary / tensor * precision.embedding / 8),
    ]
    return tuple(item for item in items if item.bytes)


def whole(shape: Shape, precision: Precision) -> float:
    """Bytes of all weights, once."""
    return parts(shape).bytes(precision) + mtp_parts(shape).bytes(precision)


def kv(shape: Shape, precision: str, layout: Layout, *, drafts: bool = True) -> KvCost:
    """The KV cache's cost on one device. Latent and compressed caches are whole on every tensor-parallel device, unless
    decode context parallelism divides a latent one.

    With FP8 (and INT8) latents, engines keep the positional part in 16 bits and a scale for 128 elements: FlashMLA's
    656 bytes a token and layer. `drafts`: the MTP layers' cache too.
    """
    attention, width = shape.attention, KV_BYTES[precision]
    layers = shape.layers + (shape.mtp_layers if drafts else 0)
    if isinstance(attention, Latent):
        narrow = width < _BF16
        rest = attention.kv_rank / 128 * _FP32 if narrow else 0
        token = attention.kv_rank * width + attention.rope * _BF16 + rest
        cost = KvCost(token * layers + _index_keys(attention.indexer, layers, width), 0)
    elif isinstance(attention, Compressed):
        cost = _compressed(attention, attention.ratios[:layers], width)
    else:
        cost = _grouped(shape, attention, width, layout, layers)
    stages = layout.pipeline
    return KvCost(cost.token / stages / layout.context, cost.sequence / stages)


def activations(shape: Shape, layout: Layout, *, batched: int, sequences: int) -> float:
    """Peak of intermediate results for a step of `batched` tokens, `sequences` of which ask for logits."""
    tensor = layout.tensor
    token = _RESIDUALS * shape.streams * shape.hidden + _attention_width(shape) / tensor
    if shape.dense_layers:
        token += 2 * shape.dense_hidden / tensor
    if shape.experts:
        # Every rank of a group works on the group's tokens; dispatch spreads them over all experts.
        routed = shape.experts.active * (2 * shape.hidden + 2 * shape.experts.hidden) / tensor
        token += _IMBALANCE * routed + 2 * shape.experts.shared_hidden / tensor
    logits = 2 * sequences * shape.vocabulary / tensor * _FP32
    return batched * token * _BF16 + logits


def runtime(chip: ChipSpec, shape: Shape, layout: Layout) -> tuple[Item, ...]:
    """What the process needs besides: libraries, communication buffers, captured graphs, fragments."""
    groups = sum(width > 1 for width in (layout.tensor, layout.data, layout.pipeline))
    spread = shape.experts is not None and layout.data > 1  # ranks of their own requests exchange tokens
    one, exchange = (_HCCL, _HCCL_EXPERTS) if chip.vendor == "huawei" else (_NCCL, _NCCL_EXPERTS)
    buffers = groups * one + (exchange if spread else 0)
    items = (
        Item("process and libraries", _PROCESS[chip.vendor]),
        Item("HCCL buffers" if chip.vendor == "huawei" else "communication buffers", buffers),
        Item(GRAPHS, _GRAPHS[chip.vendor]),
        Item("fragmentation", _FRAGMENTS * chip.memory * GIB),
    )
    return tuple(item for item in items if item.bytes)


def _experts(shape: Shape, layout: Layout, share: float) -> float:
    if shape.experts is None:
        return 0
    held = math.ceil(shape.experts.routed / layout.experts)
    return held * expert(shape) * (shape.moe_layers * share + shape.mtp_layers)


def _index_keys(indexer: Indexer | None, layers: int, width: float) -> float:
    if indexer is None:
        return 0
    scale = _FP32 if width < _BF16 else 0
    return (indexer.layers or layers) * (indexer.head * width + scale)


def _compressed(attention: Compressed, ratios: tuple[int, ...], width: float) -> KvCost:
    """Entries are `head` wide: with 8 bits the positional part stays 16 bits, a byte of scale for 64 elements."""
    narrow = width < _BF16
    plain = attention.head - attention.rope
    entry = plain * width + attention.rope * _BF16 + (plain / 64 if narrow else 0)
    key = attention.indexer.head * width + (_FP32 if narrow else 0)
    token = sum(entry / ratio for ratio in ratios if ratio)
    token += sum(key / ratio for ratio in ratios if ratio == INDEXED_RATIO)
    # The window of every layer, and the compressors' running state in 32 bits (keys and scores).
    states = sum(2 * (4 if ratio == INDEXED_RATIO else 1) * ratio * attention.head * _FP32 for ratio in ratios)
    return KvCost(token, len(ratios) * attention.window * entry + states)


def _grouped(shape: Shape, attention: GroupedQuery, width: float, layout: Layout, layers: int) -> KvCost:
    slides, keeps = (_entry(part, width, layout) for part in (attention, attention.full or attention))
    linear = shape.linear.layers if shape.linear else 0
    full = layers - linear - attention.sliding_layers
    sequence = attention.sliding_layers * attention.window * slides
    if shape.linear:
        recurrent, convolution = shape.linear.state_elements()
        sequence += linear * (recurrent * _FP32 + convolution * _BF16) / layout.tensor
    return KvCost(full * keeps, sequence)


def _entry(attention: GroupedQuery, width: float, layout: Layout) -> float:
    """Bytes of one token in one layer: keys and values, also where they are made by one projection."""
    return 2 * math.ceil(attention.kv_heads / layout.tensor) * attention.head * width


def _attention_width(shape: Shape) -> float:
    """Elements of queries, keys, values and outputs of one token, all heads."""
    attention = shape.attention
    if isinstance(attention, Latent):
        return attention.heads * (2 * (attention.nope + attention.rope) + 2 * attention.value)
    return 4 * attention.heads * attention.head

"""What of a model's shape decides how it is launched. Pure."""

from __future__ import annotations

from typing import Final

from daulat.catalog.models import ModelSpec
from daulat.catalog.shape import Compressed, GroupedQuery, Latent

LATENT: Final = "latent"  # one compressed vector a token, shared by all heads: DeepSeek-V2, V3, R1, V3.1, Kimi-K2
SPARSE: Final = "sparse"  # latent, and an indexer chooses which tokens are looked at: DeepSeek-V3.2, GLM-5
COMPRESSED: Final = "compressed"  # several tokens become one cached entry: DeepSeek-V4
GROUPED: Final = "grouped"  # grouped-query: Qwen, Llama


def kind(model: ModelSpec) -> str:
    """Which attention a model has."""
    attention = model.shape.attention
    if isinstance(attention, Compressed):
        return COMPRESSED
    if isinstance(attention, Latent):
        return SPARSE if attention.indexer else LATENT
    return GROUPED


def has_experts(model: ModelSpec) -> bool:
    """Whether it is a mixture of experts."""
    return model.shape.experts is not None


def heads(model: ModelSpec) -> int:
    """Query heads: a tensor-parallel size divides them."""
    return model.shape.attention.heads


def key_value_heads(model: ModelSpec) -> int:
    """Heads that are cached: beyond them, tensor parallelism repeats the cache. Latent attention has one."""
    attention = model.shape.attention
    return attention.kv_heads if isinstance(attention, GroupedQuery) else 1

"""Precisions of weights: how many bits each part of a model takes, and what a chip must be able to do.

Names are those of the field: w8a8 is 8-bit weights and activations, w4a16 4-bit weights unpacked to 16 bits for the
arithmetic. Bits include the scales: FP8 has one float32 a block of 128 x 128, MXFP4 one byte for 32 weights, NVFP4 one
byte for 16, INT4 one bfloat16 for 32 or 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits a weight, by part. `attention` also stands for projections of dense and shared MLPs where `mlp` says so."""

    name: str
    attention: float
    mlp: float  # dense layers and shared experts
    experts: float
    embedding: float  # embedding and output projection
    note: str


_TABLE: Final = (
    Precision("bf16", 16, 16, 16, 16, "bfloat16 throughout"),
    Precision("fp16", 16, 16, 16, 16, "IEEE half precision throughout"),
    Precision("fp8", 8.002, 8.002, 8.002, 16, "FP8 E4M3, a float32 scale a block of 128 x 128"),
    Precision("w8a8", 8.01, 8.01, 8.01, 16, "INT8 weights and activations, scales a channel"),
    Precision("w4a8", 8.01, 8.01, 4.25, 16, "INT4 experts, INT8 elsewhere, INT8 activations"),
    Precision("fp4", 8.002, 8.002, 4.25, 16, "MXFP4 experts, FP8 elsewhere: how DeepSeek-V4 is published"),
    Precision("mxfp4", 16, 16, 4.25, 16, "MXFP4 experts, bfloat16 elsewhere: how gpt-oss is published"),
    Precision("nvfp4", 16, 4.5, 4.5, 16, "NVFP4 linear layers, bfloat16 attention"),
    Precision("w4a16", 16, 16, 4.5, 16, "INT4 experts, bfloat16 elsewhere: how Kimi-K2-Thinking is published"),
    Precision("int4", 4.25, 4.25, 4.25, 16, "INT4 linear layers (AWQ, GPTQ), 16-bit arithmetic"),
    Precision("q8_0", 8.5, 8.5, 8.5, 8.5, "GGUF Q8_0"),
    Precision("q4_k_m", 4.9, 4.9, 4.9, 5.0, "GGUF Q4_K_M: Q4_K, some tensors Q6_K"),
    Precision("q4_0", 4.5, 4.5, 4.5, 4.5, "GGUF Q4_0"),
)
PRECISIONS: Final[Mapping[str, Precision]] = MappingProxyType({precision.name: precision for precision in _TABLE})
# Bytes an element of the KV cache.
KV_BYTES: Final[Mapping[str, float]] = MappingProxyType(
    {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "q8_0": 1.0625}
)

"""GGUF files made by hand, from the format's description: small, and as wrong as a test wants them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(item: Any) -> bytes:
    """A typed value: str, bool, int (as uint32), float, or a list of str."""
    if isinstance(item, bool):
        return struct.pack("<IB", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, list):
        return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(text, item))
    return struct.pack("<I", 8) + text(item)


def make(keys: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]] | None = None, *, version: int = 3) -> bytes:
    """A whole file; tensors are F32, of the given shapes, full of zeros."""
    tensors = {"token_embd.weight": (4, 2)} if tensors is None else tensors
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    header += b"".join(text(key) + value(item) for key, item in keys.items())
    offset = 0
    for name, shape in tensors.items():
        header += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        header += struct.pack("<IQ", 0, offset)
        size = 4
        for extent in shape:
            size *= extent
        offset += -(-size // 32) * 32
    return header + bytes(-len(header) % 32 + offset)


KEYS = {
    "general.architecture": "llama",
    "general.name": "A Model",
    "general.license": "Apache-2.0",
    "llama.context_length": 2048,
    "tokenizer.chat_template": "{{ messages }}",
    "tokenizer.ggml.tokens": ["a", "b"],
}

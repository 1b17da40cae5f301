"""Safetensors and whole model folders made by hand, from the format's description: small, and as wrong as wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import gguf_files

BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I8": 1, "I64": 8}
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "max_position_embeddings": 163840,
    "torch_dtype": "bfloat16",
}
CARD = "---\nlicense: mit\nbase_model:\n- deepseek-ai/DeepSeek-V3-Base\n---\n# A model\n"


def header(tensors: Mapping[str, Any], *, metadata: Any = None) -> bytes:
    """A file's beginning, with whatever is given as its header."""
    value = dict(tensors) if metadata is None else {"__metadata__": metadata, **tensors}
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text


def safetensors(shapes: Mapping[str, tuple[str, tuple[int, ...]]], *, metadata: Any = None, fill: int = 0) -> bytes:
    """A whole file; each tensor by dtype and shape, its bytes all `fill`."""
    at, tensors = 0, {}
    for name, (kind, shape) in shapes.items():
        size = BYTES[kind]
        for extent in shape:
            size *= extent
        tensors[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return header(tensors, metadata=metadata) + bytes([fill]) * at


def contents(**changes: bytes | None) -> dict[str, bytes]:
    """The files of a small model in two shards; `changes` by path (`/` and `.` as they are), None takes one out."""
    first = safetensors({"embed": ("BF16", (4, 2))}, metadata={"format": "pt"}, fill=1)
    second = safetensors({"layer.0": ("F8_E4M3", (8, 8)), "norm": ("F32", (8,))}, fill=2)
    places = {"embed": "model-00001-of-00002.safetensors"}
    places |= dict.fromkeys(("layer.0", "norm"), "model-00002-of-00002.safetensors")
    files: dict[str, bytes | None] = {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages[0].content }}"}).encode(),
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": places}).encode(),
        "model-00001-of-00002.safetensors": first,
        "model-00002-of-00002.safetensors": second,
        "README.md": CARD.encode(),
        "LICENSE": b"MIT License",
    }
    return {name: data for name, data in (files | changes).items() if data is not None}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write them."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def split_gguf(count: int = 3, **changes: Any) -> dict[str, bytes]:
    """A GGUF model in parts, as llama.cpp's `gguf-split` names and numbers them."""
    files = {}
    for number in range(count):
        keys: dict[str, Any] = dict(gguf_files.KEYS) if number == 0 else {}
        keys |= {"split.no": number, "split.count": count, "split.tensors.count": count, **changes}
        files[f"big-{number + 1:05}-of-{count:05}.gguf"] = gguf_files.make(keys, {f"blk.{number}.w": (32, 2)})
    return files

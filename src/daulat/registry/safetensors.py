"""A bounded reader of safetensors headers: what the weights are, without trusting a byte of it.

Eight bytes of length, a JSON header, then the tensors' bytes without holes or overlaps, to the end of the file. Source:
the format's description and the checks of its reference reader (huggingface/safetensors, README.md and `tensor.rs`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.registry import documents
from daulat.registry.gguf import BadModel, Stream

MOST_HEADER_BYTES: Final = 32 * 1024 * 1024  # the reference reader takes 100 MB; DeepSeek's largest shard has 0.2
MOST_TENSORS: Final = 262_144
MOST_METADATA_BYTES: Final = 1024 * 1024
LONGEST_NAME: Final = 512
MOST_DIMENSIONS: Final = 8
_SHORTEST: Final = 8  # the length itself
_METADATA: Final = "__metadata__"
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]+\Z")
# dtype: bits of one element
DTYPES: Final[Mapping[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. `type`: a name of DTYPES."""

    name: str
    shape: tuple[int, ...]
    type: str
    elements: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the weights."""

    metadata: Mapping[str, str]
    tensors: tuple[Tensor, ...]


def read(stream: Stream, size: int) -> Header:
    """Read the header of a file of `size` bytes.

    Raises:
        BadModel: anything at all is wrong; says what.
    """
    if size < _SHORTEST:
        raise BadModel(f"this is no safetensors file: it has {size} bytes")
    length = int.from_bytes(_exactly(stream, _SHORTEST), "little")
    if length > MOST_HEADER_BYTES:
        raise BadModel(f"this is no safetensors file, or its header of {length} bytes is over {MOST_HEADER_BYTES}")
    if length > size - _SHORTEST:
        raise BadModel(f"the header of {length} bytes is longer than the file: it is cut short")
    data = _exactly(stream, length)
    if not data.startswith(b"{"):
        raise BadModel("this is no safetensors file: its header does not begin with {")
    top = documents.table(data, "header", most=MOST_HEADER_BYTES)
    metadata = _metadata(top.pop(_METADATA, {}))
    if len(top) > MOST_TENSORS:
        raise BadModel(f"{len(top)} tensors; at most {MOST_TENSORS} are read")
    placed = sorted((_tensor(name, value) for name, value in top.items()), key=lambda item: (item[1], item[2]))
    _check_extents(placed, size - _SHORTEST - length)
    return Header(metadata, tuple(tensor for tensor, _, _ in placed))


def _exactly(stream: Stream, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise BadModel("the file ends inside its header")
    return data


def _metadata(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise BadModel(f"{_METADATA} is no object of strings")
    if sum(len(key) + len(item) for key, item in value.items()) > MOST_METADATA_BYTES:
        raise BadModel(f"{_METADATA} has over {MOST_METADATA_BYTES} characters")
    return value


def _tensor(name: str, value: Any) -> tuple[Tensor, int, int]:
    """A tensor, and where its bytes begin and end behind the header."""
    if len(name) > LONGEST_NAME or not _NAME.match(name):
        raise BadModel(f"tensor name {name[:64]!r} is empty, holds a control, or has over {LONGEST_NAME} characters")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise BadModel(f"tensor {name!r} has not just dtype, shape and data_offsets")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    bits = DTYPES.get(kind) if isinstance(kind, str) else None
    if bits is None:
        raise BadModel(f"tensor {name!r} has dtype {str(kind)[:32]!r}; known are {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > MOST_DIMENSIONS:
        raise BadModel(f"tensor {name!r} has no shape of at most {MOST_DIMENSIONS} whole numbers")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004  begin and end
        raise BadModel(f"tensor {name!r} has no data_offsets [begin, end]")
    elements = 1
    for extent in shape:
        elements *= extent
    if elements * bits != (offsets[1] - offsets[0]) * 8:
        raise BadModel(f"tensor {name!r}: {elements} of {kind} do not take {offsets[1] - offsets[0]} bytes")
    return Tensor(name, tuple(shape), kind, elements), offsets[0], offsets[1]


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_extents(placed: list[tuple[Tensor, int, int]], size: int) -> None:
    at = 0
    for tensor, begin, end in placed:
        if begin != at:
            what = "overlaps the one before it" if begin < at else "leaves a hole before it"
            raise BadModel(f"tensor {tensor.name!r} {what}")
        at = end
    if at > size:
        raise BadModel(f"the tensors end at byte {at} of {size}: the file is cut short")
    if at != size:
        raise BadModel(f"{size - at} bytes behind the tensors belong to none")

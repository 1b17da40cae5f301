"""A bounded reader of GGUF headers: what a model file says of itself, without trusting a byte of it.

Every count and length is checked against a limit and against what the file can still hold before anything is read or
allocated; arrays are skipped, not kept. Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from daulat.errors import ConfigError

MOST_KEYS: Final = 4096
MOST_TENSORS: Final = 65_536
LONGEST_KEY: Final = 65_535
LONGEST_STRING: Final = 8 * 1024 * 1024
LONGEST_ARRAY: Final = 4 * 1024 * 1024  # elements; the largest vocabularies have 262,144
MOST_HEADER_BYTES: Final = 512 * 1024 * 1024
LONGEST_NAME: Final = 128
MOST_DIMENSIONS: Final = 8
_VERSIONS: Final = (2, 3)
_STRING: Final = 8
_ARRAY: Final = 9
_BOOL: Final = 7
_SCALARS: Final[Mapping[int, str]] = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    _BOOL: "<B",
    10: "<Q",
    11: "<q",
    12: "<d",
}
# ggml type: (name, elements of a block, bytes of a block)
TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


class Stream(Protocol):
    """What is read from: a file, or bytes in `io.BytesIO`."""

    def read(self, size: int, /) -> bytes: ...


class BadModel(ConfigError):
    """The file is no GGUF model, or is damaged, or exceeds a bound."""

    code = "bad_model"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's place. `type`: a name of TYPES, or `type-<n>` where it is newer than this reader."""

    name: str
    shape: tuple[int, ...]
    type: str
    elements: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the weights. `arrays` holds lengths only."""

    version: int
    metadata: Mapping[str, int | float | bool | str]
    arrays: Mapping[str, int]
    tensors: tuple[Tensor, ...]

    def text(self, key: str) -> str:
        """A string value, or "" where it is absent or something else."""
        value = self.metadata.get(key, "")
        return value if isinstance(value, str) else ""

    def count(self, key: str) -> int:
        """A non-negative integer value, or 0."""
        value = self.metadata.get(key, 0)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def read(stream: Stream, size: int) -> Header:
    """Read the header of a file of `size` bytes.

    Raises:
        BadModel: anything at all is wrong; says what and where.
    """
    source = _Source(stream, size)
    if source.take(4) != b"GGUF":
        raise BadModel("this is no GGUF file: it does not begin with GGUF")
    version = source.number("<I")
    if version not in _VERSIONS:
        raise BadModel(f"GGUF version {version} (or big-endian); versions 2 and 3, little-endian, are read")
    tensors = source.count("tensors", MOST_TENSORS)
    keys = source.count("keys", MOST_KEYS)
    metadata: dict[str, int | float | bool | str] = {}
    arrays: dict[str, int] = {}
    for _ in range(keys):
        key = source.text("a key", LONGEST_KEY)
        if key in metadata or key in arrays:
            raise BadModel(f"key {key[:64]!r} stands there twice")
        kind = source.number("<I")
        if kind == _ARRAY:
            arrays[key] = source.skip_array()
        else:
            metadata[key] = source.value(kind)
    placed = [_tensor(source) for _ in range(tensors)]
    if len({tensor.name for tensor, _, _ in placed}) != tensors:
        raise BadModel("two tensors have one name")
    _check_extents(placed, source.at, size, metadata.get("general.alignment", 32))
    return Header(version, metadata, arrays, tuple(tensor for tensor, _, _ in placed))


def _tensor(source: _Source) -> tuple[Tensor, int, int]:
    """A tensor, its offset in the data section, and its bytes (0 where the type is not known)."""
    name = source.text("a tensor's name", LONGEST_NAME)
    dimensions = source.number("<I")
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise BadModel(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(source.number("<Q") for _ in range(dimensions))
    elements = 1
    for extent in shape:
        elements *= extent
    if not 0 < elements < 2**48:
        raise BadModel(f"tensor {name!r} has {elements} elements")
    kind, offset = source.number("<I"), source.number("<Q")
    label, block, block_bytes = TYPES.get(kind, (f"type-{kind}", 1, 0))
    if shape[0] % block:
        raise BadModel(f"tensor {name!r}: rows of {shape[0]} are no whole {label} blocks")
    return Tensor(name, shape, label, elements), offset, elements // block * block_bytes


def _check_extents(placed: list[tuple[Tensor, int, int]], header: int, size: int, alignment: object) -> None:
    if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment < 1 or alignment & (alignment - 1):
        raise BadModel("general.alignment is no power of two")
    start = (header + alignment - 1) // alignment * alignment
    for tensor, offset, length in placed:
        if offset % alignment:
            raise BadModel(f"tensor {tensor.name!r} is not aligned")
        if start + offset + length > size:
            raise BadModel(f"tensor {tensor.name!r} ends beyond the file: it is cut short")


class _Source:
    """Reads forward, and never more than the file and the bounds allow."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._limit = min(size, MOST_HEADER_BYTES)
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > self._limit - self.at:
            raise BadModel(f"the header ends early, or is too long, at byte {self.at}")
        data = self._stream.read(count)
        if len(data) != count:
            raise BadModel(f"the file ends at byte {self.at + len(data)}, inside its header")
        self.at += count
        return data

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def count(self, what: str, most: int) -> int:
        value = self.number("<Q")
        if value > most:
            raise BadModel(f"{value} {what}; at most {most} are read")
        return value

    def text(self, what: str, longest: int) -> str:
        length = self.number("<Q")
        if length > longest:
            raise BadModel(f"{what} of {length} bytes at byte {self.at}; at most {longest} are read")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise BadModel(f"{what} at byte {self.at} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text("a string", LONGEST_STRING)
        if kind not in _SCALARS:
            raise BadModel(f"value type {kind} at byte {self.at} is unknown")
        value = struct.unpack(_SCALARS[kind], self.take(struct.calcsize(_SCALARS[kind])))[0]
        if kind == _BOOL and value not in {0, 1}:
            raise BadModel(f"a boolean at byte {self.at} is {value}")
        return bool(value) if kind == _BOOL else value

    def skip_array(self) -> int:
        kind = self.number("<I")
        length = self.count("array elements", LONGEST_ARRAY)
        if kind in _SCALARS:
            self.skip(length * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(length):
                size = self.number("<Q")
                if size > LONGEST_STRING:
                    raise BadModel(f"a string of {size} bytes at byte {self.at}")
                self.skip(size)
        else:
            raise BadModel(f"arrays of type {kind} are not read")
        return length

    def skip(self, count: int) -> None:
        """In pieces, so that a lie about a length allocates nothing large."""
        while count > 0:
            count -= len(self.take(min(count, 65_536)))

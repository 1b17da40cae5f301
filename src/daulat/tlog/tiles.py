"""Tiles and entry bundles, as c2sp.org/tlog-tiles defines them, and proofs computed from tiles."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from daulat.errors import VerificationFailed
from daulat.tlog.merkle import EMPTY_ROOT, HASH_BYTES, node_hash, root

WIDTH: Final = 256
HEIGHT: Final = 8
MAX_ENTRY: Final = 65_535
MAX_LEVEL: Final = 63
_PATH: Final = re.compile(
    r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?\Z", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile's place. `level` None: an entry bundle. `width` is 256 for a full one, 1 to 255 for a partial."""

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """The path under the log's prefix, such as `tile/0/x001/067.p/5`."""
        level = "entries" if self.level is None else str(self.level)
        number = f"{self.index % 1000:03d}"
        rest = self.index // 1000
        while rest:
            number = f"x{rest % 1000:03d}/{number}"
            rest //= 1000
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{number}{partial}"


def parse_path(path: str) -> Tile:
    """Read a tile path; the only paths under `tile/` that exist.

    Raises:
        VerificationFailed: it is not one, or not in its canonical form.
    """
    match = _PATH.match(path)
    if match is None or len(path) > 100:  # noqa: PLR2004  an index beyond 2^63 has fewer
        raise VerificationFailed(f"{path[:100]!r} is not a tile path")
    index = int(match[2].replace("/", "").replace("x", ""))
    tile = Tile(None if match[1] == "entries" else int(match[1]), index, int(match[3]) if match[3] else WIDTH)
    if tile.path != path or tile.width > WIDTH or (match[3] and tile.width == WIDTH):
        raise VerificationFailed(f"{path!r} is not a canonical tile path")
    return tile


class TileSource(Protocol):
    """Port: wherever tiles are read from."""

    def read(self, path: str) -> bytes:
        """The bytes at a tile path. Raises NotFound where there is nothing."""
        ...


def tiles_between(old: int, new: int) -> Iterator[Tile]:
    """The hash tiles to write when the tree grows from `old` to `new` leaves: full ones, then the level's partial."""
    level = 0
    while new >> (HEIGHT * level):
        before, after = old >> (HEIGHT * level), new >> (HEIGHT * level)
        if after != before:
            for index in range(before // WIDTH, after // WIDTH):
                yield Tile(level, index)
            if after % WIDTH:
                yield Tile(level, after // WIDTH, after % WIDTH)
        level += 1


def bundles_between(old: int, new: int) -> Iterator[Tile]:
    """The entry bundles to write when the log grows from `old` to `new` entries."""
    if new != old:
        for index in range(old // WIDTH, new // WIDTH):
            yield Tile(None, index)
        if new % WIDTH:
            yield Tile(None, new // WIDTH, new % WIDTH)


def tile_of(level: int, index: int, size: int) -> Tile:
    """The tile that holds hash `index` of tile level `level` in a tree of `size` leaves, as wide as it is there."""
    there = size >> (HEIGHT * level)
    if index >= there:
        raise VerificationFailed(f"level {level} of a tree of {size} leaves has no hash {index}")
    number = index // WIDTH
    return Tile(level, number, min(WIDTH, there - number * WIDTH))


def bundle_of(index: int, size: int) -> Tile:
    """The entry bundle that holds entry `index` of a log of `size` entries."""
    tile = tile_of(0, index, size)
    return Tile(None, tile.index, tile.width)


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Entries with their big-endian uint16 lengths.

    Raises:
        ValueError: an entry is longer than 65,535 bytes.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise ValueError(f"an entry of {len(entry)} bytes does not fit a bundle")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes, width: int = WIDTH) -> list[bytes]:
    """Exactly `width` entries of a bundle.

    Raises:
        VerificationFailed: truncated, or with bytes or entries beyond.
    """
    entries: list[bytes] = []
    position, end = 0, len(data)
    try:
        for _ in range(width):
            (length,) = struct.unpack_from(">H", data, position)
            position += 2 + length
            if position > end:
                break
            entries.append(data[position - length : position])
    except struct.error:
        position = end + 1
    if position != end:
        raise VerificationFailed(f"the entry bundle does not hold exactly {width} entries")
    return entries


def decode_tile(data: bytes, width: int = WIDTH) -> list[bytes]:
    """The hashes of a tile.

    Raises:
        VerificationFailed: its length is not `width` hashes.
    """
    if len(data) != width * HASH_BYTES:
        raise VerificationFailed(f"a tile of width {width} has {len(data)} bytes, expected {width * HASH_BYTES}")
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


class Hashes:
    """Subtree hashes of a tree of `size` leaves, read from its tiles; each tile is read once."""

    def __init__(self, size: int, source: TileSource) -> None:
        self.size = size
        self._source = source
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree of 2**level leaves that starts at leaf index * 2**level.

        Raises:
            VerificationFailed: the tree has no such subtree, or a tile is malformed.
        """
        tile_level, inner = divmod(level, HEIGHT)
        first = index << inner
        # The subtree's hashes at its tile level: up to 128 neighbours, never across a tile's edge.
        return root([self._stored(tile_level, first + offset) for offset in range(1 << inner)])

    def leaf(self, index: int) -> bytes:
        return self._stored(0, index)

    def root(self) -> bytes:
        """The tree's root."""
        return self.range(0, self.size) if self.size else EMPTY_ROOT

    def range(self, start: int, end: int) -> bytes:
        """MTH of leaves start to end, where start is aligned as RFC 6962's recursion leaves it."""
        nodes = [self.node(level, index) for level, index in _complete(start, end)]
        result = nodes.pop()
        for left in reversed(nodes):
            result = node_hash(left, result)
        return result

    def _stored(self, level: int, index: int) -> bytes:
        tile = tile_of(level, index, self.size)
        key = (level, tile.index)
        if key not in self._tiles:
            self._tiles[key] = decode_tile(self._source.read(tile.path), tile.width)
        return self._tiles[key][index % WIDTH]


def inclusion_proof(index: int, hashes: Hashes) -> tuple[bytes, ...]:
    """The inclusion path of leaf `index`, from the leaf upwards (RFC 6962 section 2.1.1).

    Raises:
        VerificationFailed: the tree has no such leaf.
    """
    if not 0 <= index < hashes.size:
        raise VerificationFailed(f"leaf {index} is not in a tree of {hashes.size}")
    path: list[bytes] = []
    start, end = 0, hashes.size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(hashes.range(middle, end))
            end = middle
        else:
            path.append(hashes.range(start, middle))
            start = middle
    return tuple(reversed(path))


def consistency_proof(old_size: int, hashes: Hashes) -> tuple[bytes, ...]:
    """The proof that the first `old_size` leaves are a prefix of this tree (RFC 6962 section 2.1.2).

    Raises:
        VerificationFailed: this tree is smaller.
    """
    if not 0 <= old_size <= hashes.size:
        raise VerificationFailed(f"a tree of {hashes.size} leaves has no prefix of {old_size}")
    if old_size in {0, hashes.size}:
        return ()
    path: list[bytes] = []
    start, end, old, whole = 0, hashes.size, old_size, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(hashes.range(middle, end))
            end = middle
        else:
            path.append(hashes.range(start, middle))
            start, whole = middle, False
    if not whole:
        path.append(hashes.range(start, end))
    return tuple(reversed(path))


def _split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _complete(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(level, index) of the complete subtrees that leaves start to end fall into, left to right."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level

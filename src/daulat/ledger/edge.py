"""The right edge of a log: what must be known of a tree to write the tiles and bundles that new entries add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from daulat.tlog import tiles
from daulat.tlog.merkle import EMPTY_ROOT, leaf_hash, root
from daulat.tlog.tiles import WIDTH, Tile, TileSource


class RightEdge:
    """Size, the rightmost tile of every level and the rightmost entry bundle. Grows; never shrinks."""

    def __init__(self, size: int, source: TileSource) -> None:
        """Read the edge of a log of `size` entries from its tiles.

        Raises:
            NotFound: a tile is missing.
            VerificationFailed: a tile or bundle is malformed.
        """
        self.size = size
        self._levels: list[list[bytes]] = []  # hashes of the partial tile at each level
        while there := size >> (tiles.HEIGHT * len(self._levels)):
            width = there % WIDTH
            tile = Tile(len(self._levels), there // WIDTH, width)
            self._levels.append(tiles.decode_tile(source.read(tile.path), width) if width else [])
        width = size % WIDTH
        self._bundle = (
            tiles.decode_bundle(source.read(Tile(None, size // WIDTH, width).path), width) if width else list[bytes]()
        )

    def copy(self) -> RightEdge:
        twin = object.__new__(RightEdge)
        twin.size = self.size
        twin._levels = [list(level) for level in self._levels]
        twin._bundle = list(self._bundle)
        return twin

    def root(self) -> bytes:
        """The tree's root. What is right of a level's last tile stands for one hash more in it: RFC 6962's recursion
        splits both alike, because it is smaller than what each of the others stands for."""
        rest: list[bytes] = []
        for hashes in self._levels:
            if row := [*hashes, *rest]:
                rest = [root(row)]
        return rest[0] if rest else EMPTY_ROOT

    def extend(self, entries: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        """Add entries; yield (path, bytes) of every file this makes, full ones first seen first, then partials."""
        before, start = self.size, 0
        while start < len(entries):
            part = entries[start : start + WIDTH - len(self._bundle)]
            start += len(part)
            self.size += len(part)
            self._bundle += part
            self._level(0).extend(map(leaf_hash, part))
            if len(self._bundle) == WIDTH:
                yield Tile(None, self.size // WIDTH - 1).path, tiles.encode_bundle(self._bundle)
                self._bundle = []
                yield from self._full(0)
        if self._bundle and self.size > before:
            yield Tile(None, self.size // WIDTH, len(self._bundle)).path, tiles.encode_bundle(self._bundle)
        for level, hashes in enumerate(self._levels):
            there = self.size >> (tiles.HEIGHT * level)
            if hashes and there > before >> (tiles.HEIGHT * level):
                yield Tile(level, there // WIDTH, len(hashes)).path, b"".join(hashes)

    def _level(self, level: int) -> list[bytes]:
        if level == len(self._levels):
            self._levels.append([])
        return self._levels[level]

    def _full(self, level: int) -> Iterator[tuple[str, bytes]]:
        """A tile is full: its root is one hash of the level above."""
        hashes = self._levels[level]
        yield Tile(level, (self.size >> (tiles.HEIGHT * level)) // WIDTH - 1).path, b"".join(hashes)
        self._levels[level] = []
        above = self._level(level + 1)
        above.append(root(hashes))
        if len(above) == WIDTH:
            yield from self._full(level + 1)

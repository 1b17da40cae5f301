"""The right edge of a log: what must be known of a tree to write the tiles and bundles that new entries add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from daulat.tlog import tiles
from daulat.tlog.merkle import Frontier, leaf_hash, root
from daulat.tlog.tiles import WIDTH, Hashes, Tile, TileSource


class RightEdge:
    """Size, frontier, the rightmost tile of every level and the rightmost entry bundle. Grows; never shrinks."""

    def __init__(self, size: int, source: TileSource) -> None:
        """Read the edge of a log of `size` entries from its tiles.

        Raises:
            NotFound: a tile is missing.
            VerificationFailed: a tile or bundle is malformed.
        """
        hashes = Hashes(size, source)
        self.frontier = Frontier(size, hashes.frontier())
        self._levels: list[list[bytes]] = []  # hashes of the partial tile at each level
        level = 0
        while size >> (tiles.HEIGHT * level):
            there = size >> (tiles.HEIGHT * level)
            width = there % WIDTH
            tile = Tile(level, there // WIDTH, width)
            self._levels.append(tiles.decode_tile(source.read(tile.path), width) if width else [])
            level += 1
        width = size % WIDTH
        self._bundle = (
            tiles.decode_bundle(source.read(Tile(None, size // WIDTH, width).path), width) if width else list[bytes]()
        )

    @property
    def size(self) -> int:
        return self.frontier.size

    def copy(self) -> RightEdge:
        twin = object.__new__(RightEdge)
        twin.frontier = self.frontier.copy()
        twin._levels = [list(level) for level in self._levels]
        twin._bundle = list(self._bundle)
        return twin

    def extend(self, entries: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        """Add entries; yield (path, bytes) of every file this makes, full ones first seen first, then partials."""
        touched: set[int] = set()
        for entry in entries:
            leaf = leaf_hash(entry)
            index = self.frontier.size
            self.frontier.append(leaf)
            self._bundle.append(entry)
            if len(self._bundle) == WIDTH:
                yield Tile(None, index // WIDTH).path, tiles.encode_bundle(self._bundle)
                self._bundle = []
            yield from self._add(0, leaf, touched)
        if not entries:
            return
        if self._bundle:
            yield Tile(None, self.size // WIDTH, len(self._bundle)).path, tiles.encode_bundle(self._bundle)
        for level in sorted(touched):
            if hashes := self._levels[level]:
                number = (self.size >> (tiles.HEIGHT * level)) // WIDTH
                yield Tile(level, number, len(hashes)).path, b"".join(hashes)

    def _add(self, level: int, hash_: bytes, touched: set[int]) -> Iterator[tuple[str, bytes]]:
        touched.add(level)
        if level == len(self._levels):
            self._levels.append([])
        hashes = self._levels[level]
        hashes.append(hash_)
        if len(hashes) == WIDTH:
            number = (self.size >> (tiles.HEIGHT * level)) // WIDTH - 1
            yield Tile(level, number).path, b"".join(hashes)
            parent = root(hashes)
            self._levels[level] = []
            yield from self._add(level + 1, parent, touched)

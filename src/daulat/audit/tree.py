"""A log's Merkle tree, computed bundle by bundle, and the hash tiles that it must have been published with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from daulat.errors import VerificationFailed
from daulat.tlog.merkle import EMPTY_ROOT, Frontier, node_hash, root
from daulat.tlog.tiles import WIDTH, Tile


class Tree:
    """Roots of full tiles are kept (32 bytes for each 256 entries), and the leaves of the last, partial one."""

    def __init__(self) -> None:
        self._tiles = Frontier()
        self._roots: list[bytes] = []
        self._partial: Sequence[bytes] = ()

    @property
    def size(self) -> int:
        return len(self._roots) * WIDTH + len(self._partial)

    def add(self, leaves: Sequence[bytes]) -> None:
        """Add the leaf hashes of the next bundle; only the last bundle may hold fewer than 256."""
        if self._partial or len(leaves) > WIDTH:
            raise VerificationFailed("only a log's last entry bundle may be a partial one")
        if len(leaves) == WIDTH:
            top = root(leaves)
            self._tiles.append(top)
            self._roots.append(top)
        else:
            self._partial = leaves

    def root(self) -> bytes:
        return self.root_with(self._partial)

    def root_with(self, leaves: Sequence[bytes]) -> bytes:
        """The root of the full tiles so far followed by these leaves."""
        nodes = self._tiles.nodes
        if not leaves:
            return self._tiles.root() if nodes else EMPTY_ROOT
        node = root(leaves)
        for left in reversed(nodes):
            node = node_hash(left, node)
        return node

    def upper_tiles(self) -> Iterator[tuple[Tile, bytes]]:
        """The tiles above level 0, with the bytes they must have."""
        level, nodes = 1, self._roots
        while nodes:
            full = len(nodes) // WIDTH
            for number in range(full):
                yield Tile(level, number), b"".join(nodes[number * WIDTH : (number + 1) * WIDTH])
            if len(nodes) % WIDTH:
                yield Tile(level, full, len(nodes) % WIDTH), b"".join(nodes[full * WIDTH :])
            nodes = [root(nodes[number * WIDTH : (number + 1) * WIDTH]) for number in range(full)]
            level += 1


def leaf_hashes(entries: Sequence[bytes]) -> list[bytes]:
    """RFC 6962 leaf hashes of a bundle's entries."""
    sha256 = hashlib.sha256
    return [sha256(b"\x00" + entry).digest() for entry in entries]

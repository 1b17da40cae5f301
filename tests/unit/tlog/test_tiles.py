from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.errors import NotFound, VerificationFailed
from daulat.tlog import merkle, tiles
from daulat.tlog.tiles import Hashes, Tile


class Memory(dict[str, bytes]):
    def read(self, path: str) -> bytes:
        if path not in self:
            raise NotFound(path)
        return self[path]


def grow(steps: list[int]) -> tuple[Memory, list[bytes]]:
    """A log grown in steps, written as the sequencer does: only the tiles between."""
    store, leaves, old = Memory(), [merkle.leaf_hash(b"%d" % n) for n in range(steps[-1])], 0
    for new in steps:
        for tile in tiles.tiles_between(old, new):
            assert tile.level is not None
            span = tiles.WIDTH**tile.level
            first = tile.index * tiles.WIDTH
            hashes = [merkle.root(leaves[i * span : (i + 1) * span]) for i in range(first, first + tile.width)]
            store[tile.path] = b"".join(hashes)
        old = new
    return store, leaves


@pytest.mark.parametrize("steps", [[1], [255], [256], [257], [3, 300, 511, 512, 700], [70_000]])
def test_roots_and_proofs_come_out_of_tiles(steps: list[int]) -> None:
    store, leaves = grow(steps)
    size = steps[-1]
    hashes = Hashes(size, store)
    root = merkle.root(leaves)
    assert hashes.root() == root
    for index in {0, size // 3, size // 2, size - 1}:
        merkle.verify_inclusion(leaves[index], index, size, tiles.inclusion_proof(index, hashes), root)


@given(st.integers(1, 600), st.data())
@settings(max_examples=150, deadline=None)
def test_inclusion_and_consistency_for_any_sizes(size: int, data: st.DataObject) -> None:
    store, leaves = grow([size])
    hashes = Hashes(size, store)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    assert tiles.inclusion_proof(index, hashes) == merkle.inclusion_path(index, leaves)
    proof = tiles.consistency_proof(old, hashes)
    old_root, root = merkle.root(leaves[:old]), merkle.root(leaves)
    merkle.verify_consistency(old, old_root, size, root, proof)
    if 0 < old < size:
        for wrong in (proof[:-1], (*proof, root), (root, *proof[1:])):
            with pytest.raises(VerificationFailed):
                merkle.verify_consistency(old, old_root, size, root, wrong)
        with pytest.raises(VerificationFailed):
            merkle.verify_consistency(old, root, size, root, proof)


def test_the_specification_s_example_of_70_000_entries() -> None:
    """tlog-tiles, *Partial Tiles*."""
    found = list(tiles.tiles_between(0, 70_000))
    count = {level: sum(t.level == level and t.width == 256 for t in found) for level in range(3)}
    assert count == {0: 273, 1: 1, 2: 0}
    assert {(t.level, t.width) for t in found if t.width < 256} == {(0, 112), (1, 17), (2, 1)}
    assert [t.path for t in tiles.tiles_between(0, 256)] == ["tile/0/000", "tile/1/000.p/1"]


def test_paths_as_the_specification_writes_them() -> None:
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(None, 0, 5).path == "tile/entries/000.p/5"


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 10**12), st.integers(1, 256))
def test_paths_are_read_back(level: int | None, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert tiles.parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0", "tile/00/000", "tile/64/000", "tile/0/x000/001", "tile/0/000.p/0", "tile/0/000.p/256",
        "tile/0/000.p/01", "tile/0/../000", "/tile/0/000", "tile/0/000\n", "tile/0/001/000", "tile/-1/000", "",
        "tile/0/" + "x001/" * 40 + "000", "tile/0/٠٠٠",
    ],
)  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(VerificationFailed):
        tiles.parse_path(path)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_bundles_are_read_back_and_only_whole(entries: list[bytes]) -> None:
    data = tiles.encode_bundle(entries)
    assert tiles.decode_bundle(data, len(entries)) == entries
    for wrong in (data + b"\0", data[:-1]) if data else ():
        with pytest.raises(VerificationFailed):
            tiles.decode_bundle(wrong, len(entries))
    with pytest.raises(VerificationFailed):
        tiles.decode_bundle(data, len(entries) + 1)


def test_a_tile_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(VerificationFailed):
        tiles.decode_tile(b"x" * 33, 1)
    with pytest.raises(ValueError, match="does not fit"):
        tiles.encode_bundle([b"x" * 65_536])

"""The right edge writes exactly the tiles and bundles of the tree, however the log grew."""

from __future__ import annotations

from typing import Any

import pymerkle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.ledger import MemoryStore

from daulat.errors import DaulatError
from daulat.ledger.edge import RightEdge
from daulat.ledger.reading import read_entries
from daulat.tlog.merkle import leaf_hash, root
from daulat.tlog.tiles import Hashes, bundles_between, tiles_between

ENTRIES = [b"entry %d" % number for number in range(66_000)]


def oracle(entries: list[bytes]) -> Any:
    """The root by a library that is none of ours."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        tree.append_entry(entry)
    return tree.get_root()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 600), min_size=1, max_size=6))
@example([256])
@example([255, 1, 256, 1])
@example([0, 1, 0])
def test_any_steps_lead_to_the_same_tree(steps: list[int]) -> None:
    store, size = MemoryStore(), 0
    edge = RightEdge(0, store)
    for step in steps:
        written = dict(edge.extend(ENTRIES[size : size + step]))
        assert set(written) == {
            tile.path for tile in (*tiles_between(size, size + step), *bundles_between(size, size + step))
        }
        store.write(written)
        size += step
        again = RightEdge(size, store)  # what a restart reads
        assert (again.size, again.root()) == (edge.size, edge.root())
    assert edge.size == size
    if size:
        assert edge.root() == oracle(ENTRIES[:size]) == Hashes(size, store).root()
    assert read_entries(store, 0, size, size) == ENTRIES[:size]


def test_the_third_level_begins_after_65536_entries() -> None:
    store = MemoryStore()
    edge = RightEdge(0, store)
    store.write(dict(edge.extend(ENTRIES)))
    assert "tile/2/000.p/1" in store.files
    assert store.files["tile/1/000"] == b"".join(
        root([leaf_hash(entry) for entry in ENTRIES[start : start + 256]]) for start in range(0, 65_536, 256)
    )
    again = RightEdge(len(ENTRIES), store)
    assert again.root() == edge.root() == root([leaf_hash(entry) for entry in ENTRIES])


def test_a_copy_grows_alone() -> None:
    edge = RightEdge(0, MemoryStore())
    list(edge.extend(ENTRIES[:300]))
    before = edge.root()
    twin = edge.copy()
    list(twin.extend(ENTRIES[300:600]))
    assert (edge.size, edge.root()) == (300, before)
    assert twin.root() == root([leaf_hash(entry) for entry in ENTRIES[:600]])


@pytest.mark.parametrize("path", ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44", "tile/0/000"])
def test_what_is_missing_or_misshapen_at_the_edge_is_noticed(path: str) -> None:
    store = MemoryStore()
    store.write(dict(RightEdge(0, store).extend(ENTRIES[:300])))
    data = store.files.pop(path)
    if path == "tile/0/000":  # not at the edge: the tile above it has its root
        assert RightEdge(300, store).root() == root([leaf_hash(entry) for entry in ENTRIES[:300]])
        return
    with pytest.raises(DaulatError):
        RightEdge(300, store)
    store.files[path] = data[:-1]
    with pytest.raises(DaulatError):
        RightEdge(300, store)

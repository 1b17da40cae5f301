from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from daulat.errors import VerificationFailed
from daulat.tlog import merkle


def naive(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return merkle.node_hash(naive(leaves[:split]), naive(leaves[split:]))


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(b"entry %d" % number) for number in range(count)]


@pytest.mark.parametrize("count", [*range(70), 255, 256, 257, 1000])
def test_every_way_to_a_root_agrees_with_the_rfc_and_with_an_independent_library(count: int) -> None:
    all_leaves = leaves(count)
    frontier = merkle.Frontier()
    oracle = InmemoryTree(algorithm="sha256")
    for number, leaf in enumerate(all_leaves):
        frontier.append(leaf)
        oracle.append_entry(b"entry %d" % number)
    expected = naive(all_leaves)
    assert frontier.root() == merkle.root(all_leaves) == expected
    assert not all_leaves or merkle.levels(all_leaves)[-1] == [expected]
    if count:
        assert oracle.get_root() == expected


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 9, 21, 64, 65])
def test_every_leaf_is_proven_and_no_other(count: int) -> None:
    all_leaves = leaves(count)
    root = merkle.root(all_leaves)
    for index, leaf in enumerate(all_leaves):
        path = merkle.inclusion_path(index, all_leaves)
        merkle.verify_inclusion(leaf, index, count, path, root)
        for wrong in {index + 1, index - 1} & set(range(count)):
            with pytest.raises(VerificationFailed):
                merkle.verify_inclusion(leaf, wrong, count, path, root)
        with pytest.raises(VerificationFailed):
            merkle.verify_inclusion(leaf, index, count, (*path, leaf), root)
        if path:
            with pytest.raises(VerificationFailed):
                merkle.verify_inclusion(leaf, index, count, path[:-1], root)


@given(st.integers(1, 300), st.data())
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_breaks_a_proof(count: int, data: st.DataObject) -> None:
    all_leaves = leaves(count)
    index = data.draw(st.integers(0, count - 1))
    path = list(merkle.inclusion_path(index, all_leaves))
    position = data.draw(st.integers(0, len(path)))
    bit = 1 << data.draw(st.integers(0, 255))
    leaf = all_leaves[index]
    if position == len(path):
        leaf = (int.from_bytes(leaf, "big") ^ bit).to_bytes(32, "big")
    else:
        path[position] = (int.from_bytes(path[position], "big") ^ bit).to_bytes(32, "big")
    with pytest.raises(VerificationFailed):
        merkle.verify_inclusion(leaf, index, count, path, merkle.root(all_leaves))


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(VerificationFailed):
        merkle.verify_inclusion(b"", 0, 0, (), merkle.EMPTY_ROOT)
    with pytest.raises(VerificationFailed):
        merkle.verify_consistency(2, b"", 1, b"", ())

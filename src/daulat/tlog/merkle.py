"""Merkle trees over leaf hashes, as RFC 6962 section 2.1 defines them (and RFC 9162 section 2.1 verifies them)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from daulat.errors import VerificationFailed

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
_sha256 = hashlib.sha256


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return _sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return _sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree of which only the roots of its complete subtrees are kept, largest first: what appending needs."""

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []

    @property
    def nodes(self) -> tuple[bytes, ...]:
        return tuple(self._nodes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash: amortised one node hash."""
        nodes, size, node = self._nodes, self.size, leaf
        while size & 1:
            node = _sha256(b"\x01" + nodes.pop() + node).digest()
            size >>= 1
        nodes.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The tree's root: 32 bytes, `EMPTY_ROOT` for no leaves."""
        if not self._nodes:
            return EMPTY_ROOT
        node = self._nodes[-1]
        for left in reversed(self._nodes[:-1]):
            node = node_hash(left, node)
        return node


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All levels of a tree, leaves first; the last one holds the root.

    A level's odd last node is promoted unchanged, which is the same tree as RFC 6962's recursion; such a leaf's path
    has no element at that level.
    """
    tree = [list(leaves)]
    while len(tree[-1]) > 1:
        tree.append(_parents(tree[-1]))
    return tree


def inclusion_path(index: int, leaves: Sequence[bytes]) -> tuple[bytes, ...]:
    """The inclusion path of one leaf (RFC 6962 section 2.1.1), from the leaf upwards."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"leaf {index} is not in a tree of {len(leaves)}")
    path: list[bytes] = []
    level = list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _parents(level)
        index >>= 1
    return tuple(path)


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an inclusion path leads to (RFC 9162 section 2.1.3.2).

    Raises:
        VerificationFailed: the index is outside the tree, or the path has the wrong length.
    """
    if not 0 <= index < size:
        raise VerificationFailed(f"leaf {index} is not in a tree of {size}")
    last, node = size - 1, leaf
    for sibling in path:
        if len(sibling) != HASH_BYTES:
            raise VerificationFailed(f"a proof's hash has {len(sibling)} bytes, expected {HASH_BYTES}")
        if last == 0:
            raise VerificationFailed("the inclusion proof is too long")
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index != 0:
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        index >>= 1
        last >>= 1
    if last != 0:
        raise VerificationFailed("the inclusion proof is too short")
    return node


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> None:
    """Check that `leaf` (a leaf hash) stands at `index` of the tree of `size` leaves with this root.

    Raises:
        VerificationFailed: it does not, or the proof is malformed.
    """
    if not hmac.compare_digest(root_from_path(leaf, index, size, path), expected_root):
        raise VerificationFailed(f"the inclusion proof of leaf {index} leads to another root")


def verify_consistency(old_size: int, old_root: bytes, size: int, expected_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `old_size` leaves is a prefix of the tree of `size` (RFC 9162 section 2.1.4.2).

    Raises:
        VerificationFailed: it is not, or the proof is malformed.
    """
    if not 0 <= old_size <= size:
        raise VerificationFailed(f"a tree of {old_size} cannot be a prefix of one of {size}")
    if any(len(node) != HASH_BYTES for node in proof):
        raise VerificationFailed("a hash in the consistency proof has a wrong length")
    if old_size in {0, size}:
        if proof:
            raise VerificationFailed("the consistency proof should be empty")
        if old_size == size and not hmac.compare_digest(old_root, expected_root):
            raise VerificationFailed(f"two different trees of {size} leaves")
        if old_size == 0 and not hmac.compare_digest(old_root, EMPTY_ROOT):
            raise VerificationFailed("the empty tree has another root")
        return
    old, new = _roots_from_consistency(old_size, old_root, size, proof)
    if not hmac.compare_digest(old, old_root) or not hmac.compare_digest(new, expected_root):
        raise VerificationFailed(f"the tree of {old_size} leaves is not a prefix of the tree of {size}")


def _roots_from_consistency(old_size: int, old_root: bytes, size: int, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    nodes = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    if not nodes:
        raise VerificationFailed("the consistency proof is too short")
    first, last = old_size - 1, size - 1
    while first & 1:
        first >>= 1
        last >>= 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            raise VerificationFailed("the consistency proof is too long")
        if first & 1 or first == last:
            old = node_hash(node, old)
            new = node_hash(node, new)
            while first != 0 and not first & 1:
                first >>= 1
                last >>= 1
        else:
            new = node_hash(new, node)
        first >>= 1
        last >>= 1
    if last != 0:
        raise VerificationFailed("the consistency proof is too short")
    return old, new


def _parents(level: list[bytes]) -> list[bytes]:
    pairs = zip(level[::2], level[1::2], strict=False)
    parents = [_sha256(b"\x01" + left + right).digest() for left, right in pairs]
    if len(level) & 1:
        parents.append(level[-1])
    return parents

"""Reading entries back out of a log's bundles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from daulat.tlog.tiles import WIDTH, TileSource, bundle_of, decode_bundle

_AT_ONCE: Final = 4096


def each_entry(source: TileSource, size: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Index and bytes of every entry from `start` on, of a log of `size` entries; a few thousand are held at once.

    Raises:
        NotFound, VerificationFailed: as `read_entries`.
    """
    for begin in range(start, size, _AT_ONCE):
        yield from enumerate(read_entries(source, begin, min(size, begin + _AT_ONCE), size), begin)


def read_entries(source: TileSource, start: int, end: int, size: int) -> list[bytes]:
    """Entries start to end of a log of `size` entries.

    Raises:
        NotFound: a bundle is missing.
        VerificationFailed: a bundle is malformed.
    """
    found: list[bytes] = []
    while start < end:
        bundle = bundle_of(start, size)
        held = decode_bundle(source.read(bundle.path), bundle.width)
        first = bundle.index * WIDTH
        found += held[start - first : end - first]
        start = first + WIDTH
    return found

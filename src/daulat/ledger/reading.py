"""Reading entries back out of a log's bundles."""

from __future__ import annotations

from daulat.tlog.tiles import WIDTH, TileSource, bundle_of, decode_bundle


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

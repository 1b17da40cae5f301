"""Whom the log tells of as erased: a control database that was set back may have them again, with their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daulat.adapters.log_files import LogFolder
from daulat.core import entries
from daulat.ledger.reading import each_entry
from daulat.pipeline.erase import Erased
from daulat.processes import checking
from daulat.settings import Home

_ERASURE: Final = b'{"type":"erasure/v1"'


def heads(home: Home) -> dict[str, int]:
    """How many entries each shard has published, by its name.

    Raises:
        NotFound, VerificationFailed: one cannot be read.
    """
    return {period: checking.head(LogFolder(home.log / period)).size for period in checking.periods(home)}


def between(home: Home, old: Mapping[str, int], new: Mapping[str, int]) -> set[Erased]:
    """The erasures that the log got between two `heads`.

    Raises:
        NotFound, VerificationFailed: it cannot be read.
    """
    found = set[Erased]()
    for period, size in new.items():
        for _, written in each_entry(LogFolder(home.log / period), size, old.get(period, 0)):
            if written.startswith(_ERASURE):
                entry = entries.decode(written)
                found.add((entry["scope"], entry["subject"]))
    return found

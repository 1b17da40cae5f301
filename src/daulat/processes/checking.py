"""A home's log, checked from its files; and the index that can be made anew from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from daulat.adapters import request_index
from daulat.adapters.journal_files import JournalFolder
from daulat.adapters.log_files import VKEY, LogFiles, LogFolder
from daulat.adapters.seal import SqliteSeal
from daulat.errors import InvalidRequest
from daulat.ledger import fsck
from daulat.ledger.fsck import Problem
from daulat.ledger.reading import read_entries
from daulat.settings import Home
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Verifier

_AT_ONCE = 4096  # entries


def periods(home: Home) -> list[str]:
    """Every shard that has a checkpoint, by its name."""
    return sorted(path.parent.name for path in home.log.glob("*/checkpoint"))


def sealed(home: Home) -> dict[str, str]:
    """Every shard that was ever sealed: its origin, by its name."""
    if not home.sequencer_db.exists():
        return {}
    seal = SqliteSeal(home.sequencer_db, "")
    try:
        return {origin.rpartition("/")[2]: origin for origin in seal.origins()}
    finally:
        seal.close()


def known(home: Home) -> list[str]:
    """Every shard that has a checkpoint or was sealed, by its name. Of one that is lost only the seal tells."""
    return sorted({*periods(home), *sealed(home)})


def free(home: Home, period: str) -> None:
    """Raises InvalidRequest: no new shard can have this name."""
    if not period or not all(part.isascii() and part.isalnum() for part in period.split("-")) or period in known(home):
        raise InvalidRequest("a period is letters, digits and '-', such as 2027 or 2027-h2, and not one that exists")


def head(folder: LogFolder) -> Checkpoint:
    """The published checkpoint, under the shard's own public key.

    Raises:
        NotFound, VerificationFailed: there is none, or it is not signed.
    """
    return checkpoints.open_checkpoint(folder.published(), Verifier(folder.vkey()))


def problems(home: Home, period: str, progress: Callable[[int, int], None] | None = None) -> Iterator[Problem]:
    """Everything about one shard, as `ledger.fsck` says. Works beside a running service.

    Raises:
        NotFound: it was never sealed, and has no public key.
    """
    folder, origin = LogFolder(home.log / period), sealed(home).get(period)
    if origin is not None and not (folder.published() and (folder.folder / VKEY).exists()):
        yield _lost(home, origin)
        return
    verifier = Verifier(folder.vkey())
    seal = SqliteSeal(home.sequencer_db, verifier.name)
    index = request_index.IndexReader(home.index_db, verifier.name)
    try:
        in_force = seal.origins()[-1:] == [verifier.name]
        files = LogFiles(folder, home.log / "blob")
        shard = fsck.Shard(verifier, files, lambda: seal.load() if in_force else None, seal.checkpoint(), index)
        yield from fsck.check(shard, JournalFolder(home.journal), round(time.time() * 1000), progress)
    finally:
        index.close()
        seal.close()


def _lost(home: Home, origin: str) -> Problem:
    """What to say of a sealed shard without a checkpoint or a public key in its folder."""
    seal = SqliteSeal(home.sequencer_db, origin)
    try:
        found = seal.load()
    finally:
        seal.close()
    if found is not None and not found.base_checkpoint:  # a crash in its first moment leaves it so
        return Problem("the sealed checkpoint is not published yet; the next start does it", serious=False)
    return Problem("it is gone: sealed, and without a checkpoint or a public key in its folder", serious=True)


def reindex(home: Home) -> dict[str, int]:
    """Make the index of request ids anew: entries by origin. Nobody may have it open."""
    request_index.drop(home.index_db)
    counts = {}
    for period in periods(home):
        folder = LogFolder(home.log / period)
        found = head(folder)
        index = request_index.RequestIndex(home.index_db, found.origin)
        for start in range(0, found.size, _AT_ONCE):
            index.add(start, read_entries(folder, start, min(found.size, start + _AT_ONCE), found.size))
        index.close()
        counts[found.origin] = found.size
    return counts

"""Auditing a whole log, bundle by bundle: every hash, signature, reference, rule, promise and counter.

1. The checkpoint is signed by the log's key, and continues the one remembered.
2. Every entry's leaf hash leads to the checkpoint's root, and the published hash tiles are those of the same tree.
3. Every entry has the shape of its type, and refers backwards to entries of the right types.
4. Control entries keep the charter; every inference entry was lawful when it was admitted (`audit.chain`).
5. Decisions, run again, are those in the entries (`audit.decisions`), where that is possible.
6. Each worker's sequence numbers are unique and without gaps (`audit.sequences`).
7. Promises that were handed in are kept (`audit.promises`).
8. Engines counted no more tokens than the log shows (`audit.counters`).

A log of several shards is audited shard by shard; `audit.shards.compare` holds each one's beginning against the end of
the one before, and `audit.names.across` the models that answered to a name against what older shards say of it.

Nothing here does I/O: a `LogSource` streams files, and the report is a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from daulat.audit import state
from daulat.audit.finding import Finding, Findings
from daulat.audit.names import Names
from daulat.audit.shards import Closing, Opening
from daulat.audit.walk import Terms, Walk
from daulat.errors import NotFound, SplitView, VerificationFailed
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog import note
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Verifier
from daulat.tlog.tiles import WIDTH, Tile, decode_bundle

Progress = Callable[[int, int], None]  # entries done, entries in all


class LogSource(Protocol):
    """Port: where a log is read from. `adapters.log_http` and `adapters.log_files` are the real ones."""

    def checkpoint(self) -> bytes: ...

    def stream(self, paths: Iterable[str]) -> Iterator[bytes]:
        """The files at these paths, in this order. Raises NotFound for one that is not there."""
        ...

    def blob(self, digest: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found in one log."""

    origin: str
    size: int
    checkpoint: bytes
    findings: Findings
    short: tuple[str, ...]
    types: Mapping[str, int]
    decisions: int | None  # how many were run again; None: none could be
    promises_kept: int
    promises_pending: int
    continued: int | None  # entries of the remembered checkpoint, None when there was none
    predecessor: str | None  # the origin of the shard before this one
    replaced: str | None  # the vkey, under this log's name, that was in force there, where it was another
    slack: Mapping[int, tuple[int, int]]  # by replica: requests of unknown use, tokens of each kind that these may hide
    names: Names
    unknown_signatures: int
    ceremony: str | None  # the key ceremony that put it into production, in words
    opening: Opening | None
    closing: Closing | None

    @property
    def holds(self) -> bool:
        return not self.findings.lies


def audit(source: LogSource, verifier: Verifier, terms: Terms, progress: Progress | None = None) -> Report:
    """Audit the log that `verifier` names.

    Raises:
        VerificationFailed: there is no checkpoint of this log under this key, or the remembered one is not.
    """
    signed = source.checkpoint()
    head = checkpoints.open_checkpoint(signed, verifier)  # step 1
    old = state.remembered(terms.remembered, verifier)
    walk = Walk(head, terms, source.blob, old)
    try:
        _download(source, walk, head, progress)
        walk.finish()
    except (VerificationFailed, NotFound, SplitView) as error:
        kind = "split" if isinstance(error, SplitView) else "log"
        walk.findings.add(Finding(kind, f"the audit ends at entry {walk.tree.size}: {error.message}"))
    return Report(
        origin=head.origin,
        size=head.size,
        checkpoint=signed,
        findings=walk.findings,
        short=walk.short(),
        types=walk.types(),
        decisions=walk.decisions_run,
        promises_kept=walk.promised.kept,
        promises_pending=walk.promised.pending,
        continued=None if old is None else old.size,
        predecessor=walk.predecessor(),
        replaced=walk.replaced(verifier.vkey),
        slack=walk.slack(),
        names=walk.named(),
        unknown_signatures=note.open_note(signed, (verifier,)).unknown,
        ceremony=walk.ceremony(),
        opening=walk.edges()[0],
        closing=walk.edges()[1],
    )


def _download(source: LogSource, walk: Walk, head: Checkpoint, progress: Progress | None) -> None:
    def width(number: int) -> int:
        return min(WIDTH, head.size - number * WIDTH)

    numbers = range(-(-head.size // WIDTH))
    files = source.stream(tile.path for n in numbers for tile in (Tile(None, n, width(n)), Tile(0, n, width(n))))
    for number in numbers:
        walk.bundle(decode_bundle(next(files), width(number)), next(files))
        if progress is not None:
            progress(walk.tree.size, head.size)
    upper = list(walk.tree.upper_tiles())
    for (tile, expected), data in zip(upper, source.stream(tile.path for tile, _ in upper), strict=True):
        if data != expected:
            walk.findings.add(Finding("tile", f"{tile.path} is not the tile of these entries"))

"""Checks a home's log from its files alone: every hash and entry, both places of the checkpoint, journals and index.

What an auditor checks from outside is the audit's (`audit.log`); this adds what only the operator has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from daulat.audit.log import LogSource, Progress, audit
from daulat.audit.walk import Terms
from daulat.core import entries, manifest
from daulat.errors import DaulatError, SealBroken
from daulat.ledger import records
from daulat.ledger.edge import RightEdge
from daulat.ledger.intake import Journals
from daulat.ledger.reading import read_entries
from daulat.ledger.sequencer import Sealed
from daulat.tlog.checkpoint import open_checkpoint
from daulat.tlog.note import Verifier
from daulat.tlog.tiles import WIDTH, TileSource

_INFERENCE: Final = b'{"type":"inference/v1"'
_MODEL: Final = b'{"type":"model.admitted/v1"'


class Store(TileSource, LogSource, Protocol):
    """Port: one shard's files, for both kinds of reading."""


class Index(Protocol):
    """Port: the projection of the log, as it is on disk."""

    @property
    def size(self) -> int: ...

    def position_of(self, request_id: str) -> int | None: ...

    def type_of(self, index: int) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Shard:
    """What is to be checked. Of a closed shard, the second place holds the final checkpoint and nothing else."""

    verifier: Verifier
    store: Store
    sealed: Callable[[], Sealed | None]  # of the shard in force; looked at after what is published
    final: bytes  # the sealed checkpoint of a closed one
    index: Index


@dataclass(frozen=True, slots=True)
class Problem:
    """`serious`: the log cannot be trusted as it is. Else the next start mends it. `kind`: of the audit's finding."""

    what: str
    serious: bool
    kind: str = ""


def check(shard: Shard, journals: Journals, now: int, progress: Progress | None = None) -> Iterator[Problem]:
    """Everything about one shard. The service need not be stopped, but what is written meanwhile is not looked at."""
    try:
        report = audit(shard.store, shard.verifier, Terms(now=now), progress)
    except DaulatError as error:
        yield Problem(f"the published checkpoint does not verify: {error.message}", serious=True)
        return
    for finding in report.findings.kept:
        if finding.lie:
            yield Problem(str(finding), serious=True, kind=finding.kind)
    sealed: Sealed | None = None
    try:
        sealed = shard.sealed()
        yield from _places(shard, sealed, report.checkpoint)
        yield from _blobs(shard, report.size)
        yield from _index(shard, report.size)
    except DaulatError as error:
        yield Problem(error.message, serious=True)
    if sealed is not None:
        yield from _journals(sealed, journals)


def _places(shard: Shard, sealed: Sealed | None, published: bytes) -> Iterator[Problem]:
    """Both places hold the same checkpoint, or the second is one step ahead, as a crash leaves it."""
    if sealed is None:
        if published != shard.final:
            yield Problem("a closed log is final, yet its checkpoint is not the sealed one", serious=True)
        return
    yield from _staged(shard, sealed)
    if published == sealed.checkpoint:
        return
    if published == sealed.base_checkpoint:
        yield Problem("the sealed checkpoint is not published yet; the next start does it", serious=False)
        return
    # Where the sequencer has gone on since we looked, what is published now is at least what the seal began from.
    sizes = [open_checkpoint(signed, shard.verifier).size for signed in (published, shard.store.checkpoint())]
    if sizes[0] >= sealed.base_size or sizes[1] < sealed.base_size:
        yield Problem("the published checkpoint is neither the sealed one nor the one before it", serious=True)


def _staged(shard: Shard, sealed: Sealed) -> Iterator[Problem]:
    """The entries that would be written again after a crash lead from one sealed checkpoint to the other."""
    newest = open_checkpoint(sealed.checkpoint, shard.verifier)
    edge = RightEdge(sealed.base_size, shard.store)
    for _ in edge.extend(sealed.staged):
        pass
    if (edge.size, edge.root()) != (newest.size, newest.root):
        yield Problem("the staged entries do not lead to the sealed checkpoint", serious=True)


def _blobs(shard: Shard, size: int) -> Iterator[Problem]:
    """Every text of a policy and every paper of a model that an entry names by hash is there."""
    named = {sha256: what for entry in _control(shard.store, size) for sha256, what in _named(entry)}
    for sha256, what in named.items():
        try:
            data = shard.store.blob(sha256)
        except DaulatError:
            yield Problem(f"blob {sha256} ({what}) is missing", serious=True)
            continue
        if hashlib.sha256(data).hexdigest() != sha256:
            yield Problem(f"blob {sha256} ({what}) has other bytes", serious=True)


def _named(entry: bytes) -> Iterator[tuple[str, str]]:
    """What an entry names and does not hold: SHA-256, and what it is."""
    if not entry.startswith((b'{"type":"policy/v1"', _MODEL)):
        return
    try:
        value = entries.decode(entry)
    except DaulatError:
        return  # a changed entry, as the audit has said
    for item in value["files"]:
        if value["type"] == "policy/v1":
            if item["text"] is None:
                yield item["sha256"], item["name"]
        elif item["path"].startswith(manifest.PAPERS):
            yield item["sha256"], f"{item['path'].removeprefix(manifest.PAPERS)} of model {value['model']}"


def admissions(store: TileSource, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every `model.admitted/v1` of a log: its index and the entry. Entries that are none any more are left out."""
    for index, entry in _entries(store, size):
        if entry.startswith(_MODEL):
            with contextlib.suppress(DaulatError):
                yield index, entries.decode(entry)


def _entries(store: TileSource, size: int) -> Iterator[tuple[int, bytes]]:
    for start in range(0, size, WIDTH):
        yield from enumerate(read_entries(store, start, min(size, start + WIDTH), size), start)


def _control(store: TileSource, size: int) -> Iterator[bytes]:
    return (entry for _, entry in _entries(store, size) if not entry.startswith(_INFERENCE))


def _index(shard: Shard, size: int) -> Iterator[Problem]:
    index = shard.index
    if index.size < size:
        yield Problem(f"the index knows {index.size} of {size} entries; the next start does the rest", serious=False)
    wrong = sum(not _indexed(index, at, entry) for at, entry in _entries(shard.store, min(index.size, size)))
    if wrong:
        words = f"the index points elsewhere for {wrong} entries: `daulat log reindex` makes it anew"
        yield Problem(words, serious=False)


def _indexed(index: Index, at: int, entry: bytes) -> bool:
    try:
        if entry.startswith(_INFERENCE):
            request_id: str = json.loads(entries.admission_bytes(entry))["request_id"]
            return index.position_of(request_id) == at
        type_: str = json.loads(entry)["type"]
    except (DaulatError, ValueError, KeyError, TypeError):
        return True  # a changed entry, as the audit has said: the index holds what it was
    return index.type_of(at) == type_


def _journals(sealed: Sealed, journals: Journals) -> Iterator[Problem]:
    """Every journal can be read from where the log has taken it in."""
    for worker in journals.workers():
        cursor = sealed.cursors.get(worker)
        expected = 0 if cursor is None else cursor.group
        for segment in journals.segments(worker):
            if cursor is not None and segment < cursor.segment:
                continue
            offset = cursor.offset if cursor is not None and segment == cursor.segment else 0
            try:
                data = journals.read(worker, segment, max(0, offset - 1))
                if offset and not data:
                    raise SealBroken("it was cut: it is shorter than what the log has taken in")
                data = data[1:] if offset else data
                end = records.header_length(data) if offset == 0 else 0
                for group in records.groups(data, end, expected):
                    end, expected = group.end, group.number + 1
                if records.is_cut(data, end):
                    raise SealBroken(f"it ends in the middle of group {expected}: it was cut")
            except FileNotFoundError:
                continue  # taken in and swept while we looked
            except SealBroken as error:
                if not journals.alive(worker):  # a living one may have written while we read
                    yield Problem(f"journal of worker {worker}, segment {segment}: {error.message}", serious=True)

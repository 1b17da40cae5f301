"""Checks a home's log from its files alone: every hash and entry, both places of the checkpoint, journals and index.

What an auditor checks from outside is the audit's (`audit.log`); this adds what only the operator has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from daulat.audit.log import LogSource, Progress, audit
from daulat.audit.walk import Terms
from daulat.core import entries
from daulat.errors import DaulatError, SealBroken
from daulat.ledger import records
from daulat.ledger.intake import Journals
from daulat.ledger.reading import read_entries
from daulat.ledger.sequencer import Sealed
from daulat.tlog.checkpoint import open_checkpoint
from daulat.tlog.note import Verifier
from daulat.tlog.tiles import TileSource


class Store(TileSource, LogSource, Protocol):
    """Port: one shard's files, for both kinds of reading."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What is to be checked. `sealed` is None for a shard that is closed."""

    verifier: Verifier
    store: Store
    sealed: Sealed | None
    indexed: Callable[[], tuple[int, Callable[[str], int | None]]]  # size of the index; where it has a request


@dataclass(frozen=True, slots=True)
class Problem:
    """`serious`: the log cannot be trusted as it is. Else the next start mends it."""

    what: str
    serious: bool


def check(shard: Shard, journals: Journals, now: int, progress: Progress | None = None) -> Iterator[Problem]:
    """Everything about one shard. The service need not be stopped, but what is written meanwhile is not looked at."""
    try:
        report = audit(shard.store, shard.verifier, Terms(now=now), progress)
    except DaulatError as error:
        yield Problem(f"the published checkpoint does not verify: {error.message}", serious=True)
        return
    for finding in report.findings.kept:
        if finding.lie:
            yield Problem(str(finding), serious=True)
    yield from _places(shard, report.checkpoint)
    yield from _blobs(shard, report.size)
    yield from _index(shard, report.size)
    if shard.sealed is not None:
        yield from _journals(shard.sealed, journals)


def _places(shard: Shard, published: bytes) -> Iterator[Problem]:
    """Both places hold the same checkpoint, or the second is one step ahead, as a crash leaves it."""
    sealed = shard.sealed
    if sealed is None or published == sealed.checkpoint:
        return
    if published == sealed.base_checkpoint:
        yield Problem("the sealed checkpoint is not published yet; the next start does it", serious=False)
        return
    newest = open_checkpoint(sealed.checkpoint, shard.verifier)
    if open_checkpoint(shard.store.checkpoint(), shard.verifier).size >= newest.size:
        return  # the sequencer has gone on between our two looks
    yield Problem("the published checkpoint is neither the sealed one nor the one before it", serious=True)


def _blobs(shard: Shard, size: int) -> Iterator[Problem]:
    """Every text that a policy entry names by hash is there."""
    for entry in _control(shard.store, size):
        if not entry.startswith(b'{"type":"policy/v1"'):
            continue
        for item in json.loads(entry)["files"]:
            if item["text"] is None:
                try:
                    data = shard.store.blob(item["sha256"])
                except DaulatError:
                    yield Problem(f"blob {item['sha256']} ({item['name']}) is missing", serious=True)
                    continue
                if hashlib.sha256(data).hexdigest() != item["sha256"]:
                    yield Problem(f"blob {item['sha256']} ({item['name']}) has other bytes", serious=True)


def _control(store: TileSource, size: int) -> Iterator[bytes]:
    for start in range(0, size, 256):
        for entry in read_entries(store, start, min(size, start + 256), size):
            if not entry.startswith(b'{"type":"inference/v1"'):
                yield entry


def _index(shard: Shard, size: int) -> Iterator[Problem]:
    indexed, find = shard.indexed()
    if indexed < size:
        yield Problem(f"the index knows {indexed} of {size} entries; the next start does the rest", serious=False)
    for index in range(min(indexed, size) - 1, -1, -1):
        (entry,) = read_entries(shard.store, index, index + 1, size)
        value = entries.decode(entry)
        if value["type"] == entries.INFERENCE:
            if find(value["admission"]["request_id"]) != index:
                yield Problem("the index points elsewhere: `daulat log reindex` makes it anew", serious=False)
            return


def _journals(sealed: Sealed, journals: Journals) -> Iterator[Problem]:
    """Every journal can be read from where the log has taken it in."""
    for worker in journals.workers():
        cursor = sealed.cursors.get(worker)
        expected = 0 if cursor is None else cursor.group
        for segment in journals.segments(worker):
            if cursor is not None and segment < cursor.segment:
                continue
            offset = cursor.offset if cursor is not None and segment == cursor.segment else 0
            data = journals.read(worker, segment, offset)
            try:
                start = records.header_length(data) if offset == 0 else 0
                for group in records.groups(data, start, expected):
                    expected = group.number + 1
            except SealBroken as error:
                if not journals.alive(worker):  # a living one may have written while we read
                    yield Problem(f"journal of worker {worker}, segment {segment}: {error.message}", serious=True)

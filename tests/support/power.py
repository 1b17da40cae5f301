"""What a loss of power may take from a journal: the bytes of the write that nobody was told had become durable."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from tests.support.load import Exchange

from daulat.adapters.journal_files import JournalFolder
from daulat.ledger import records
from daulat.ledger.records import Group


def lose_tails(folder: Path, exchanges: Iterable[Exchange], chance: random.Random) -> int:
    """Damage the last group of each journal where no client has seen its effect; how many were damaged.

    What a client has seen, it saw because the write had returned: that one is durable, and no power loss takes it.
    """
    exchanges = list(exchanges)
    begun = {exchange.request_id for exchange in exchanges if exchange.request_id}
    ended = {exchange.request_id for exchange in exchanges if exchange.whole}
    journals = JournalFolder(folder)
    damaged = 0
    for worker in journals.workers():
        segments = journals.segments(worker)
        if not segments:
            continue
        path = folder / f"w{worker}-{segments[-1]:06d}"
        data = path.read_bytes()
        found = list(records.groups(data, records.header_length(data), 0)) if segments[-1] == 0 else []
        if not found or not _unseen(found, begun, ended):
            continue
        start = found[-2].end if len(found) > 1 else records.header_length(data)
        path.write_bytes(_damage(data, start, found[-1].end, chance))
        damaged += 1
    return damaged


def _unseen(found: list[Group], begun: set[str], ended: set[str]) -> bool:
    """Whether nothing of the last group was acknowledged to anybody who could tell."""
    ids: dict[int, str] = {}
    for group in found:
        for record in group.records:
            if record.kind == records.ADMISSION:
                ids[record.sequence] = str(json.loads(record.payload)["request_id"])
    for record in found[-1].records:
        # One group, one write: what was told of a single record of it was told after all of it.
        if record.kind == records.ADMISSION and ids[record.sequence] in begun:
            return False
        if record.kind == records.COMPLETION and ids.get(record.sequence) in ended:
            return False
    return True


def _damage(data: bytes, start: int, end: int, chance: random.Random) -> bytes:
    """Some of its blocks reached the disk, some did not; or, where no space was reserved, the file's end did not."""
    at = chance.randrange(start, end)
    kind = chance.choice(("zeros", "other", "short"))
    if kind == "short":
        return data[:at]
    until = chance.randrange(at, end) + 1
    filler = bytes(until - at) if kind == "zeros" else bytes(byte ^ 0xA5 for byte in data[at:until])
    return data[:at] + filler + data[until:]

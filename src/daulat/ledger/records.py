"""How a journal lies on disk: a header line, then groups, one a commit.

    segment = header line (JSON, ends in newline), group*, zeros (preallocated space)
    group   = "DJG1" number:u64 length:u32 crc32:u32 body          little-endian
    body    = (kind:u8 sequence:u64 length:u32 payload)*

A group is written by one write and covered by one checksum, so it is there whole or not at all. Numbers ascend by one
over all segments of a worker. After a crash the last group may be torn; a broken group with a later valid one behind it
is not a torn write but a changed file, and is never skipped.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from daulat.errors import SealBroken

ADMISSION: Final = ord("A")  # payload: the admission record
ATTEMPT: Final = ord("T")  # payload: {"replica", "lease"} of one more attempt
COMPLETION: Final = ord("C")  # payload: the completion record
REFUSALS: Final = ord("R")  # payload: {"from", "to", "counts", "principals"}; sequence 0
KINDS: Final = frozenset({ADMISSION, ATTEMPT, COMPLETION, REFUSALS})

_HEADER: Final = b'{"format":"daulat/journal/v1",'
_MAGIC: Final = b"DJG1"
_GROUP: Final = struct.Struct("<4sQII")
_RECORD: Final = struct.Struct("<BQI")
head: Final = _RECORD.pack
"""`head(kind, sequence, length)`: what stands before a record's payload."""
MAX_HEADER: Final = 4096
MAX_GROUP: Final = 64 * 1024 * 1024


class Record(NamedTuple):
    kind: int
    sequence: int
    payload: bytes


class Group(NamedTuple):
    """One commit; `end` is the offset just behind it."""

    number: int
    records: tuple[Record, ...]
    end: int


def encode_header(worker: int, segment: int, origin: str) -> bytes:
    fields = {"format": "daulat/journal/v1", "origin": origin, "worker": worker, "segment": segment}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def header_length(data: bytes) -> int:
    """Where the groups begin.

    Raises:
        SealBroken: there is no header line, yet a group. (A crash may leave an empty file or a torn line: as no group
            was begun before the line was durable, that is a segment without groups.)
    """
    end = data.find(b"\n", 0, MAX_HEADER)
    if end >= 0 and data.startswith(_HEADER):
        return end + 1
    if data.find(_MAGIC) >= 0:
        raise SealBroken("a journal segment does not begin with its header line")
    return 0


def encode_group(number: int, parts: Iterable[bytes]) -> bytes:
    """One group, from its records' heads and payloads in turn."""
    body = b"".join(parts)
    return _GROUP.pack(_MAGIC, number, len(body), zlib.crc32(body)) + body


def groups(data: bytes, offset: int, expected: int) -> Iterator[Group]:
    """The whole groups from `offset` on, of which the first must have number `expected`.

    Stops at preallocated zeros, at the end, and at a group that is not whole (yet).

    Raises:
        SealBroken: a broken or misnumbered group is followed by a valid later one.
    """
    while True:
        group = _group(data, offset)
        if group is None or group.number != expected:
            _refuse_later(data, offset, expected)
            return
        yield group
        offset, expected = group.end, expected + 1


def is_cut(data: bytes, offset: int) -> bool:
    """Whether the file ends within the group at `offset`. No crash does that: room is made before a group is."""
    if data[offset : offset + len(_MAGIC)] != _MAGIC:
        return False
    if offset + _GROUP.size > len(data):
        return True
    return bool(offset + _GROUP.size + _GROUP.unpack_from(data, offset)[2] > len(data))


def _group(data: bytes, offset: int) -> Group | None:
    if offset + _GROUP.size > len(data):
        return None
    magic, number, length, crc = _GROUP.unpack_from(data, offset)
    start = offset + _GROUP.size
    end = start + length
    # No group is empty; a torn header, zeros from the length on, looks as if it were, checksum and all.
    if magic != _MAGIC or not 0 < length <= MAX_GROUP or end > len(data):
        return None
    body = data[start:end]
    if zlib.crc32(body) != crc:
        return None
    records = _records(body)
    return None if records is None else Group(number, records, end)


def _records(body: bytes) -> tuple[Record, ...] | None:
    found: list[Record] = []
    position, size, head_size, unpack = 0, len(body), _RECORD.size, _RECORD.unpack_from
    new = tuple.__new__  # all that `Record(...)` does, without a call of Python: two are made for every entry
    while position < size:
        start = position + head_size
        if start > size:
            return None
        kind, sequence, length = unpack(body, position)
        position = start + length
        if kind not in KINDS or position > size:
            return None
        found.append(new(Record, (kind, sequence, body[start:position])))
    return tuple(found)


def _refuse_later(data: bytes, offset: int, expected: int) -> None:
    """A torn write leaves nothing valid with a later number behind it."""
    position = data.find(_MAGIC, offset)
    while position >= 0:
        group = _group(data, position)
        if group is not None and group.number > expected:
            raise SealBroken(
                f"journal group {expected} at byte {offset} is broken, yet group {group.number} follows at {position}: "
                "the file was changed"
            )
        position = data.find(_MAGIC, position + 1)

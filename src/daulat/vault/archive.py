"""What is inside a backup: files one behind the other, then a manifest that says what there was.

    each file   length of what follows, 4 bytes, big-endian; {"name", "size"} in JSON; `size` bytes
    the end     the same with the name "": the manifest, in JSON, after which nothing comes

    {"id", "kind", "created", "heads": [{"origin", "size", "root"}], "members": [[name, size, SHA-256 in hex], ...]}

There is nothing here that could be a link, an owner or a mode: a member is a name and bytes. Which names may be is for
whoever reads to say. The whole of it is sealed (`vault.sealed`), so that what is read was written by whoever has the
passphrase; the reader bounds everything all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.errors import VerificationFailed

_LENGTH_BYTES: Final = 4
_MOST_HEADER: Final = 1_024
_MOST_MANIFEST: Final = 1 << 28
_FIELDS: Final = {"id": str, "kind": str, "created": int, "heads": list, "members": list}


@dataclass(frozen=True, slots=True)
class Member:
    """One file, to be written; `content` comes to exactly `size` bytes."""

    name: str
    size: int
    content: Iterable[bytes]

    @classmethod
    def of(cls, name: str, data: bytes) -> Member:
        """A file that is in memory."""
        return cls(name, len(data), (data,))


@dataclass(frozen=True, slots=True)
class Head:
    """How far one shard of the log goes."""

    origin: str
    size: int
    root: str  # hex


@dataclass(frozen=True, slots=True)
class About:
    """What a backup says of itself. Two archives made together have the same `id`."""

    id: str
    kind: str
    created: int  # Unix milliseconds
    heads: tuple[Head, ...]


def written(members: Iterable[Member], about: About) -> Iterator[bytes]:
    """An archive's bytes, piece by piece.

    Raises:
        VerificationFailed: a member did not have the size that was said, or there are too many.
    """
    listed: list[tuple[str, int, str]] = []
    for member in members:
        yield _header(member.name, member.size)
        hashed, size = hashlib.sha256(), 0
        for piece in member.content:
            hashed.update(piece)
            size += len(piece)
            yield piece
        if size != member.size:
            raise VerificationFailed(f"{member.name} has changed while it was read")
        listed.append((member.name, size, hashed.hexdigest()))
    heads = [{"origin": head.origin, "size": head.size, "root": head.root} for head in about.heads]
    value = {"id": about.id, "kind": about.kind, "created": about.created, "heads": heads, "members": listed}
    manifest = json.dumps(value, separators=(",", ":")).encode()
    if len(manifest) > _MOST_MANIFEST:
        raise VerificationFailed("there are more files than a backup's manifest has room for")
    yield _header("", len(manifest))
    yield manifest


def read(pieces: Iterable[bytes], most: int, put: Callable[[str, Iterator[bytes]], None]) -> About:
    """Hand every member to `put`, which refuses names that may not be by raising; what the manifest says.

    Nothing of it is to be used before this returns: only then was everything there, and as the manifest has it.
    `most`: no member is larger, in bytes.

    Raises:
        VerificationFailed: it is cut off, or is not what an archive has to be; and whatever `put` raises.
    """
    source, found = _Source(pieces), dict[str, tuple[int, str]]()
    while True:
        name, size = _header_of(source, most)
        if not name:
            break
        if name in found:
            raise VerificationFailed(f"the backup holds {name!r} twice")
        hashed = hashlib.sha256()
        put(name, source.passed(size, hashed.update))
        found[name] = size, hashed.hexdigest()
    if size > _MOST_MANIFEST:
        raise VerificationFailed("the backup's manifest is too long")
    manifest = _parsed(source.exactly(size))
    if not source.ended():
        raise VerificationFailed("something comes after the backup's end")
    return _about(manifest, found)


class _Source:
    """Bytes out of pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._held = iter(pieces), b""

    def some(self, most: int) -> bytes:
        """At least one byte and at most so many.

        Raises:
            VerificationFailed: there are none any more.
        """
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                raise VerificationFailed("the backup is cut off")
            self._held = piece
        taken, self._held = self._held[:most], self._held[most:]
        return taken

    def exactly(self, size: int) -> bytes:
        return b"".join(self.passed(size, lambda _: None))

    def passed(self, size: int, look: Callable[[bytes], object]) -> Iterator[bytes]:
        while size > 0:
            piece = self.some(size)
            size -= len(piece)
            look(piece)
            yield piece

    def ended(self) -> bool:
        return not self._held and not any(self._pieces)


def _header(name: str, size: int) -> bytes:
    said = json.dumps({"name": name, "size": size}, separators=(",", ":")).encode()
    return len(said).to_bytes(_LENGTH_BYTES) + said


def _header_of(source: _Source, most: int) -> tuple[str, int]:
    length = int.from_bytes(source.exactly(_LENGTH_BYTES))
    if length > _MOST_HEADER:
        raise VerificationFailed("a member of the backup has no header that could be one")
    value = _parsed(source.exactly(length))
    name, size = value.get("name"), value.get("size")
    if set(value) != {"name", "size"} or not isinstance(name, str) or type(size) is not int:
        raise VerificationFailed("a member of the backup has no name and size")
    if not 0 <= size <= most:
        raise VerificationFailed(f"{name[:80]!r} cannot have {size} bytes in this backup")
    return name, size


def _parsed(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise VerificationFailed("the backup holds something else than JSON where it says what it holds")
    return value


def _about(manifest: Mapping[str, Any], found: Mapping[str, tuple[int, str]]) -> About:
    if set(manifest) != set(_FIELDS) or any(type(manifest[name]) is not kind for name, kind in _FIELDS.items()):
        raise VerificationFailed("the backup's manifest has other fields than a manifest has")
    try:
        listed = {name: (size, digest) for name, size, digest in manifest["members"]}
        heads = tuple(Head(**head) for head in manifest["heads"])
    except (TypeError, ValueError):
        raise VerificationFailed("the backup's manifest is malformed") from None
    if len(listed) != len(manifest["members"]) or listed != found:
        raise VerificationFailed("the backup's manifest lists other files than the backup holds")
    for head in heads:
        if not isinstance(head.origin, str) or type(head.size) is not int or not isinstance(head.root, str):
            raise VerificationFailed("the backup's manifest is malformed")
    return About(manifest["id"], manifest["kind"], manifest["created"], heads)

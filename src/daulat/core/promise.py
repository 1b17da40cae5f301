"""The signed promise: an answer's admission is durable, and its entry will stand in the log by a deadline.

Each group commit of a worker's journal forms a small Merkle tree (RFC 6962 hashing, `tlog.merkle`) whose leaves are

    "daulat/promise-leaf/v1\\n" || request id || "\\n" || leaf hash of the admission record's bytes

and the worker signs, once for the whole batch, with the Ed25519 key that a `key/v1` entry certifies:

    "daulat/promise/v1\\n" origin "\\n" worker "\\n" batch "\\n" size "\\n" base64(root) "\\n" deadline "\\n"

The `Daulat-Promise` response header is an RFC 9651 Dictionary that carries one leaf's share of it. A promise whose
request has no entry by its deadline, or an entry with other admission bytes, proves an omission or a rewriting.
"""

from __future__ import annotations

import base64
import hashlib
import re
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from daulat.errors import VerificationFailed

LEAF_DOMAIN: Final = b"daulat/promise-leaf/v1\n"
MAX_PATH: Final = 32
_T = TypeVar("_T")
_MEMBER: Final = re.compile(r'([a-z]+)=(?:"([^"\\]*)"|(\d{1,15})|:([A-Za-z0-9+/=]*):|\(([^)]*)\))(?:, |$)')


@dataclass(frozen=True, slots=True)
class Promise:
    """One request's promise. Hashes and the signature are raw bytes; `deadline` is Unix milliseconds."""

    request_id: str
    origin: str
    worker: int  # log index of the worker's key/v1 entry
    batch: int
    size: int  # leaves in the batch
    index: int  # this request's leaf
    admission: bytes  # leaf hash of the admission record
    path: tuple[bytes, ...]
    root: bytes
    deadline: int
    signature: bytes

    def leaf(self) -> bytes:
        """The leaf's data, before leaf hashing."""
        return leaf_data(self.request_id, self.admission)

    def header(self) -> str:
        path = " ".join(f":{base64.b64encode(node).decode()}:" for node in self.path)
        return (
            f'id="{self.request_id}", origin="{self.origin}", worker={self.worker}, batch={self.batch}, '
            f"size={self.size}, index={self.index}, admission=:{base64.b64encode(self.admission).decode()}:, "
            f"path=({path}), root=:{base64.b64encode(self.root).decode()}:, deadline={self.deadline}, "
            f"sig=:{base64.b64encode(self.signature).decode()}:"
        )


def leaves(members: Sequence[str], admissions: Sequence[bytes]) -> list[bytes]:
    """The leaf hashes of one group commit, from the requests' ids and the leaf hashes of their admission records."""
    prefix = b"\x00" + LEAF_DOMAIN
    return [
        hashlib.sha256(b"%b%b\n%b" % (prefix, request_id.encode(), admission)).digest()
        for request_id, admission in zip(members, admissions, strict=True)
    ]


def headers(
    *,
    origin: str,
    worker: int,
    batch: int,
    members: Sequence[str],
    admissions: Sequence[bytes],
    tree: Sequence[Sequence[bytes]],
    deadline: int,
    signature: bytes,
) -> Iterator[str]:
    """`Promise.header` for all members of one group commit: what they share is put into text once.

    Args:
        members: request ids, in leaf order.
        admissions: the leaf hashes of their admission records.
        tree: all levels of that over `leaves` of the two (`tlog.merkle.levels`).
    """
    shared = f'", origin="{origin}", worker={worker}, batch={batch}, size={len(members)}, index='
    root, signed = _texts((tree[-1][0], signature))
    end = f"), root={root}, deadline={deadline}, sig={signed}"
    each = zip(members, _texts(admissions), _paths(tree), strict=True)
    for index, (request_id, admission, path) in enumerate(each):
        yield f'id="{request_id}{shared}{index}, admission={admission}, path=({path[1:]}{end}'


def _paths(tree: Sequence[Sequence[bytes]]) -> list[str]:
    """Every leaf's inclusion path, a space before each of its nodes. From the root downwards: two neighbours' paths are
    each other, and then the same. A level's odd last node has no neighbour."""
    found = [""]
    for level in reversed(tree[:-1]):
        texts, above, found = [f" {text}" for text in _texts(level)], found, []
        for left, right, path in zip(texts[::2], texts[1::2], above, strict=False):
            found += (right + path, left + path)
        if len(level) & 1:
            found.append(above[-1])
    return found


def _texts(hashes: Sequence[bytes]) -> list[str]:
    """Each as an RFC 9651 Byte Sequence."""
    return [f":{b2a_base64(hash_, newline=False).decode()}:" for hash_ in hashes]


def leaf_data(request_id: str, admission: bytes) -> bytes:
    return LEAF_DOMAIN + request_id.encode() + b"\n" + admission


def signed_text(origin: str, worker: int, batch: int, size: int, root: bytes, deadline: int) -> bytes:
    """The bytes the worker signs for one group commit."""
    encoded = base64.b64encode(root).decode()
    return f"daulat/promise/v1\n{origin}\n{worker}\n{batch}\n{size}\n{encoded}\n{deadline}\n".encode()


def parse_header(value: str) -> Promise:
    """Read a `Daulat-Promise` header as `Promise.header` writes it.

    Raises:
        VerificationFailed: the header is malformed; nothing is verified here.
    """
    members: dict[str, str | int | bytes | tuple[bytes, ...]] = {}
    position = 0
    try:
        while position < len(value):
            match = _MEMBER.match(value, position)
            if match is None or match[1] in members:
                raise ValueError(f"at character {position}")
            name, text, number, binary, items = match.groups()
            if text is not None:
                members[name] = text
            elif number is not None:
                members[name] = int(number)
            elif binary is not None:
                members[name] = base64.b64decode(binary, validate=True)
            else:
                nodes = tuple(base64.b64decode(node.strip(":"), validate=True) for node in items.split())
                members[name] = nodes
            position = match.end()
        return Promise(
            request_id=_typed(members.pop("id"), str),
            origin=_typed(members.pop("origin"), str),
            worker=_typed(members.pop("worker"), int),
            batch=_typed(members.pop("batch"), int),
            size=_typed(members.pop("size"), int),
            index=_typed(members.pop("index"), int),
            admission=_typed(members.pop("admission"), bytes),
            path=_typed(members.pop("path"), tuple),
            root=_typed(members.pop("root"), bytes),
            deadline=_typed(members.pop("deadline"), int),
            signature=_typed(members.pop("sig"), bytes),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationFailed(f"malformed Daulat-Promise header: {error}") from None


def _typed(value: object, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not a {kind.__name__}")
    return value

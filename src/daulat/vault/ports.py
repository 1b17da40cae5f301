"""What the vault needs of the world: a root that wraps keys, rows that keep them, and a place for sealed bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from daulat.core.retention import Rule

Owner = Literal["tenant", "person"]
Kind = Literal["file", "completion"]


class Root(Protocol):
    """Port: the root key, which never leaves where it is. Versions are names that sort in no particular way."""

    def version(self) -> str:
        """Under which new keys are wrapped.

        Raises:
            Unavailable: it is sealed, or whoever keeps it does not answer.
        """
        ...

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """32 bytes under `version`."""
        ...

    def unwrap(self, wrapped: bytes, version: str, bound: bytes) -> bytes:
        """Raises VerificationFailed: it does not open under that version; Unavailable: nobody can tell."""
        ...

    def rotate(self) -> str:
        """A new version. Older ones go on opening what they wrapped."""
        ...

    def forget(self, version: str) -> None:
        """Destroy an older version: what it wrapped opens no more. Nothing happens where there is none.

        Raises:
            Conflict: it is the one in use.
        """
        ...

    def versions(self) -> Sequence[str]:
        """Those that still open something."""
        ...


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key of the hierarchy, wrapped. A tenant's stands under the root, a person's under a tenant's."""

    id: bytes  # 16 bytes, random
    owner: Owner
    name: str  # the tenant's or person's id
    parent: str  # the root's version, or the hex id of the tenant's key
    wrapped: bytes
    created: int  # Unix milliseconds


@dataclass(frozen=True, slots=True)
class Destroyed:
    """What is left of a key that was destroyed: that it was, and when. No key of this owner is made again."""

    owner: Owner
    name: str
    time: int  # Unix milliseconds


class KeyRows(Protocol):
    """Port: the wrapped keys. Each call is one durable step, whole or not at all."""

    def all(self) -> Sequence[KeyRow]: ...

    def of(self, owner: Owner, name: str) -> KeyRow | None:
        """The newest key of this owner."""
        ...

    def get(self, id_: bytes) -> KeyRow | None: ...

    def add(self, row: KeyRow) -> None:
        """Raises Conflict: this owner's keys were destroyed."""
        ...

    def rewrap(self, changes: Sequence[tuple[bytes, str, bytes]]) -> None:
        """By id, another parent and the key wrapped by it."""
        ...

    def remove(self, id_: bytes) -> None: ...

    def destroy(self, owners: Iterable[tuple[Owner, str]], now_ms: int) -> int:
        """Delete all keys of these owners, overwritten where they stood, and remember that; how many there were."""
        ...

    def destroyed(self) -> Sequence[Destroyed]: ...


class Place(Protocol):
    """Port: where sealed bytes lie. Names are `[a-z0-9_]+`."""

    def describe(self) -> str:
        """What and where, in words that hold no secret."""
        ...

    def put(self, name: str, data: Iterable[bytes]) -> int:
        """Keep it, whole and durable, or nothing of it; its size in bytes.

        Raises:
            Unavailable: it cannot be kept.
        """
        ...

    def get(self, name: str) -> Iterator[bytes]:
        """In pieces of at most 1 MiB.

        Raises:
            NotFound: there is none, before the first piece; Unavailable: it cannot be read.
        """
        ...

    def delete(self, name: str) -> None:
        """Nothing happens where there is none."""
        ...

    def names(self) -> Iterator[str]: ...

    def tidy(self) -> None:
        """Take away what a `put` left that a crash cut off. Only while nothing is being put."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One object, as far as its place in lists needs to know it. What it is called and says of itself is sealed."""

    kind: Kind
    id: str  # what clients call it; one of its kind and person
    name: str  # where it is kept, and what its bytes are bound to: random
    tenant: str
    person: str
    created: int  # Unix milliseconds
    expires: int | None
    size: int  # of its content, in bytes, unsealed
    version: int  # of `about`: 1, 2, ...
    about: bytes  # a sealed JSON object


@dataclass(frozen=True, slots=True)
class Retired:
    """Objects of one tenant that a rule took away, until the log says so: their kinds, and where their bytes lie."""

    id: str
    tenant: str
    rule: Rule
    objects: tuple[tuple[Kind, str], ...]


class Index(Protocol):
    """Port: the rows. Each call is one durable step."""

    def add(self, row: Row) -> None:
        """Raises Conflict: this person has one of that kind and id."""
        ...

    def get(self, kind: Kind, person: str, id_: str) -> Row | None: ...

    def page(self, kind: Kind, person: str, after: Row | None, limit: int, *, newest_first: bool) -> Sequence[Row]:
        """The next rows behind `after`, in the order in which they were made."""
        ...

    def replace(self, row: Row) -> None:
        """Another `about`, one version further.

        Raises:
            Conflict: the row is no longer at the version before.
        """
        ...

    def remove(self, row: Row) -> None: ...

    def expired(self, now_ms: int) -> Sequence[Row]: ...

    def taken(self, person: str) -> tuple[int, int]:
        """How many objects a person has, and how many bytes they hold."""
        ...

    def names(self) -> Iterator[str]: ...

    def owned(self, owner: Owner, name: str) -> Iterator[Row]:
        """Everything of a person or tenant."""
        ...

    def made_before(self, kind: Kind, tenant: str, time_ms: int, limit: int) -> Sequence[Row]:
        """The oldest of a tenant's rows, made by then."""
        ...

    def retire(self, batch: str, rule: Rule, rows: Sequence[Row]) -> None:
        """Take these rows of one tenant out, and note that it was done by this rule."""
        ...

    def retired(self) -> Retired | None:
        """What was noted first, and not settled."""
        ...

    def settle(self, batch: str) -> None:
        """Strike the note out."""
        ...

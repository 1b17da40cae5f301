"""What is kept for people: put, found, listed, changed and deleted by whoever it belongs to, and seen by nobody else.

An object's bytes lie in a place, its row in an index. The bytes are there before the row is, and the row is gone before
the bytes are: a crash in between leaves bytes that nothing names, which `tidy` takes away. Of what has expired, which
nobody is shown, the row goes last, so that `sweep` tries again. A row of somebody else is not found: the same question,
answered in the same way, as for one that never was.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from daulat.core.clock import Clock
from daulat.core.ids import new_id
from daulat.core.retention import Rule
from daulat.errors import InvalidRequest, NotFound, VerificationFailed
from daulat.vault.keyring import Keyring
from daulat.vault.ports import Index, Kind, Owner, Place, Retired, Row
from daulat.vault.sealed import Binding, Key, key_of, opened, seal

MOST_OBJECTS: Final = 10_000  # of one person
_PAGE: Final = 100
_BATCH: Final = 500  # objects of a kind that are retired in one step
_DAY_MS: Final = 86_400_000
_WORDS: Final[Mapping[Kind, str]] = {"file": "file", "completion": "stored completion"}


@dataclass(frozen=True, slots=True)
class Whose:
    """Ids, never from a client."""

    tenant: str
    person: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An object without its content."""

    id: str
    created: int  # Unix milliseconds
    expires: int | None
    size: int
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list, and whether there is more."""

    kept: tuple[Kept, ...]
    more: bool


class Objects:
    """One vault. Safe for threads: keys and rows are touched under a lock, contents stream outside it."""

    def __init__(
        self, keys: Keyring, index: Index, place: Place, clock: Clock, leased: Callable[[], None], most_bytes: int
    ) -> None:
        """`leased` raises Unavailable while the place holds no lease; `most_bytes`: of one person's contents."""
        self._keys, self._index, self._place, self._clock = keys, index, place, clock
        self._leased, self._most_bytes = leased, most_bytes
        self._lock = threading.RLock()

    def put(
        self,
        whose: Whose,
        kind: Kind,
        id_: str,
        content: Iterable[bytes],
        about: Callable[[], Mapping[str, Any]],
        *,
        expires: Callable[[], int | None] = lambda: None,
    ) -> Kept:
        """Keep an object: durable once this returns. `about` and `expires` are asked when the content is through.

        Raises:
            Unavailable: the place has no lease, or cannot keep it; Conflict: the keys were destroyed, or the id is
            taken; InvalidRequest: this person keeps too much already. Nothing is kept then.
        """
        self._leased()
        with self._lock:
            count, taken = self._index.taken(whose.person)
            if count >= MOST_OBJECTS:
                raise InvalidRequest(f"There are {count} objects already: delete some.", code="storage_limit_exceeded")
            key = self._keys.person(whose.tenant, whose.person)
        name, size = new_id("obj"), 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in content:
                size += len(piece)
                if taken + size > self._most_bytes:
                    words = (
                        f"More than {self._most_bytes} bytes in all: delete something, or ask the operator for more."
                    )
                    raise InvalidRequest(words, code="storage_limit_exceeded")
                yield piece

        try:
            self._place.put(name, seal(counted(), key, Binding(whose.tenant, name, 1)))
            said = about()
            row = Row(kind, id_, name, whose.tenant, whose.person, self._clock.now_ms(), expires(), size, 1, b"")
            row = replace(row, about=_sealed(said, key, row))
            with self._lock:
                self._keys.key(key.id)  # destroyed meanwhile: what was just written is for nobody
                self._index.add(row)
        except BaseException:
            self._place.delete(name)
            raise
        return _kept(row, said)

    def get(self, whose: Whose, kind: Kind, id_: str) -> Kept:
        """Raises NotFound: this person has none of that id; VerificationFailed: its row was changed."""
        with self._lock:
            row = self._row(whose, kind, id_)
            return _kept(row, self._about(row))

    def content(self, whose: Whose, kind: Kind, id_: str) -> Iterator[bytes]:
        """Raises NotFound before the first piece; VerificationFailed wherever something was changed."""
        with self._lock:
            row = self._row(whose, kind, id_)
            pieces = iter(self._place.get(row.name))
            first = next(pieces, b"")
            key = self._keys.key(key_of(first))
        return opened(_chained(first, pieces), key, Binding(row.tenant, row.name, 1))

    def list(
        self,
        whose: Whose,
        kind: Kind,
        *,
        after: str = "",
        limit: int,
        newest_first: bool,
        wanted: Callable[[Kept], bool] = lambda _kept: True,
    ) -> Page:
        """Raises NotFound: `after` is none of this person's."""
        found: list[Kept] = []
        with self._lock:
            last = self._row(whose, kind, after) if after else None
            while rows := self._index.page(kind, whose.person, last, _PAGE, newest_first=newest_first):
                for row in rows:
                    if self._over(row) or not wanted(kept := _kept(row, self._about(row))):
                        continue
                    if len(found) == limit:
                        return Page(tuple(found), more=True)
                    found.append(kept)
                last = rows[-1]
        return Page(tuple(found), more=False)

    def all(self, whose: Whose) -> Sequence[tuple[Kind, Kept]]:
        """Everything of a person, oldest first; of a row that was changed, `about` says that it is `unreadable`."""
        found: deque[tuple[Kind, Kept]] = deque()  # `list` is a method here
        with self._lock:
            for kind in _WORDS:
                last = None
                while rows := self._index.page(kind, whose.person, last, _PAGE, newest_first=False):
                    own = (row for row in rows if row.tenant == whose.tenant and not self._over(row))
                    found += [(kind, _kept(row, self._about_or_why(row))) for row in own]
                    last = rows[-1]
        return tuple(found)

    def change(self, whose: Whose, kind: Kind, id_: str, about: Mapping[str, Any]) -> Kept:
        """Say something else of it.

        Raises:
            NotFound, Unavailable: as `put`; Conflict: somebody else has changed it meanwhile.
        """
        self._leased()
        with self._lock:
            row = self._row(whose, kind, id_)
            key = self._keys.key(key_of(row.about))
            row = replace(row, version=row.version + 1)
            row = replace(row, about=_sealed(about, key, row))
            self._index.replace(row)
        return _kept(row, about)

    def delete(self, whose: Whose, kind: Kind, id_: str) -> None:
        """Raises NotFound."""
        with self._lock:
            row = self._row(whose, kind, id_)
            self._index.remove(row)
        self._place.delete(row.name)

    def after(self, seconds: int) -> int:
        """Unix milliseconds, so many seconds from now."""
        return self._clock.now_ms() + seconds * 1000

    def sweep(self) -> Sequence[Row]:
        """Take away what has expired; the rows that had.

        Raises:
            Unavailable: the place does not answer: what is left goes the next time.
        """
        with self._lock:
            rows = tuple(self._index.expired(self._clock.now_ms()))
        for row in rows:
            self._place.delete(row.name)
            with self._lock:
                self._index.remove(row)
        return rows

    def retire(self, tenant: str, rule: Rule) -> bool:
        """Take some of a tenant's objects that its rule keeps no longer out of the lists; whether there were any.

        From then on nobody finds them. They are noted in the same step, and stay so until `settled`.
        """
        rows, now = list[Row](), self._clock.now_ms()
        with self._lock:
            for kind in _WORDS:
                if (days := rule.days(kind)) is not None:
                    rows += self._index.made_before(kind, tenant, now - days * _DAY_MS, _BATCH)
            if rows:
                self._index.retire(new_id("batch"), rule, rows)
        return bool(rows)

    def retired(self) -> Retired | None:
        """What was taken out first, and is not settled."""
        with self._lock:
            return self._index.retired()

    def dispose(self, batch: Retired) -> None:
        """Delete the bytes of what was retired. Doing it again does nothing.

        Raises:
            Unavailable: the place does not answer.
        """
        for _, name in batch.objects:
            self._place.delete(name)

    def settled(self, batch: Retired) -> None:
        """The bytes are gone, and it is written down."""
        with self._lock:
            self._index.settle(batch.id)

    def tidy(self) -> int:
        """Bytes that nothing names are taken away; how many objects that were. Only while nothing is being put."""
        with self._lock:
            known, left = set(self._index.names()), [*self._place.names()]
            lost = [name for name in left if name not in known]
            for name in lost:
                self._place.delete(name)
        return len(lost)

    def rotate(self, tenant: str = "") -> str:
        """A new key for a tenant, or a new root; the root's version in use.

        Raises:
            NotFound: this tenant has no key.
        """
        with self._lock:
            if not tenant:
                return self._keys.rotate_root()
            self._keys.rotate_tenant(tenant)
            return self._keys.settle()

    def destroy(self, owner: Owner, name: str, people: tuple[str, ...] = ()) -> tuple[int, int]:
        """Destroy the keys of a person, or of a tenant and its people, then delete what no longer opens.

        How many keys and objects there were. The keys go first: from then on nothing opens, whatever is left lying.
        """
        with self._lock:
            keys = self._keys.destroy(owner, name, people)
            rows = list(self._index.owned(owner, name))
            for row in rows:
                self._index.remove(row)
        for row in rows:
            self._place.delete(row.name)
        return keys, len(rows)

    def _row(self, whose: Whose, kind: Kind, id_: str) -> Row:
        row = self._index.get(kind, whose.person, id_)
        if row is None or row.tenant != whose.tenant or self._over(row):
            raise NotFound(f"There is no {_WORDS[kind]} with the id {id_[:128]!r}.", code=f"{kind}_not_found")
        return row

    def _over(self, row: Row) -> bool:
        return row.expires is not None and row.expires <= self._clock.now_ms()

    def _about_or_why(self, row: Row) -> Mapping[str, Any]:
        try:
            return self._about(row)
        except VerificationFailed as error:
            return {"unreadable": error.message}

    def _about(self, row: Row) -> Mapping[str, Any]:
        data = b"".join(opened([row.about], self._keys.key(key_of(row.about)), _binding(row)))
        value = json.loads(data)
        if not isinstance(value, dict) or value.pop("row", None) != _fixed(row):
            raise VerificationFailed("the row of an object was changed")
        return value


def _sealed(about: Mapping[str, Any], key: Key, row: Row) -> bytes:
    data = json.dumps({**about, "row": _fixed(row)}, ensure_ascii=False).encode()
    return b"".join(seal([data], key, _binding(row)))


def _binding(row: Row) -> Binding:
    return Binding(row.tenant, f"{row.name}/about", row.version)


def _fixed(row: Row) -> list[Any]:
    """What of a row nobody may change who cannot seal."""
    return [row.kind, row.id, row.person, row.created, row.expires, row.size]


def _kept(row: Row, about: Mapping[str, Any]) -> Kept:
    return Kept(row.id, row.created, row.expires, row.size, about)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest

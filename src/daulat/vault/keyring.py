"""The hierarchy: root, a key per tenant under it, a key per person under that, a data key per object under that.

Rotation makes a new root or tenant key and wraps again what stood under the old one: each row opens before its step and
after it, so a crash anywhere loses nothing, and the next rotation, or `settle`, goes on where it ended.
Objects are never touched: they stand under persons' keys. To destroy is to delete rows; a tenant's take its people's
along, because nothing opens those any more.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Final

from daulat.core.clock import Clock
from daulat.errors import NotFound, VerificationFailed
from daulat.vault.ports import KeyRow, KeyRows, Owner, Root
from daulat.vault.sealed import KEY_BYTES, KEY_ID_BYTES, Key, unwrap, wrap

_MOST_OPEN: Final = 1024  # keys that are held unwrapped


class Keyring:
    """Not for two threads at once: its owner sees to that."""

    def __init__(self, root: Root, rows: KeyRows, clock: Clock) -> None:
        self._root, self._rows, self._clock = root, rows, clock
        self._open: OrderedDict[bytes, Key] = OrderedDict()

    def person(self, tenant: str, person: str) -> Key:
        """The key of a person, made where there is none yet.

        Raises:
            Conflict: the keys of this person or tenant were destroyed; Unavailable: the root cannot be used.
        """
        row = self._rows.of("person", person)
        if row is not None:
            return self._opened(row)
        row = self._rows.of("tenant", tenant)
        above = self._make("tenant", tenant, None) if row is None else self._opened(row)
        return self._make("person", person, above)

    def key(self, id_: bytes) -> Key:
        """The key of that id.

        Raises:
            NotFound: there is none, or it was destroyed; VerificationFailed: its row was changed.
        """
        row = self._rows.get(id_)
        if row is None:
            raise NotFound("the key was destroyed", code="key_destroyed")
        return self._opened(row)

    def rotate_root(self) -> str:
        """A new version of the root, and every tenant's key under it; older versions are forgotten."""
        self._root.rotate()
        return self.settle()

    def rotate_tenant(self, tenant: str) -> None:
        """A new key for a tenant, and the keys of its people under it.

        Raises:
            NotFound: this tenant has no key.
        """
        if self._rows.of("tenant", tenant) is None:
            raise NotFound("this tenant has no key yet: it has stored nothing")
        self._make("tenant", tenant, None)
        self.settle()

    def settle(self) -> str:
        """Finish rotations: wrap again what stands under an older root or tenant key, then let those go.

        The root's version in use. Nothing is let go that still opens something.
        """
        rows = list(self._rows.all())
        newest: dict[str, KeyRow] = {}
        for row in rows:  # oldest first
            if row.owner == "tenant":
                newest[row.name] = row
        stale = {row.id.hex(): newest[row.name] for row in rows if row.owner == "tenant" and newest[row.name] != row}
        moved = [row for row in rows if row.owner == "person" and row.parent in stale]
        self._rows.rewrap([self._under(row, self._opened(stale[row.parent])) for row in moved])
        for id_ in stale:
            self._rows.remove(bytes.fromhex(id_))
            self._open.pop(bytes.fromhex(id_), None)
        version = self._root.version()
        older = [row for row in rows if row.owner == "tenant" and row.parent != version and row.id.hex() not in stale]
        self._rows.rewrap([(row.id, version, self._root.wrap(self._opened(row).secret, _bound(row))) for row in older])
        for before in self._root.versions():
            if before != version:
                self._root.forget(before)
        return version

    def destroy(self, owner: Owner, name: str, people: tuple[str, ...] = ()) -> int:
        """Delete the keys of a person, or of a tenant and these, its people; how many there were.

        The root is rotated behind it: what a copy of the rows from before holds, no root opens any more.
        """
        owners: list[tuple[Owner, str]] = [(owner, name), *(("person", person) for person in people)]
        gone = self._rows.destroy(owners, self._clock.now_ms())
        self._open.clear()
        self.rotate_root()
        return gone

    def _under(self, row: KeyRow, above: Key) -> tuple[bytes, str, bytes]:
        """A person's key, wrapped by another tenant's."""
        return row.id, above.id.hex(), wrap(self._opened(row).secret, above.secret, _bound(row))

    def _make(self, owner: Owner, name: str, above: Key | None) -> Key:
        key = Key(os.urandom(KEY_ID_BYTES), os.urandom(KEY_BYTES))
        row = KeyRow(key.id, owner, name, "", b"", self._clock.now_ms())
        if above is None:
            parent, wrapped = self._root.version(), self._root.wrap(key.secret, _bound(row))
        else:
            parent, wrapped = above.id.hex(), wrap(key.secret, above.secret, _bound(row))
        self._rows.add(KeyRow(key.id, owner, name, parent, wrapped, row.created))
        return self._remember(key)

    def _opened(self, row: KeyRow) -> Key:
        if (held := self._open.get(row.id)) is not None:
            self._open.move_to_end(row.id)
            return held
        if row.owner == "tenant":
            secret = self._root.unwrap(row.wrapped, row.parent, _bound(row))
        else:
            above = self._rows.get(bytes.fromhex(row.parent))
            if above is None:
                raise VerificationFailed("a person's key stands under a tenant's key that is not there")
            secret = unwrap(row.wrapped, self._opened(above).secret, _bound(row))
        return self._remember(Key(row.id, secret))

    def _remember(self, key: Key) -> Key:
        self._open[key.id] = key
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)
        return key


def _bound(row: KeyRow) -> bytes:
    """A key in another's row does not open."""
    return f"daulat/key/v1\n{row.owner}\n{row.name}\n{row.id.hex()}\n".encode()

"""Keys are made once, rotate without touching objects, survive a crash at every step, and do not come back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.support.vaults import MemoryKeys, MemoryRoot
from tests.support.worlds import StillClock as Clock

from daulat.errors import Conflict, NotFound, VerificationFailed
from daulat.vault.keyring import Keyring
from daulat.vault.sealed import Binding, opened, seal


class Crashed(Exception):
    """The machine lost its power."""


class Failing:
    """A port that fails at its n-th change, and from then on."""

    def __init__(self, inner: Any, changes: frozenset[str], budget: list[int]) -> None:
        self._inner, self._changes, self._budget = inner, changes, budget

    def __getattr__(self, name: str) -> Any:
        if name in self._changes:
            self._budget[0] -= 1
            if self._budget[0] < 0:
                raise Crashed
        return getattr(self._inner, name)


def ring(root: Any, rows: Any) -> Keyring:
    return Keyring(root, rows, Clock())


def test_a_person_has_one_key_under_the_tenants() -> None:
    root, rows = MemoryRoot(), MemoryKeys()
    keys = ring(root, rows)
    key = keys.person("tenant_a", "person_1")
    assert keys.person("tenant_a", "person_1") == key
    assert keys.person("tenant_a", "person_2") != key
    assert [(row.owner, row.name) for row in rows.all()] == [
        ("tenant", "tenant_a"),
        ("person", "person_1"),
        ("person", "person_2"),
    ]
    again = ring(root, rows)  # nothing is remembered but what stands in the rows
    assert again.person("tenant_a", "person_1") == key
    assert again.key(key.id) == key


def test_a_row_put_in_anothers_place_does_not_open() -> None:
    root, rows = MemoryRoot(), MemoryKeys()
    keys = ring(root, rows)
    one, two = keys.person("tenant_a", "person_1"), keys.person("tenant_a", "person_2")
    held = rows.get(two.id)
    assert held is not None
    rows.rewrap([(one.id, held.parent, held.wrapped)])
    with pytest.raises(VerificationFailed):
        ring(root, rows).key(one.id)


def test_rotations_leave_the_objects_alone_and_everything_opens() -> None:
    root, rows = MemoryRoot(), MemoryKeys()
    keys, binding = ring(root, rows), Binding("tenant_a", "object_1", 1)
    key = keys.person("tenant_a", "person_1")
    data = b"".join(seal([b"kept"], key, binding))
    before, first = {row.id: row.wrapped for row in rows.all()}, root.version()
    keys.rotate_tenant("tenant_a")
    keys.rotate_root()
    assert root.versions() == (root.version(),)
    assert root.version() != first
    assert len(rows.all()) == 2
    assert all(before.get(row.id) != row.wrapped for row in rows.all())
    assert b"".join(opened([data], ring(root, rows).key(key.id), binding)) == b"kept"
    with pytest.raises(NotFound):
        keys.rotate_tenant("tenant_b")


@pytest.mark.parametrize("rotation", ["rotate_root", "rotate_tenant"])
def test_a_crash_at_any_step_of_a_rotation_loses_nothing(rotation: str) -> None:
    changes = frozenset({"rotate", "forget", "add", "rewrap", "remove", "destroy"})
    for allowed in range(40):
        root, rows = MemoryRoot(), MemoryKeys()
        made = ring(root, rows)
        keys = {name: made.person(tenant, name) for tenant, name in [("a", "p1"), ("a", "p2"), ("b", "p3")]}
        budget = [allowed]
        failing = ring(Failing(root, changes, budget), Failing(rows, changes, budget))
        crashed = False
        try:
            failing.rotate_root() if rotation == "rotate_root" else failing.rotate_tenant("a")
        except Crashed:
            crashed = True
        assert {name: ring(root, rows).key(key.id) for name, key in keys.items()} == keys, allowed
        ring(root, rows).settle()
        assert {name: ring(root, rows).key(key.id) for name, key in keys.items()} == keys, allowed
        assert len(root.versions()) == 1
        assert len(rows.all()) == 5
        if not crashed:
            assert allowed >= 3
            return
    pytest.fail("it never came through")


def test_a_persons_keys_once_destroyed_do_not_come_back() -> None:
    root, rows = MemoryRoot(), MemoryKeys()
    keys = ring(root, rows)
    one, two = keys.person("a", "p1"), keys.person("a", "p2")
    copied, stolen_root = copy.deepcopy(rows), root.version()
    assert keys.destroy("person", "p1") == 1
    with pytest.raises(NotFound, match="destroyed"):
        keys.key(one.id)
    with pytest.raises(Conflict, match="destroyed"):
        keys.person("a", "p1")
    assert ring(root, rows).key(two.id) == two
    assert stolen_root not in root.versions()
    with pytest.raises(VerificationFailed):  # a copy of the rows from before: its root is gone
        ring(root, copied).key(one.id)


def test_a_tenants_keys_take_its_people_along() -> None:
    root, rows = MemoryRoot(), MemoryKeys()
    keys = ring(root, rows)
    gone, stays = keys.person("a", "p1"), keys.person("b", "p3")
    assert keys.destroy("tenant", "a", ("p1", "p2")) == 2
    with pytest.raises(NotFound):
        keys.key(gone.id)
    for person in ("p1", "p2", "p9"):
        with pytest.raises(Conflict):
            keys.person("a", person)
    assert keys.key(stays.id) == stays

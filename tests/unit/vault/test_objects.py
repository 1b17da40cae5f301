"""What is kept is whole, its owner's alone, within limits, and gone when it is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.support.vaults import MemoryIndex, MemoryKeys, MemoryPlace, MemoryRoot
from tests.support.worlds import StillClock as Clock

from daulat.errors import Conflict, DaulatError, InvalidRequest, NotFound, Unavailable, VerificationFailed
from daulat.vault.keyring import Keyring
from daulat.vault.objects import Objects, Whose

ALI, BALA, CHONG = Whose("t1", "ali"), Whose("t1", "bala"), Whose("t2", "chong")


class Kept:
    """A vault in memory, whose parts a test may reach."""

    def __init__(self, most_bytes: int = 1 << 20) -> None:
        self.root, self.keys, self.index, self.place = MemoryRoot(), MemoryKeys(), MemoryIndex(), MemoryPlace()
        self.clock, self.lease = Clock(), True
        ring = Keyring(self.root, self.keys, self.clock)
        self.objects = Objects(ring, self.index, self.place, self.clock, self._leased, most_bytes)

    def _leased(self) -> None:
        if not self.lease:
            raise Unavailable("no lease", code="storage_not_leased")

    def put(self, whose: Whose, id_: str, content: bytes = b"content", **about: Any) -> None:
        self.objects.put(whose, "file", id_, [content], lambda: about)

    def read(self, whose: Whose, id_: str) -> bytes:
        return b"".join(self.objects.content(whose, "file", id_))


def test_what_was_put_is_there_for_its_owner_and_for_nobody_else() -> None:
    kept = Kept()
    kept.put(ALI, "file-1", b"secret", filename="pay.csv")
    assert kept.read(ALI, "file-1") == b"secret"
    assert kept.objects.get(ALI, "file", "file-1").about == {"filename": "pay.csv"}
    for other in (BALA, CHONG, Whose("t2", "ali")):
        for ask in (
            lambda who: kept.objects.get(who, "file", "file-1"),
            lambda who: kept.objects.content(who, "file", "file-1"),
            lambda who: kept.objects.delete(who, "file", "file-1"),
            lambda who: kept.objects.change(who, "file", "file-1", {}),
        ):
            with pytest.raises(NotFound) as theirs:
                ask(other)
            with pytest.raises(NotFound) as nobodys:
                ask(replace(other, person="nobody"))
            assert theirs.value.message == nobodys.value.message
    page = kept.objects.list(CHONG, "file", limit=10, newest_first=False)
    assert page.kept == ()
    assert kept.read(ALI, "file-1") == b"secret"


def test_nothing_of_it_stands_anywhere_in_clear() -> None:
    kept = Kept()
    kept.put(ALI, "file-1", b"the patient's name is Siti", filename="siti.txt")
    everything = repr(kept.place.objects) + repr(kept.index.rows) + repr(kept.keys.rows)
    assert "Siti" not in everything
    assert "siti" not in everything


def test_an_object_swapped_for_another_is_refused() -> None:
    kept = Kept()
    kept.put(ALI, "file-1", b"one")
    kept.put(ALI, "file-2", b"two")
    kept.put(CHONG, "file-3", b"three")
    one, two, three = (row.name for row in kept.index.rows)
    objects = kept.place.objects
    for theirs in (two, three):
        before = objects[one]
        objects[one] = objects[theirs]
        with pytest.raises(VerificationFailed):
            kept.read(ALI, "file-1")
        objects[one] = before
    assert kept.read(ALI, "file-1") == b"one"


def test_a_row_given_to_another_person_or_changed_is_refused() -> None:
    kept = Kept()
    kept.put(ALI, "file-1", b"one", filename="a")
    row = kept.index.rows[0]
    for change in ({"tenant": "t2", "person": "chong"}, {"person": "bala"}, {"size": 3_000}, {"version": 2}):
        kept.index.rows[0] = changed = replace(row, **change)
        with pytest.raises(VerificationFailed):
            kept.objects.get(Whose(changed.tenant, changed.person), "file", "file-1")
    kept.index.rows[0] = row
    assert kept.objects.get(ALI, "file", "file-1").size == 3


def test_without_a_lease_nothing_is_written_and_all_is_read() -> None:
    kept = Kept()
    kept.put(ALI, "file-1", b"one")
    kept.lease = False
    with pytest.raises(Unavailable):
        kept.put(ALI, "file-2")
    with pytest.raises(Unavailable):
        kept.objects.change(ALI, "file", "file-1", {})
    assert kept.read(ALI, "file-1") == b"one"
    kept.objects.delete(ALI, "file", "file-1")
    assert not kept.place.objects


def test_limits_hold_and_what_went_beyond_leaves_nothing() -> None:
    kept = Kept(most_bytes=100)
    kept.put(ALI, "file-1", b"x" * 60)
    with pytest.raises(InvalidRequest, match="100 bytes"):
        kept.put(ALI, "file-2", b"x" * 41)
    assert len(kept.place.objects) == len(kept.index.rows) == 1
    kept.put(ALI, "file-3", b"x" * 40)
    kept.put(BALA, "file-4", b"x" * 100)


def test_what_is_on_its_way_counts_and_two_together_do_not_pass_the_limit() -> None:
    kept = Kept(most_bytes=100)
    kept.put(ALI, "file-1", b"x" * 20)

    def meanwhile(size: int) -> Iterator[bytes]:
        yield b"x" * 50
        kept.put(BALA, f"file-{size}", b"x" * 50)
        kept.put(ALI, f"file-{size}", b"x" * size)
        yield b"x" * 10

    with pytest.raises(InvalidRequest, match="100 bytes"):
        kept.objects.put(ALI, "file", "file-2", meanwhile(31), dict)
    assert [row.id for row in kept.index.rows if row.person == "ali"] == ["file-1"]
    with pytest.raises(InvalidRequest, match="100 bytes"):  # the one that ends later does not fit any more
        kept.objects.put(ALI, "file", "file-2", meanwhile(30), dict)
    assert [row.id for row in kept.index.rows if row.person == "ali"] == ["file-1", "file-30"]
    assert not kept.objects._coming
    kept.put(ALI, "file-3", b"x" * 50)


def test_a_lease_that_runs_out_or_keys_that_go_while_it_comes_leave_nothing() -> None:
    kept = Kept()

    def late() -> Iterator[bytes]:
        yield b"x" * 200_000
        kept.lease = False
        yield b"x"

    with pytest.raises(Unavailable):
        kept.objects.put(ALI, "file", "file-1", late(), dict)
    kept.lease = True

    def erased() -> Iterator[bytes]:
        yield b"x" * 200_000
        kept.objects.destroy("person", "ali")
        yield b"x"

    with pytest.raises(NotFound):
        kept.objects.put(ALI, "file", "file-1", erased(), dict)
    assert not kept.place.objects
    assert not kept.index.rows


def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    kept = Kept()

    def broken() -> Iterator[bytes]:
        yield b"x" * 200_000
        raise InvalidRequest("cut off")

    with pytest.raises(InvalidRequest):
        kept.objects.put(ALI, "file", "file-1", broken(), dict)
    with pytest.raises(KeyError):
        kept.objects.put(ALI, "file", "file-1", [b"whole"], lambda: {"a": {}["b"]})
    assert not kept.place.objects
    assert not kept.index.rows


def test_an_id_that_is_taken_is_refused_and_the_first_stays() -> None:
    kept = Kept()
    kept.put(ALI, "file-1", b"first")
    with pytest.raises(Conflict):
        kept.put(ALI, "file-1", b"second")
    assert kept.read(ALI, "file-1") == b"first"
    assert len(kept.place.objects) == 1


def test_lists_go_on_where_they_ended_in_both_orders_and_only_over_what_is_wanted() -> None:
    kept = Kept()
    for number in range(250):
        kept.put(ALI, f"file-{number}", number=number)
    seen: list[int] = []
    after = ""
    while True:
        page = kept.objects.list(ALI, "file", after=after, limit=40, newest_first=False)
        seen += [each.about["number"] for each in page.kept]
        if not page.more:
            break
        after = page.kept[-1].id
    assert seen == list(range(250))
    newest = kept.objects.list(ALI, "file", limit=2, newest_first=True)
    assert [each.about["number"] for each in newest.kept] == [249, 248]
    even = kept.objects.list(
        ALI, "file", limit=1000, newest_first=False, wanted=lambda one: one.about["number"] % 2 == 0
    )
    assert len(even.kept) == 125
    assert not even.more
    with pytest.raises(NotFound):
        kept.objects.list(ALI, "file", after="file-999", limit=1, newest_first=False)


def test_changes_are_kept_and_versions_do_not_go_back() -> None:
    kept = Kept()
    kept.put(ALI, "file-1", b"one", note="old")
    old = kept.index.rows[0]
    kept.objects.change(ALI, "file", "file-1", {"note": "new"})
    assert kept.objects.get(ALI, "file", "file-1").about == {"note": "new"}
    kept.index.rows[0] = replace(kept.index.rows[0], about=old.about)  # the old words under the new number
    with pytest.raises(VerificationFailed):
        kept.objects.get(ALI, "file", "file-1")


def test_what_has_expired_is_gone_before_and_after_it_is_swept() -> None:
    kept = Kept()
    kept.objects.put(ALI, "file", "file-1", [b"x"], dict, expires=lambda: kept.objects.after(10))
    kept.put(ALI, "file-2")
    kept.clock.now += 10_000
    with pytest.raises(NotFound):
        kept.read(ALI, "file-1")
    assert [each.id for each in kept.objects.list(ALI, "file", limit=9, newest_first=True).kept] == ["file-2"]
    assert [row.id for row in kept.objects.sweep()] == ["file-1"]
    assert len(kept.place.objects) == 1


def test_bytes_that_nothing_names_are_tidied_away() -> None:
    kept = Kept()
    kept.put(ALI, "file-1")
    kept.place.objects["obj_left_behind"] = b"sealed, and no row"
    assert kept.objects.tidy() == 1
    assert kept.read(ALI, "file-1") == b"content"


def test_a_person_destroyed_is_gone_and_the_others_stay() -> None:
    kept = Kept()
    for whose in (ALI, BALA, CHONG):
        kept.put(whose, "file-1", whose.person.encode())
    copies = dict(kept.place.objects), list(kept.index.rows), list(kept.keys.rows)
    assert kept.objects.destroy("person", "ali") == (1, 1)
    with pytest.raises(NotFound):
        kept.read(ALI, "file-1")
    assert (kept.read(BALA, "file-1"), kept.read(CHONG, "file-1")) == (b"bala", b"chong")
    with pytest.raises(Conflict):
        kept.put(ALI, "file-2")
    # A backup from before: the bytes, the rows, even the wrapped keys come back, and still nothing opens.
    kept.place.objects, kept.index.rows = copies[0], copies[1]
    with pytest.raises(DaulatError):
        kept.read(ALI, "file-1")
    kept.keys.rows = copies[2]
    stale = Objects(
        Keyring(kept.root, kept.keys, kept.clock), kept.index, kept.place, kept.clock, lambda: None, 1 << 20
    )
    with pytest.raises(VerificationFailed):
        b"".join(stale.content(ALI, "file", "file-1"))


def test_a_tenant_destroyed_takes_all_its_people_along() -> None:
    kept = Kept()
    for whose in (ALI, BALA, CHONG):
        kept.put(whose, "file-1", whose.person.encode())
    assert kept.objects.destroy("tenant", "t1", ("ali", "bala")) == (3, 2)
    for whose in (ALI, BALA):
        with pytest.raises(NotFound):
            kept.read(whose, "file-1")
    assert kept.read(CHONG, "file-1") == b"chong"
    assert [json.dumps(row.id) for row in kept.index.rows] == ['"file-1"']


def test_rotation_changes_no_object() -> None:
    kept = Kept()
    kept.put(ALI, "file-1", b"stays")
    before = dict(kept.place.objects)
    kept.objects.rotate("t1")
    kept.objects.rotate()
    assert kept.place.objects == before
    assert kept.read(ALI, "file-1") == b"stays"
    with pytest.raises(NotFound):
        kept.objects.rotate("t9")

"""What the vault asks of its ports, held against every implementation: memory, files, SQLite, S3, Transit, PKCS#11."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.outside_vaults import pkcs11_root, s3_bucket, transit_root
from tests.support.vaults import MemoryIndex, MemoryKeys, MemoryPlace, MemoryRoot

from daulat.adapters.vault_folder import Folder
from daulat.adapters.vault_index import SqliteIndex
from daulat.adapters.vault_keys import SqliteKeys
from daulat.adapters.vault_root import PassphraseRoot
from daulat.core.retention import Rule
from daulat.errors import Conflict, InvalidRequest, NotFound, Unavailable, VerificationFailed
from daulat.vault.ports import Index, KeyRow, KeyRows, Place, Retired, Root, Row

KEY = bytes(range(32))
ROOTS: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: MemoryRoot(),
    "passphrase": lambda folder: PassphraseRoot(folder / "root", folder / "passphrase"),
    "transit": transit_root,
    "pkcs11": pkcs11_root,
}
PLACES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: MemoryPlace(),
    "folder": lambda folder: Folder(folder / "objects"),
    "s3": s3_bucket,
}
ROWS: dict[str, Callable[[Path], KeyRows]] = {
    "memory": lambda _: MemoryKeys(),
    "sqlite": lambda folder: SqliteKeys(folder / "keys.db"),
}
INDEXES: dict[str, Callable[[Path], Index]] = {
    "memory": lambda _: MemoryIndex(),
    "sqlite": lambda folder: SqliteIndex(folder / "index.db"),
}


def kinds(makers: dict[str, Any]) -> list[Any]:
    """Those of `tests.support.outside_vaults` are slow: servers and tokens of their own."""
    outside = {"transit", "pkcs11", "s3"}
    return [pytest.param(name, marks=[pytest.mark.slow] if name in outside else []) for name in makers]


def made(makers: dict[str, Callable[[Path], Any]], name: str, folder: Path) -> Iterator[Any]:
    found = makers[name](folder)
    if hasattr(found, "__enter__"):
        with found as inner:
            yield inner
    else:
        yield found
        if hasattr(found, "close"):
            found.close()


@pytest.fixture(params=kinds(ROOTS))
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Root]:
    yield from made(ROOTS, request.param, tmp_path)


@pytest.fixture(params=kinds(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from made(PLACES, request.param, tmp_path)


@pytest.fixture(params=ROWS)
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyRows]:
    yield from made(ROWS, request.param, tmp_path)


@pytest.fixture(params=INDEXES)
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
    yield from made(INDEXES, request.param, tmp_path)


# Roots.


def test_a_root_opens_what_it_wrapped_bound_to_the_same_words(root: Root) -> None:
    version, wrapped = root.version(), root.wrap(KEY, b"bound")
    assert KEY not in wrapped
    assert wrapped != root.wrap(KEY, b"bound")
    assert root.unwrap(wrapped, version, b"bound") == KEY
    with pytest.raises(VerificationFailed):
        root.unwrap(wrapped, version, b"another's")
    changed = bytearray(wrapped)
    changed[-3] ^= 1
    with pytest.raises(VerificationFailed):
        root.unwrap(bytes(changed), version, b"bound")
    for nothing in (b"", b"x", wrapped[:20]):
        with pytest.raises(VerificationFailed):
            root.unwrap(nothing, version, b"bound")


def test_a_rotated_root_opens_old_and_new_until_the_old_is_forgotten(root: Root) -> None:
    first, old = root.version(), root.wrap(KEY, b"")
    second = root.rotate()
    assert (root.version(), set(root.versions())) == (second, {first, second})
    new = root.wrap(KEY, b"")
    assert root.unwrap(old, first, b"") == root.unwrap(new, second, b"") == KEY
    with pytest.raises(VerificationFailed):
        root.unwrap(old, second, b"")
    with pytest.raises(Conflict):
        root.forget(second)
    root.forget(first)
    root.forget(first)
    assert list(root.versions()) == [second]
    with pytest.raises(VerificationFailed):
        root.unwrap(old, first, b"")
    assert root.unwrap(new, second, b"") == KEY


# Rows of keys.


def key_row(number: int, owner: Any = "tenant", name: str = "a", parent: str = "v1") -> KeyRow:
    return KeyRow(bytes([number] * 16), owner, name, parent, b"wrapped", 1000 + number)


def test_rows_are_found_by_id_and_the_newest_by_owner(rows: KeyRows) -> None:
    for row in (key_row(1), key_row(2, "person", "p"), key_row(3)):
        rows.add(row)
    assert list(rows.all()) == [key_row(1), key_row(2, "person", "p"), key_row(3)]
    assert rows.of("tenant", "a") == key_row(3)
    assert rows.of("person", "a") is None
    assert rows.get(bytes([2] * 16)) == key_row(2, "person", "p")
    rows.rewrap([(bytes([1] * 16), "v2", b"again")])
    rows.rewrap([])
    assert rows.get(bytes([1] * 16)) == KeyRow(bytes([1] * 16), "tenant", "a", "v2", b"again", 1001)
    rows.remove(bytes([3] * 16))
    assert rows.get(bytes([3] * 16)) is None
    assert len(rows.all()) == 2


def test_destroyed_owners_get_no_key_again(rows: KeyRows) -> None:
    for row in (key_row(1), key_row(2, "person", "p"), key_row(3, "tenant", "b")):
        rows.add(row)
    assert rows.destroy([("tenant", "a"), ("person", "p"), ("person", "never had one")], 5000) == 2
    assert list(rows.all()) == [key_row(3, "tenant", "b")]
    assert {(gone.owner, gone.name, gone.time) for gone in rows.destroyed()} == {
        ("tenant", "a", 5000),
        ("person", "p", 5000),
        ("person", "never had one", 5000),
    }
    for row in (key_row(4), key_row(5, "person", "p"), key_row(6, "person", "never had one")):
        with pytest.raises(Conflict):
            rows.add(row)
    rows.destroy([("tenant", "a")], 6000)
    assert {gone.time for gone in rows.destroyed()} == {5000}


# Places.


def test_a_place_gives_back_what_was_put_there(place: Place) -> None:
    small, large = b"x" * 10, bytes(range(256)) * 80_000  # 20 MB
    assert place.put("obj_1", iter([small[:4], small[4:]])) == 10
    assert place.put("obj_2", (large[start : start + 100_000] for start in range(0, len(large), 100_000))) == len(large)
    assert b"".join(place.get("obj_1")) == small
    pieces = list(place.get("obj_2"))
    assert b"".join(pieces) == large
    assert max(map(len, pieces)) <= 1 << 20 or len(pieces) == 1
    assert sorted(place.names()) == ["obj_1", "obj_2"]
    place.delete("obj_1")
    place.delete("obj_1")
    with pytest.raises(NotFound):
        place.get("obj_1")
    assert sorted(place.names()) == ["obj_2"]
    assert place.describe()


def test_a_write_that_fails_in_the_middle_leaves_nothing(place: Place) -> None:
    def failing() -> Iterator[bytes]:
        yield b"y" * 9_000_000
        raise KeyError("the upload was cut off")

    with pytest.raises(KeyError):
        place.put("obj_3", failing())
    with pytest.raises(NotFound):
        place.get("obj_3")
    assert "obj_3" not in list(place.names())


def test_what_a_crash_left_of_a_write_is_tidied_away(place: Place) -> None:
    place.put("obj_4", [b"whole"])
    if isinstance(place, Folder):
        (place._path / ".obj_5.new").write_bytes(b"half")
    elif not isinstance(place, MemoryPlace):
        calls: Any = place
        upload = calls._client.create_multipart_upload(Bucket=calls._bucket, Key="obj_5")["UploadId"]
        calls._part("obj_5", upload, 1, b"half" * 2_000_000)
        assert left(place) == 1
    place.tidy()
    place.tidy()
    assert left(place) == 0
    assert list(place.names()) == ["obj_4"]
    assert b"".join(place.get("obj_4")) == b"whole"


def left(place: Any) -> int:
    """Writes that are not done."""
    if isinstance(place, Folder):
        return len([path for path in place._path.iterdir() if path.name.startswith(".")])
    if isinstance(place, MemoryPlace):
        return 0
    return len(place._client.list_multipart_uploads(Bucket=place._bucket).get("Uploads", ()))


def test_a_large_object_needs_little_memory(place: Place) -> None:
    size, piece = 100 << 20, bytes(range(256)) * 1024
    if isinstance(place, MemoryPlace):
        pytest.skip("it is memory")
    tracemalloc.start()
    try:
        assert place.put("obj_6", (piece for _ in range(size // len(piece)))) == size
        assert sum(map(len, place.get("obj_6"))) == size
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    place.delete("obj_6")


def test_names_that_lead_elsewhere_are_refused(place: Place) -> None:
    if isinstance(place, MemoryPlace):
        pytest.skip("it has no elsewhere")
    for name in ("../x", "a/b", "", "A", ".x", "x" * 200, "obj\n"):
        with pytest.raises(InvalidRequest):
            place.put(name, [b""])
        with pytest.raises(InvalidRequest):
            place.get(name)


# Indexes.


def row(number: int, person: str = "p", kind: Any = "file", expires: int | None = None) -> Row:
    return Row(kind, f"id-{number}", f"obj_{person}{kind}{number}", "t", person, number, expires, 7, 1, b"sealed")


def test_an_index_finds_pages_and_changes_rows(index: Index) -> None:
    for number in range(5):
        index.add(row(number))
    index.add(row(1, "q"))
    index.add(row(1, kind="completion"))
    with pytest.raises(Conflict):
        index.add(row(3))
    assert index.get("file", "p", "id-3") == row(3)
    assert index.get("file", "q", "id-3") is None
    assert index.get("completion", "p", "id-3") is None
    assert list(index.page("file", "p", None, 2, newest_first=False)) == [row(0), row(1)]
    assert list(index.page("file", "p", row(1), 10, newest_first=False)) == [row(2), row(3), row(4)]
    assert list(index.page("file", "p", row(3), 2, newest_first=True)) == [row(2), row(1)]
    assert index.taken("p") == (6, 42)
    assert index.taken("nobody") == (0, 0)
    index.remove(row(0))
    assert index.get("file", "p", "id-0") is None
    assert sorted(index.names()) == sorted(each.name for each in [*index.owned("tenant", "t")])
    assert [each.id for each in index.owned("person", "q")] == ["id-1"]


def test_a_row_is_replaced_only_from_the_version_before(index: Index) -> None:
    from dataclasses import replace  # noqa: PLC0415

    index.add(row(1))
    second = replace(row(1), version=2, about=b"second")
    index.replace(second)
    assert index.get("file", "p", "id-1") == second
    with pytest.raises(Conflict):
        index.replace(replace(row(1), version=2, about=b"lost"))
    with pytest.raises(Conflict):
        index.replace(replace(row(9), version=2))


def test_what_has_expired_is_listed(index: Index) -> None:
    for number, expires in enumerate([None, 100, 200]):
        index.add(row(number, expires=expires))
    assert [each.id for each in index.expired(99)] == []
    assert [each.id for each in index.expired(100)] == ["id-1"]
    assert [each.id for each in index.expired(500)] == ["id-1", "id-2"]


def test_what_is_retired_is_out_of_the_lists_and_noted_until_it_is_settled(index: Index) -> None:
    for number in range(4):
        index.add(row(number))
    index.add(row(1, "q"))
    index.add(row(1, kind="completion"))
    assert [each.created for each in index.made_before("file", "t", 2, 10)] == [0, 1, 1, 2]
    assert [each.created for each in index.made_before("file", "t", 2, 3)] == [0, 1, 1]
    assert list(index.made_before("file", "another", 2, 10)) == []
    assert index.retired() is None
    rule = Rule(files=1)
    index.retire("batch_1", rule, [row(0), row(1)])
    index.retire("batch_2", Rule(2, 3), [row(2), row(1, kind="completion")])
    assert index.get("file", "p", "id-1") is None
    assert index.get("file", "q", "id-1") == row(1, "q")
    assert index.taken("p") == (1, 7)
    first = Retired("batch_1", "t", rule, (("file", row(0).name), ("file", row(1).name)))
    assert index.retired() == first
    assert index.retired() == first
    index.settle("batch_1")
    index.settle("batch_1")
    second = (("file", row(2).name), ("completion", row(1, kind="completion").name))
    assert index.retired() == Retired("batch_2", "t", Rule(2, 3), second)
    index.settle("batch_2")
    assert index.retired() is None
    index.add(row(1))  # its place is free again


def test_sqlite_retires_all_of_a_batch_or_nothing_and_keeps_it_over_a_start(tmp_path: Path) -> None:
    index = SqliteIndex(tmp_path / "index.db")
    index.add(row(1))
    index._db.execute("CREATE TRIGGER full BEFORE INSERT ON retired BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(Unavailable, match="disk is full"):
        index.retire("batch", Rule(1), [row(1)])
    assert index.get("file", "p", "id-1") == row(1)
    assert index.retired() is None
    index._db.execute("DROP TRIGGER full")
    index.retire("batch", Rule(1), [row(1)])
    index.close()
    again = SqliteIndex(tmp_path / "index.db")
    assert again.retired() == Retired("batch", "t", Rule(1), (("file", row(1).name),))
    again.close()

"""What is in an archive comes out of it, or nothing does; and nothing a stranger wrote is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.errors import VerificationFailed
from daulat.vault.archive import About, Head, Member, read, written

ABOUT = About("a" * 32, "backup", 1_750_000_000_000, (Head("ai.example/2026", 7, "ab" * 32),))
FILES = {"one": b"1", "empty": b"", "folder/two": bytes(range(256)) * 9}


def archived(files: dict[str, bytes]) -> bytes:
    return b"".join(written([Member.of(*item) for item in files.items()], ABOUT))


def unpacked(data: bytes, most: int = 1 << 20, pieces: int = 100) -> tuple[dict[str, bytes], About]:
    found: dict[str, bytes] = {}

    def put(name: str, content: Iterator[bytes]) -> None:
        found[name] = b"".join(content)

    about = read((data[at : at + pieces] for at in range(0, len(data), pieces)), most, put)
    return found, about


def framed(value: Any, content: bytes = b"") -> bytes:
    said = value if isinstance(value, bytes) else json.dumps(value).encode()
    return len(said).to_bytes(4) + said + content


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=30), st.binary(max_size=600), max_size=6), st.integers(1, 700))
def test_everything_comes_out_as_it_went_in(files: dict[str, bytes], pieces: int) -> None:
    assert unpacked(archived(files), pieces=pieces) == (files, ABOUT)


def test_cut_off_anywhere_it_is_nothing() -> None:
    whole = archived({"one": b"1", "two": b"22"})
    for end in range(len(whole)):
        with pytest.raises(VerificationFailed):
            unpacked(whole[:end])
    with pytest.raises(VerificationFailed, match="after the backup's end"):
        unpacked(whole + b"\0")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers(0, len(archived(FILES)) - 1), st.integers(1, 255))
def test_a_byte_that_was_changed_is_seen(at: int, bits: int) -> None:
    changed = bytearray(archived(FILES))
    changed[at] ^= bits
    try:
        found, about = unpacked(bytes(changed))
    except VerificationFailed:
        return
    assert found == FILES  # only where nothing but what the manifest says of itself has changed
    assert about != ABOUT


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=400))
def test_no_bytes_do_anything_else_than_be_refused(data: bytes) -> None:
    with pytest.raises(VerificationFailed):
        unpacked(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((2**32 - 1).to_bytes(4) + b"{}", "no header"),
        (framed(b"[" * 900), "JSON"),
        (framed([]), "JSON"),
        (framed({"name": "a"}), "name and size"),
        (framed({"name": "a", "size": 1, "link": "b"}), "name and size"),
        (framed({"name": "a", "size": True}), "name and size"),
        (framed({"name": 1, "size": 1}), "name and size"),
        (framed({"name": "a", "size": -1}), "cannot have -1 bytes"),
        (framed({"name": "a", "size": 2**62}), "cannot have"),
        (framed({"name": "a", "size": 1}, b"1") * 2, "twice"),
    ],
)
def test_a_member_that_can_be_none_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(VerificationFailed, match=words):
        unpacked(data)


@pytest.mark.parametrize(
    "change",
    [
        {"members": []},
        {"members": [["one", 1, "0" * 64]]},
        {"members": [["one"]]},
        {"members": [1]},
        {"heads": [{"origin": "x"}]},
        {"heads": [{"origin": 1, "size": 1, "root": ""}]},
        {"heads": {}},
        {"id": 7},
        {"created": "now"},
        {"more": 1},
    ],
)
def test_a_manifest_that_says_something_else_is_refused(change: dict[str, Any]) -> None:
    whole = archived({"one": b"1"})
    at = whole.index(b'{"id"')
    manifest = json.dumps({**json.loads(whole[at:]), **change}).encode()
    start = framed({"name": "one", "size": 1}, b"1")
    with pytest.raises(VerificationFailed, match="manifest"):
        unpacked(start + framed({"name": "", "size": len(manifest)}, manifest))


def test_a_file_that_changes_while_it_is_read_makes_no_backup() -> None:
    with pytest.raises(VerificationFailed, match="has changed while it was read"):
        list(written([Member("log", 3, [b"1", b"22", b"3"])], ABOUT))

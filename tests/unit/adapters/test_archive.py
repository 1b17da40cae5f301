"""What somebody is given is one whole file that nobody else reads, and of a sealed one nothing lies about in clear."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import stat
import zipfile
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from tests.support import age as reader

from daulat.adapters import age
from daulat.adapters.age import CHUNK_BYTES, Sealing
from daulat.adapters.archive import Archive, safe
from daulat.errors import ConfigError, Conflict

PASSPHRASE = "a passphrase for tests"
# Made with pyrage 1.4.0 (rage): what the reader of these tests opens is age, and not something of our own. Its work
# factor of 20 takes a gigabyte, so the header alone is looked at here.
BY_RAGE = base64.b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCA1bW54OHl1WDBzUGlWeHlTSG0wM3Z3IDIwCk1Dc0xMTXVZcjZCZ0ltbEViMndhSGpUeUVldkdl"
    "bEhVTlo0M0loUzZQelEKLS0tIHpna3NCZkhZQVRDYWJrYitLQU9hVkRXZzJ2NHRiTGR2b01nNklWeStuODgKD+FI5e5GgPfajMNMPlzUA6KWeea1thsg"
    "HbeVAjYyAt9yx8lQzfzajxjOSNs95g=="
)


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age, "_COST", 4)
    monkeypatch.setattr(Sealing.__init__, "__defaults__", (4,))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def sealed(data: bytes, piece: int = 7777) -> bytes:
    sink = io.BytesIO()
    sealing = Sealing(sink, PASSPHRASE)
    for start in range(0, len(data), piece):
        sealing.write(data[start : start + piece])
    sealing.close()
    return sink.getvalue()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_000])
def test_what_is_sealed_opens_as_age(size: int) -> None:
    data = os.urandom(size)
    for piece in (7777, CHUNK_BYTES, 10**6):
        assert reader.opened(sealed(data, piece), PASSPHRASE) == data


def test_the_header_has_the_form_that_rage_writes() -> None:
    ours, theirs = (made.split(b"\n", 4)[:4] for made in (sealed(b"x"), BY_RAGE))
    assert ours[0] == theirs[0]
    assert [len(line) for line in ours[2:]] == [len(line) for line in theirs[2:]]
    assert ours[1].split(b" ")[:2] == theirs[1].split(b" ")[:2]
    assert len(ours[1].split(b" ")[2]) == len(theirs[1].split(b" ")[2])


def test_no_byte_of_it_can_be_changed_cut_off_or_moved() -> None:
    made = sealed(bytes(2 * CHUNK_BYTES + 5))
    body = len(made) - (2 * CHUNK_BYTES + 5 + 3 * 16)
    one, two = made[body : body + CHUNK_BYTES + 16], made[body + CHUNK_BYTES + 16 : body + 2 * (CHUNK_BYTES + 16)]
    for wrong in (
        made[:-1],
        made[: body + CHUNK_BYTES + 16],
        made[:body] + two + one + made[body + 2 * len(one) :],
        made[:-20] + bytes([made[-20] ^ 1]) + made[-19:],
        made.replace(b" 4\n", b" 5\n", 1),
    ):
        with pytest.raises((InvalidTag, ValueError)):
            reader.opened(wrong, PASSPHRASE)
    with pytest.raises(InvalidTag):
        reader.opened(made, "another passphrase")


def test_an_archive_lists_what_is_in_it_and_says_its_own_digest(tmp_path: Path) -> None:
    path = tmp_path / "aminah.zip.age"
    with Archive(path, PASSPHRASE) as archive:
        archive.add("person.json", b"{}")
        archive.stream("files/1/rahsia.txt", (b"rahsia" for _ in range(20_000)))
        assert not path.exists()
        digest = archive.finish({"format": "f"})
        archive.keep()
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["aminah.zip.age"]
    assert b"rahsia" not in data
    with zipfile.ZipFile(io.BytesIO(reader.opened(data, PASSPHRASE))) as inner:
        assert inner.testzip() is None
        manifest = json.loads(inner.read("manifest.json"))
        assert manifest["format"] == "f"
        for each in manifest["files"]:
            assert hashlib.sha256(inner.read(each["path"])).hexdigest() == each["sha256"]
            assert inner.getinfo(each["path"]).file_size == each["size"]
        assert inner.read("files/1/rahsia.txt") == b"rahsia" * 20_000


def test_in_clear_it_is_a_zip_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "aminah.zip"
    before = os.umask(0)
    try:
        with Archive(path, None) as archive:
            archive.add("person.json", b"{}")
            archive.finish({})
            archive.keep()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert zipfile.ZipFile(path).read("person.json") == b"{}"


def test_what_fails_leaves_nothing_and_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"

    def fails() -> None:
        with Archive(path, None) as archive:
            archive.add("person.json", b"secret")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert names(tmp_path) == []
    with Archive(path, None) as archive:
        archive.finish({})
        path.write_bytes(b"somebody else's")
        with pytest.raises(Conflict, match="nothing is written over"):
            archive.keep()
    assert path.read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["a.zip"]
    with pytest.raises(Conflict):
        Archive(path, None)
    with pytest.raises(ConfigError, match="at least 12"):
        Archive(tmp_path / "b.zip", "short")
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pay.csv", "pay.csv"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\a\\b.txt", "C__a_b.txt"),
        ("", "file"),
        ("...", "file"),
        ("resit pertama.pdf", "resit pertama.pdf"),
        ("ஆவணம்.txt", "ஆவணம்.txt"),
        ("a\u202etxt.exe", "a_txt.exe"),
        ("x" * 300 + ".pdf", "x" * 116 + ".pdf"),
    ],
)
def test_a_files_own_name_is_made_safe_for_any_folder(name: str, expected: str) -> None:
    assert safe(name) == expected

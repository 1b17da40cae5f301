"""Models made to harm whoever imports them: bombs, lies about lengths, names that are two things, swapped files.

Each is refused with words, before it has cost more than a moment, and nothing of it is stored.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.support.model_folders import contents, header, write

from daulat import registry
from daulat.adapters import model_import, model_sources
from daulat.adapters.models import ModelStore
from daulat.registry import layout
from daulat.registry.gguf import BadModel

FILES = contents()
SHARD = "model-00001-of-00002.safetensors"
SECRET = b"nobody who imports a model may take this along" * 10


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelStore]:
    """A store on a disk with 256 GiB free; whatever a test does, no model is in it afterwards, nor any secret."""
    monkeypatch.setattr(model_import, "room", lambda _folder: 2**38)
    store = ModelStore(tmp_path / "models")
    yield store
    assert store.all() == []
    assert not [path for path in store.folder.rglob("*") if path.is_file() and SECRET[:46] in path.read_bytes()]


def refused(store: ModelStore, path: Path, said: str, **given: Any) -> None:
    """At a cost in CPU time that no bomb would leave one."""
    began = time.process_time()
    with pytest.raises(BadModel, match=said):
        model_import.add(store, path, **given)
    assert time.process_time() - began < 20


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def tar(*members: tarfile.TarInfo, files: Mapping[str, bytes] = FILES, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in members:
            archive.addfile(info)
    return out.getvalue()


def member(name: str, **given: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in given.items():
        setattr(info, key, value)
    return info


def says(size: int, name: str = "more.json") -> bytes:
    """A tar member's header alone, of any size."""
    return member(name, size=size).tobuf(tarfile.GNU_FORMAT)


def chained(count: int) -> bytes:
    """Extended headers that each say something of the next: the reader goes one call deeper for each."""
    body = b"12 path=x.y\n".ljust(512, b"\x00")
    return (member("x", type=tarfile.XHDTYPE, size=12).tobuf(tarfile.USTAR_FORMAT) + body) * count


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def directory(names: list[bytes], *, size: int = 0) -> bytes:
    """A zip that is a list of members and no member."""
    rows = b"".join(
        struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, size, size, len(name), 0, 0, 0, 0, 0, 0) + name
        for name in names
    )
    first = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, len(rows), len(first), 0)
    return first + rows + end


def torn(data: bytes) -> bytes:
    """A gz that holds something else where its compressed bytes begin."""
    packed = bytearray(gzip.compress(data))
    packed[12:40] = b"\xff" * 28
    return bytes(packed)


MANY = layout.MOST_MEMBERS + 1
PAX_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**50)}
ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a sparse file, GNU's way": (
        lambda: tar(member("a.json", type=tarfile.GNUTYPE_SPARSE)),
        "no ordinary file|damaged",
    ),
    "a sparse file, POSIX's way": (lambda: tar(member("a.json", pax_headers=PAX_SPARSE)), "no ordinary file|damaged"),
    "headers upon headers": (lambda: chained(3000) + tar(), "is a damaged tar"),
    "a terabyte in a kilobyte": (lambda: gzip.compress(says(2**45)), "and there is room for"),
    "a terabyte that would be left out": (lambda: gzip.compress(says(2**43, ".hidden")), "and there is room for"),
    "eight terabytes in zst": (lambda: zstandard.compress(says(2**43)), "and there is room for"),
    "folders without end": (
        lambda: gzip.compress(b"".join(member(f"{n}", type=tarfile.DIRTYPE).tobuf() for n in range(MANY)), 1),
        "holds over 20000 files",
    ),
    "a gz with other bytes in it": (lambda: torn(tar()), "is a damaged tar"),
    "a directory of any size": (lambda: directory([b"x" * 9] * 200_000), "a zip whose directory has"),
    "members without end": (lambda: directory([b"%d" % n for n in range(MANY)]), "holds over 20000 files"),
    "the same member without end": (lambda: directory([b"config.json"] * MANY), "holds over 20000 files"),
    "four gigabytes in nothing, many times": (
        lambda: directory([b"config.json", *(b"%d.safetensors" % n for n in range(9_000))], size=2**32 - 2),
        "and there is room for",
    ),
    "members that are one another's bytes": (
        lambda: directory([b"config.json", b"m.safetensors"], size=1),
        "damaged zip",
    ),
    "a bzip2 bomb": (lambda: zipped(FILES, zipfile.ZIP_BZIP2), "neither stored nor deflated"),
    "an LZMA bomb": (lambda: zipped(FILES, zipfile.ZIP_LZMA), "neither stored nor deflated"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_is_a_bomb_is_refused_at_once(store: ModelStore, tmp_path: Path, case: str) -> None:
    data, said = ARCHIVES[case]
    refused(store, saved(tmp_path / "m.whl", data()), said)


def test_a_bomb_may_hold_what_the_disk_can_and_no_byte_more(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.tar", tar())
    total = sum(map(len, FILES.values()))
    assert model_sources.open_source(path, most=total).size == total
    with pytest.raises(BadModel, match=f"holds {total} bytes, and there is room for {total - 1}"):
        model_sources.open_source(path, most=total - 1)


NAMES: dict[str, tuple[dict[str, bytes], str]] = {
    "capitals": ({"Config.JSON": b"{}"}, "are one file where capitals do not count"),
    "a folder's capitals": ({"a/x.json": b"{}", "A/x.json": b"{}"}, "are one file where capitals do not count"),
    "two forms of an accent": ({"caf\u00e9.json": b"{}", "cafe\u0301.json": b"{}"}, "are one file where capitals"),
    "a sharp s": ({"stra\u00dfe.json": b"{}", "STRASSE.json": b"{}"}, "are one file where capitals"),
    "a file that is a folder": ({"LICENSE.txt": b"", "license.txt/x.json": b"{}"}, "is a file and"),
    "a backslash": ({"a\\..\\..\\b.json": b"{}"}, "holds a backslash"),
    "a new line": ({"a\n0 0 b.json": b"{}"}, "holds a backslash, a control"),
    "a dot": ({"a/./x.json": b"{}"}, "named from inside it"),
    "an empty part": ({"a//x.json": b"{}"}, "named from inside it"),
    "a long way": ({"/".join(["d" * 100] * 6) + "/x.json": b"{}"}, "has over 512 bytes"),
    "a pickle of another name": ({"model.PKL": b""}, "is or may be a pickle"),
}


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("case", NAMES)
def test_names_that_could_be_two_things_are_refused(store: ModelStore, tmp_path: Path, case: str, kind: str) -> None:
    more, said = NAMES[case]
    data = tar(files={**FILES, **more}) if kind == "tar" else zipped({**FILES, **more})
    refused(store, saved(tmp_path / f"m.{kind}", data), said)


def test_capitals_in_a_folder_are_refused_too(store: ModelStore, tmp_path: Path) -> None:
    refused(store, write(tmp_path / "m", {**FILES, "Config.json": b"{}"}), "are one file where capitals do not count")


def test_names_that_are_no_text_are_refused(store: ModelStore, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", FILES)
    with open(os.fsencode(folder) + b"/\xff.json", "wb"):  # noqa: PTH123  a path of bytes
        pass
    refused(store, folder, "half a character")


def test_what_looks_like_daulats_own_papers_is_left_out(tmp_path: Path) -> None:
    archive = tar(files={**FILES, ".daulat/bom.cdx.json": b"{}", ".daulat/manifest": b"x"})
    facts = model_import.add(ModelStore(tmp_path / "models"), saved(tmp_path / "m.tar", archive))
    assert {file["path"] for file in facts.admission()["files"] if file["path"].startswith(".")} == {
        ".daulat/bom.cdx.json",
        ".daulat/manifest",
    }
    assert facts.papers[0].sha256 != facts.papers[1].sha256
    assert len(facts.files) == len(FILES)


def test_a_folder_is_not_listed_beyond_what_a_model_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MOST_MEMBERS", 50)
    listed: list[str] = []

    class Counted:
        def __init__(self, path: Path) -> None:
            self._entries = scandir(path)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return (listed.append(entry.name) or entry for entry in self._entries)

        def __exit__(self, *_reason: object) -> None:
            self._entries.close()

    scandir = os.scandir
    write(tmp_path / "m", {f"{number}.json": b"" for number in range(500)})
    monkeypatch.setattr(os, "scandir", Counted)
    with pytest.raises(BadModel, match="holds over 50 files"):
        registry.below(tmp_path / "m")
    assert len(listed) == 51


def test_a_tree_of_folders_without_files_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MOST_MEMBERS", 50)
    (tmp_path / "m").joinpath(*["d"] * 60).mkdir(parents=True)
    with pytest.raises(BadModel, match="holds over 50 files"):
        registry.below(tmp_path / "m")


def safetensors_header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def one(**given: Any) -> bytes:
    return header({"embed": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [0, 16], **given}}) + bytes(16)


LIES: dict[str, tuple[bytes, str]] = {
    "a header of all the memory there is": (safetensors_header(b"{}", 2**63), "is over 33554432"),
    "a header longer than its file": (safetensors_header(b"{}", 4096), "longer than the file"),
    "a tensor beyond the file": (one(data_offsets=[0, 2**40], shape=[2**39]), "cut short"),
    "a tensor that ends before it begins": (one(data_offsets=[16, 0]), "no data_offsets"),
    "offsets below nothing": (one(data_offsets=[-16, 0]), "no data_offsets"),
    "a shape whose product wraps": (one(shape=[2**32, 2**32]), "do not take 16 bytes"),
    "a shape of no number": (one(shape=[True, 8]), "no shape"),
    "another type": (one(dtype="PICKLE"), "has dtype 'PICKLE'"),
    "a name that stands twice": (
        safetensors_header(
            b'{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}'
        )
        + b"\0",
        "stands there twice|strict JSON",
    ),
    "two tensors in one place": (
        header({name: {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]} for name in "ab"}) + bytes(4),
        "overlaps the one before it",
    ),
    "bytes that belong to no tensor": (one() + b"#!/bin/sh", "belong to none"),
    "a header as deep as the stack": (safetensors_header(b'{"a":' + b"[" * 100_000), "strict JSON"),
    "a pickle": (b"\x80\x04\x95" + bytes(60), "is longer than the file"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_safetensors_header_that_lies_is_refused(store: ModelStore, tmp_path: Path, case: str) -> None:
    data, said = LIES[case]
    refused(store, write(tmp_path / "m", {**FILES, SHARD: data}), said)


def gguf(tensors: int = 1, keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def key(kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", 1) + b"k" + struct.pack("<I", kind) + value


GGUFS: dict[str, tuple[bytes, str]] = {
    "2^63 tensors": (gguf(tensors=2**63), "9223372036854775808 tensors; at most 65536"),
    "2^63 keys": (gguf(keys=2**63), "9223372036854775808 keys; at most 4096"),
    "a key of 2^63 bytes": (gguf(keys=1, rest=struct.pack("<Q", 2**63)), "a key of 9223372036854775808 bytes"),
    "a string of 2^63 bytes": (gguf(keys=1, rest=key(8, struct.pack("<Q", 2**63))), "a string of 9223372036854775808"),
    "2^63 elements": (gguf(keys=1, rest=key(9, struct.pack("<IQ", 4, 2**63))), "array elements; at most"),
    "arrays in arrays": (gguf(keys=1, rest=key(9, struct.pack("<IQ", 9, 4))), "arrays of type 9 are not read"),
    "four million strings of nothing": (
        gguf(keys=1, rest=key(9, struct.pack("<IQ", 8, 4_000_000))),
        "the header ends early",
    ),
    "a tensor whose product wraps": (
        gguf(rest=struct.pack("<Q", 1) + b"w" + struct.pack("<I4QIQ", 4, 2**33, 2**33, 2**33, 2**33, 0, 0)),
        "elements",
    ),
    "a tensor of 2^32 dimensions": (
        gguf(rest=struct.pack("<Q", 1) + b"w" + struct.pack("<I", 2**32 - 1)),
        "dimensions",
    ),
    "a tensor at 2^64": (
        gguf(rest=struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, 32, 0, 2**64 - 32)),
        "ends beyond the file",
    ),
}


@pytest.mark.parametrize("case", GGUFS)
def test_a_gguf_header_that_lies_is_refused(store: ModelStore, tmp_path: Path, case: str) -> None:
    data, said = GGUFS[case]
    refused(store, saved(tmp_path / "m.gguf", data), said)


def at_the_start(change: Callable[[], object]) -> Callable[[str, int, int], None]:
    """Done when everything has been listed and judged, and nothing is copied yet."""
    done: list[object] = []

    def progress(what: str, count: int, _total: int) -> None:
        if what == "storing the model" and count == 0 and not done:
            done.append(change())

    return progress


def swap(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


SWAPS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "for a link": (lambda path, secret: swap(path, lambda there: there.symlink_to(secret)), "cannot be imported"),
    "for a hard link": (lambda path, secret: swap(path, lambda there: there.hardlink_to(secret)), "was changed while"),
    "for a pipe that nobody writes to": (lambda path, _: swap(path, os.mkfifo), "is no ordinary file"),
    "for other bytes": (lambda path, _: path.write_bytes(path.read_bytes()[::-1]), "was changed while"),
    "for less": (lambda path, _: path.write_bytes(b""), "was changed while"),
    "for nothing": (lambda path, _: path.unlink(), "cannot be imported"),
}


@pytest.mark.parametrize("case", SWAPS)
@pytest.mark.parametrize("name", ["config.json", SHARD])
def test_a_file_that_is_swapped_once_it_was_judged_is_not_taken(
    store: ModelStore, tmp_path: Path, case: str, name: str
) -> None:
    change, said = SWAPS[case]
    secret, folder = saved(tmp_path / "secret", SECRET), write(tmp_path / "m", FILES)
    progress = at_the_start(lambda: change(folder / name, secret))
    with pytest.raises(Exception, match=said) as raised:
        model_import.add(store, folder, None, progress)
    assert raised.type.__module__.startswith("daulat.")


def test_a_folder_inside_that_is_swapped_for_a_link_is_not_followed(store: ModelStore, tmp_path: Path) -> None:
    folder, outside = write(tmp_path / "m", {**FILES, "extra/notes.json": b"{}"}), tmp_path / "outside"
    write(outside, {"notes.json": json.dumps({"a": SECRET.decode()}).encode()})

    def change() -> None:
        (folder / "extra").rename(tmp_path / "before")
        (folder / "extra").symlink_to(outside)

    with pytest.raises(Exception, match="cannot be imported") as raised:
        model_import.add(store, folder, None, at_the_start(change))
    assert raised.type.__module__.startswith("daulat.")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(store: ModelStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    refused(store, tmp_path / "m.gguf", "no ordinary file")
    folder = write(tmp_path / "m", {name: data for name, data in FILES.items() if name != "config.json"})
    os.mkfifo(folder / "config.json")
    refused(store, folder, "no ordinary file")


def test_no_spoilt_compressed_archive_gets_anything_but_our_error(tmp_path: Path) -> None:
    plain = tar()
    for pack in (gzip.compress, zstandard.compress):
        data = pack(plain)
        for at in range(4, len(data), max(1, len(data) // 120)):
            spoilt = bytearray(data)
            spoilt[at] ^= 0x55
            path = saved(tmp_path / "m.archive", bytes(spoilt))
            try:
                for item in model_sources.open_source(path).items():
                    stream = item.open(0)
                    while stream.read(65_536):
                        pass
            except BadModel:
                pass


def test_the_library_that_inflates_says_of_itself_what_is_caught() -> None:
    """`zlib.error` is no OSError: what this file relies on to be caught would else be a traceback."""
    assert not issubclass(zlib.error, OSError)

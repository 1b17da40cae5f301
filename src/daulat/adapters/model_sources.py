"""Where a model is imported from: a file, a folder, a wheel or zip, a tar (plain, gz or zst).

Archives are read, never unpacked: no link is followed, no path leaves the model, and no more bytes are taken than were
announced. Everything is listed, and the list judged (`registry.layout`), before the first byte is copied.
"""

from __future__ import annotations

import importlib
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Protocol, Self

from daulat import registry
from daulat.registry import layout
from daulat.registry.gguf import BadModel
from daulat.registry.layout import Layout

_MOST_DIRECTORY: Final = 8 * 1024 * 1024  # bytes of a zip's list of members: 20,000 with long names
_MOST_HEADER: Final = 1024 * 1024  # bytes of a tar's own long names and extended headers
_MOST_WINDOW: Final = 2**27  # bytes of memory that a zst frame may ask for
_TAR_AT: Final = 257
LARGEST: Final = 2**46  # bytes: 64 TiB


class Readable(Protocol):
    """A file's bytes, from where it was opened on."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Item:
    """One file to be imported. `stamp` changes when the source does. `open` begins at an offset."""

    name: str
    size: int
    stamp: str
    open: Callable[[int], Readable]


@dataclass(frozen=True, slots=True)
class Source:
    """A model somewhere outside. `items` are to be taken in their order where it is `sequential`, one at a time."""

    path: Path
    layout: Layout
    size: int
    sequential: bool
    items: Callable[[], Iterator[Item]]


def open_source(path: Path, *, without_code: bool = False, most: int = LARGEST) -> Source:
    """See what is there, and refuse what may not be imported. `most`: bytes that an archive may say it holds.

    Raises:
        BadModel: says what is wrong, and what would be right.
    """
    if path.is_dir() or path.suffix == ".gguf" or _starts(path)[:4] == b"GGUF":
        return _files(path, without_code=without_code)
    head = _starts(path)
    if head[:4] == b"PK\x03\x04":
        return _zip(path, most, without_code=without_code)
    if head[:2] == b"\x1f\x8b" or head[:4] == b"\x28\xb5\x2f\xfd" or head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return _tar(path, most, without_code=without_code)
    raise BadModel(
        "is no GGUF file, wheel, tar, tar.gz or tar.zst; give one, or a folder with config.json and .safetensors",
        location=path.name,
    )


def _starts(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_TAR_AT + 5)
    except OSError as error:
        raise BadModel(f"cannot be read: {error.strerror}", location=str(path)) from None


# A file or a folder.


def _files(path: Path, *, without_code: bool) -> Source:
    if path.is_dir():
        chosen = layout.choose(registry.below(path), without_code=without_code)
        found = {name: source for source, name in chosen.kept.items()}
        opened = {name: lambda source=source: _below(path, source) for name, source in found.items()}
    else:  # a file that is named may be a link, as in a download cache
        files = registry.files_of(path)
        chosen = Layout("gguf", {name: name for name in files}, ())
        opened = {name: lambda file=file: registry.open_regular(file) for name, file in files.items()}
    stamps = {name: _seen(name, open_) for name, open_ in opened.items()}

    def items() -> Iterator[Item]:
        for name, open_ in opened.items():
            size, stamp = stamps[name]
            yield Item(name, size, stamp, lambda at, name=name, open_=open_, stamp=stamp: _at(name, open_, at, stamp))  # type: ignore[misc]

    return Source(path, chosen, sum(size for size, _ in stamps.values()), sequential=False, items=items)


def _seen(name: str, open_: Callable[[], BinaryIO]) -> tuple[int, str]:
    """A file's size and stamp."""
    try:
        with open_() as stream:
            status = os.fstat(stream.fileno())
    except OSError as error:
        raise BadModel(f"cannot be read: {error.strerror}", location=name) from None
    return status.st_size, _stamp_of(status)


def _at(name: str, open_: Callable[[], BinaryIO], at: int, stamp: str) -> Readable:
    """The file that was seen, and no other that has taken its name since: what is opened is what is hashed."""
    stream = open_()
    if _stamp_of(os.fstat(stream.fileno())) != stamp:
        stream.close()
        raise BadModel("was changed while it was imported; import it when it is whole", location=name)
    stream.seek(at)
    return stream


def _below(root: Path, name: str) -> BinaryIO:
    """Open a file inside a folder; no part of the way may be a link, whatever it was when it was listed."""
    *folders, last = name.split("/")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        return registry.open_regular(Path(last), os.O_NOFOLLOW, folder=at)
    finally:
        os.close(at)


# A wheel or another zip.


class _Zip(io.FileIO):
    """A zip's file, whose directory is read whole: it must not be of any size. Nothing else is read in large pieces.

    Members that are bzip2 or LZMA are refused for the same reason: `zipfile` inflates all that it has read of them.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        count = left if size is None or size < 0 else min(size, left)
        if count > _MOST_DIRECTORY:
            raise BadModel(f"a zip whose directory has {count} bytes; at most {_MOST_DIRECTORY} are read")
        return super().read(count) or b""


def _zip(path: Path, most: int, *, without_code: bool) -> Source:
    with _zip_errors(path), _Zip(path) as file, zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        _distinct([member.filename for member in members], path)
        for member in members:
            if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise BadModel(
                    f"{member.filename[:80]!r} is neither stored nor deflated; pack it anew", location=path.name
                )
            if not stat.S_ISREG(kind := member.external_attr >> 16) and stat.S_IFMT(kind):
                raise BadModel(f"{member.filename[:80]!r} is a link or no ordinary file", location=path.name)
            if member.flag_bits & 1:
                raise BadModel(f"{member.filename[:80]!r} is encrypted; unpack it yourself", location=path.name)
    names = [member.filename for member in members]
    chosen = layout.choose(names, without_code=without_code, packaging=path.suffix == ".whl")
    kept = [member for member in members if member.filename in chosen.kept]

    def items() -> Iterator[Item]:
        with _zip_errors(path), _Zip(path) as file, zipfile.ZipFile(file) as archive:
            for member in kept:
                stamp = f"{_stamp(path)} {member.CRC} {member.file_size}"
                yield Item(
                    chosen.kept[member.filename],
                    member.file_size,
                    stamp,
                    lambda at, member=member: _in_zip(path, archive, member, at),  # type: ignore[misc]
                )

    return Source(path, chosen, _total((member.file_size for member in kept), most), sequential=True, items=items)


def _in_zip(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, at: int) -> Readable:
    with _zip_errors(path):
        return _forward(archive.open(member), at)


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as error:
        if isinstance(error, BadModel):
            raise
        raise BadModel(f"is a damaged zip: {error}", location=path.name) from None


# A tar.


class _Member(tarfile.TarInfo):
    """Refuses headers that would make the reader take any amount of memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk() or member.isdev()) and (
            member.size > _MOST_HEADER
        ):
            raise BadModel(f"a tar header of {member.size} bytes; at most {_MOST_HEADER} are read")
        return member


def _tar(path: Path, most: int, *, without_code: bool) -> Source:
    sizes: dict[str, int] = {}
    names: list[str] = []
    with _open_tar(path) as archive:
        for number, member in enumerate(archive):
            if number >= layout.MOST_MEMBERS:
                raise BadModel(f"holds over {layout.MOST_MEMBERS} files", location=path.name)
            name = member.name.removeprefix("./")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise BadModel(f"{name[:80]!r} is a link, a device or no ordinary file", location=path.name)
            names.append(name)
            sizes[name] = member.size
            _total(sizes.values(), most)  # before its bytes are read over: they may be a bomb's
    _distinct(names, path)
    chosen = layout.choose(names, without_code=without_code)

    def items() -> Iterator[Item]:
        with _open_tar(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isreg() and name in chosen.kept:
                    taken = archive.extractfile(member)
                    if taken is None or member.size != sizes[name]:
                        raise BadModel("has changed while it was imported", location=path.name)
                    yield Item(
                        chosen.kept[name],
                        member.size,
                        f"{_stamp(path)} {member.size}",
                        lambda at, taken=taken: _forward(taken, at),  # type: ignore[misc]
                    )

    return Source(path, chosen, _total((sizes[name] for name in chosen.kept), most), sequential=True, items=items)


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with (
            path.open("rb") as raw,
            _plain(raw) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member, errorlevel=2) as archive,
        ):
            yield archive
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError, zlib.error) as error:
        if isinstance(error, BadModel):
            raise
        raise BadModel(f"is a damaged tar: {error}", location=path.name) from None


def _plain(raw: IO[bytes]) -> Any:
    """The bytes without their compression."""
    head = raw.read(4)
    raw.seek(0)
    if head[:2] == b"\x1f\x8b":
        import gzip  # noqa: PLC0415

        return gzip.GzipFile(fileobj=raw)
    if head == b"\x28\xb5\x2f\xfd":
        return _zstandard(raw)
    return io.BufferedReader(raw)


def _zstandard(raw: IO[bytes]) -> Any:
    """From Python 3.14's own library, or the `zstandard` package."""
    for module in ("compression.zstd", "zstandard"):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        if module == "zstandard":
            reader = found.ZstdDecompressor(max_window_size=_MOST_WINDOW).stream_reader(raw, read_across_frames=True)
            return _Inside(reader, (found.ZstdError,))
        return _Inside(found.ZstdFile(raw), (found.ZstdError, EOFError))
    raise BadModel("reading .zst needs Python 3.14, or: pip install zstandard. Or unpack it and import the folder")


# All archives.


class _Inside(io.RawIOBase):
    """A member of an archive: whatever its decompression finds wrong is a `BadModel`."""

    def __init__(self, stream: IO[bytes], broken: tuple[type[Exception], ...]) -> None:
        super().__init__()
        self._stream, self._broken = stream, broken

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._stream.read(size)
        except self._broken as error:
            raise BadModel(f"the archive is damaged: {error}") from None

    def close(self) -> None:
        self._stream.close()
        super().close()


def _forward(stream: IO[bytes], at: int) -> Readable:
    """Read up to an offset: compressed streams cannot seek."""
    inside = _Inside(stream, (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError))
    while at > 0:
        piece = inside.read(min(at, 1 << 20))
        if not piece:
            raise BadModel("an archive's member is shorter than it says")
        at -= len(piece)
    return inside


def _distinct(names: list[str], path: Path) -> None:
    if len(names) > layout.MOST_MEMBERS:
        raise BadModel(f"holds over {layout.MOST_MEMBERS} files", location=path.name)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadModel(f"{twice[0][:80]!r} stands there twice", location=path.name)


def _total(sizes: Iterable[int], most: int) -> int:
    """The sum, which may not be more than the disk can hold."""
    total = sum(sizes)
    if total > most:
        raise BadModel(f"says that it holds {total} bytes, and there is room for {most}: make room, or ask its maker")
    return total


def _stamp(path: Path) -> str:
    return _stamp_of(path.stat())


def _stamp_of(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"

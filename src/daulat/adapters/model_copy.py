"""Copying a model's files and hashing what was copied: SHA-256 and BLAKE3, several files at a time, and resumable.

A staging folder belongs to one source. Each file in it has a state beside it: how many bytes are known to be durable,
and the BLAKE3 of these. After an interruption, even a killed process or a lost machine, the copy is read again up to
there and compared with that; only then it goes on. What does not fit, or whose source has changed, is begun anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from daulat.adapters.log_files import replace_file
from daulat.adapters.model_sources import Item, Source
from daulat.errors import ConfigError, Conflict
from daulat.registry.gguf import BadModel

PIECE: Final = 4 * 1024 * 1024
_STATE_EVERY: Final = 256 * 1024 * 1024  # bytes between two durable states
_MOST_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Copied:
    """A file that is in the staging folder, whole and durable."""

    name: str
    path: Path
    size: int
    sha256: str
    blake3: str


@dataclass(frozen=True, slots=True)
class _State:
    stamp: str
    at: int  # bytes that are durable
    blake3: str  # of these


class Staging:
    """`<store>/.incoming-<source>`: what an import has copied so far. One import of a source at a time."""

    def __init__(self, store: Path, source: Path) -> None:
        name = hashlib.sha256(os.fsencode(source.absolute())).hexdigest()[:16]
        self.folder = store / f".incoming-{name}"

    @contextlib.contextmanager
    def held(self) -> Iterator[Path]:
        """Hold the folder for this process. It stays when something goes wrong: the next try goes on from there.

        Raises:
            Conflict: another import of this source is running.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield self.folder
        except BlockingIOError:
            raise Conflict("this model is being imported by another command; wait for that one") from None
        finally:
            os.close(lock)

    def durable_bytes(self) -> int:
        """How much of an earlier try is there."""
        return sum(path.stat().st_size for path in self.folder.glob("*.part")) if self.folder.is_dir() else 0


def copy_all(source: Source, folder: Path, progress: Callable[[int], None]) -> list[Copied]:
    """Copy every file of a source. `progress` is called with the bytes of each piece, those of an earlier try included.

    Raises:
        BadModel: the source is not what it said; ConfigError: it cannot be read, or the disk is full.
    """
    lock, stop = threading.Lock(), threading.Event()

    def told(count: int) -> None:
        with lock:
            progress(count)

    def take(item: Item) -> Copied:
        return _copy(item, folder, told, stop)

    if source.sequential:
        return [take(item) for item in source.items()]
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            return list(pool.map(take, source.items()))
        except BaseException:
            stop.set()  # the others end at their next piece, with their states durable
            pool.shutdown(cancel_futures=True)
            raise


def hash_all(
    paths: Iterable[Path], progress: Callable[[int], None], *, pause: Callable[[], None] | None = None
) -> list[str]:
    """Hex SHA-256 of files, several at a time; one by one, with `pause` after each piece, where that is given."""
    lock = threading.Lock()

    def told(count: int) -> None:
        with lock:
            progress(count)

    def one(path: Path) -> str:
        running = hashlib.sha256()
        with path.open("rb", buffering=0) as stream:
            while piece := stream.read(PIECE):
                running.update(piece)
                told(len(piece))
                if pause is not None:
                    pause()
        return running.hexdigest()

    if pause is not None:
        return [one(path) for path in paths]
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, paths))


class _Hashes:
    """Both hashes; BLAKE3 is a tree and uses every core by itself."""

    def __init__(self) -> None:
        self.sha256, self.tree = hashlib.sha256(), blake3(max_threads=blake3.AUTO)

    def update(self, piece: bytes) -> None:
        self.sha256.update(piece)
        self.tree.update(piece)


def _copy(item: Item, folder: Path, progress: Callable[[int], None], stop: threading.Event) -> Copied:
    name = hashlib.sha256(item.name.encode()).hexdigest()[:32]
    part, state_file = folder / f"{name}.part", folder / f"{name}.state"
    hashes, at = _resumed(item, part, _read_state(state_file), progress)
    if at < item.size and part.exists() and part.stat().st_nlink > 1:
        part.unlink()  # the store has the file, which is not to be written to
        hashes, at = _Hashes(), 0
    try:
        if at < item.size or not part.exists():
            with part.open("r+b" if part.exists() else "w+b", buffering=0) as out:
                out.truncate(at)
                out.seek(at)
                if at < item.size:
                    with contextlib.closing(item.open(at)) as stream:
                        at = _go_on(item, stream, out, hashes, at, state_file, progress, stop)
                os.fsync(out.fileno())
            _write_state(state_file, item, at, hashes)
    except OSError as error:
        raise ConfigError(f"cannot be imported: {error.strerror or error}", location=item.name) from None
    return Copied(item.name, part, item.size, hashes.sha256.hexdigest(), hashes.tree.hexdigest())


def _go_on(
    item: Item,
    stream: Any,
    out: Any,
    hashes: _Hashes,
    at: int,
    state_file: Path,
    progress: Callable[[int], None],
    stop: threading.Event,
) -> int:
    """Copy the rest; at every state, and when interrupted, what is there is made durable and noted."""
    noted = at
    try:
        while at < item.size:
            piece = stream.read(min(PIECE, item.size - at))
            if not piece:
                raise BadModel(f"ends at byte {at} of {item.size}: it is cut short, or was changed", location=item.name)
            if stop.is_set():
                raise ConfigError("the import was stopped")
            _write_whole(out, piece)
            hashes.update(piece)
            at += len(piece)
            progress(len(piece))
            if at - noted >= _STATE_EVERY:
                os.fsync(out.fileno())
                _write_state(state_file, item, at, hashes)
                noted = at
        if stream.read(1):
            raise BadModel(f"has more than the {item.size} bytes that it said", location=item.name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.fsync(out.fileno())
            _write_state(state_file, item, at, hashes)
        raise
    return at


def _write_whole(out: Any, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[out.write(view) :]


def _resumed(item: Item, part: Path, state: _State | None, progress: Callable[[int], None]) -> tuple[_Hashes, int]:
    """The hashes of what an earlier try has copied and how much that is; nothing where it does not fit."""
    hashes = _Hashes()
    if state is None or state.stamp != item.stamp or state.at > item.size or not part.exists():
        return hashes, 0
    at = 0
    with part.open("rb", buffering=0) as stream:
        while at < state.at and (piece := stream.read(min(PIECE, state.at - at))):
            hashes.update(piece)
            at += len(piece)
    if at != state.at or hashes.tree.hexdigest() != state.blake3:
        return _Hashes(), 0
    progress(at)
    return hashes, at


def _read_state(path: Path) -> _State | None:
    try:
        value = json.loads(path.read_text())
        return _State(str(value["stamp"]), int(value["at"]), str(value["blake3"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_state(path: Path, item: Item, at: int, hashes: _Hashes) -> None:
    replace_file(path, json.dumps(asdict(_State(item.stamp, at, hashes.tree.hexdigest()))).encode())

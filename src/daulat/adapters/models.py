"""Model files on this machine: a store that is addressed by content.

    files/<sha256>             every file once, however many models have it
    <digest>/model.gguf        one model, hard links to these: one GGUF file,
    <digest>/model/...         or many files under their own names
    <digest>/model.json        what its import recorded
    <digest>/manifest, bom.cdx.json, model.sig
    <digest>/statement.json    or what is stated of a model that a server outside Daulat holds

Files are read-only and readable by the engine's uid. Models appear whole, by one rename.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from daulat import registry
from daulat.adapters import model_copy
from daulat.adapters.journal_files import sync_folder
from daulat.adapters.log_files import replace_file
from daulat.adapters.scratch import link, put_in_place, scratch
from daulat.core import manifest
from daulat.errors import ConfigError, DaulatError, NotFound, SealBroken
from daulat.registry.model import (
    MODEL_FILE,
    MODEL_FOLDER,
    RECORD_FILE,
    ModelFacts,
    Record,
    read_record,
)
from daulat.registry.statement import STATEMENT_FILE, Statement

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`, in bytes."""

SPARE: Final = 64 * 1024 * 1024
_ALWAYS_VERIFIED: Final = 1 << 30  # larger models are verified again only when their stamp has changed
_STAMP_FILE: Final = "verified"
_LEAST_DIGEST: Final = 6
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress for nobody."""


class ModelStore:
    """The models of one installation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[ModelFacts]:
        """Every model, by name."""
        found = [self.facts(path.name) for path in self.folder.glob("*") if self._holds(path)]
        return sorted(found, key=lambda facts: (facts.name, facts.digest))

    def facts(self, digest: str) -> ModelFacts:
        """What a stored model is, from its files and its record; nothing is hashed."""
        return registry.facts(self.path(digest), digest=digest)

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
        """What an engine is given: the GGUF file (of a split model, its first part), or the folder of safetensors.

        Of a model that a server outside Daulat holds: the statement about it.
        """
        if (stated := self.folder / digest / STATEMENT_FILE).exists():
            return stated
        folder = self.folder / digest / MODEL_FOLDER
        if not folder.is_dir():
            return self.folder / digest / MODEL_FILE
        parts = sorted(folder.glob("*-00001-of-*.gguf"))
        return parts[0] if parts else folder

    def record(self, digest: str) -> Record | None:
        """What its import recorded; None for what was stored before there were records."""
        path = self.folder / digest / RECORD_FILE
        return read_record(path.read_text(), location=str(path)) if path.exists() else None

    def files(self, digest: str) -> dict[str, tuple[Path, str]]:
        """Every file of a model: where it is, and the SHA-256 that the digest holds it to, by its path inside.

        Raises:
            NotFound: it is not here.
            SealBroken: its record does not give its digest, or a file is gone.
        """
        if not self.path(digest).exists():
            raise NotFound(f"model {digest[:12]} is not in {self.folder}")
        if self.path(digest).name == STATEMENT_FILE:
            return {STATEMENT_FILE: (self.path(digest), digest)}
        record = self.record(digest)
        if record is None or not (self.folder / digest / MODEL_FOLDER).is_dir():
            found = {MODEL_FILE: (self.folder / digest / MODEL_FILE, digest)}
        else:
            found = self._recorded(digest, record)
        if linked := [name for name, (path, _) in found.items() if path.is_symlink()]:
            raise SealBroken(f"{linked[0]} of model {digest[:12]} is a link, and not what was stored; import it again")
        if gone := [name for name, (path, _) in found.items() if not path.is_file()]:
            raise SealBroken(f"{gone[0]} of model {digest[:12]} is gone; import it again")
        return found

    def _recorded(self, digest: str, record: Record) -> dict[str, tuple[Path, str]]:
        try:
            told = manifest.digest(record.files)
        except DaulatError as error:
            told = error.message
        if told != digest:
            raise SealBroken(f"the record of model {digest[:12]} was changed ({told[:80]}); import the model again")
        return {file.path: (self.folder / digest / MODEL_FOLDER / file.path, file.sha256) for file in record.files}

    def papers(self, digest: str) -> dict[str, bytes]:
        """What is served beside a model in the log, by its name: manifest, bill of materials, signature.

        Raises:
            SealBroken: one of them was changed.
        """
        if (stated := self.path(digest)).name == STATEMENT_FILE:
            return {STATEMENT_FILE: stated.read_bytes()}
        record, found = self.record(digest), {}
        for paper in record.papers if record is not None else ():
            path = self.folder / digest / paper.path
            if not path.is_file() or registry.digest_of(path) != paper.sha256:
                raise SealBroken(f"{path} has changed since it was stored; import the model again")
            found[paper.path] = path.read_bytes()
        return found

    def verified(self, digest: str, progress: Progress = silent) -> Path:
        """The path of that model, hashed (a large one only when it was touched since it last was).

        Raises:
            NotFound: it is not here.
            SealBroken: a file has other bytes than its digest says.
        """
        files = [path for path, _ in self.files(digest).values()]
        beside = self.folder / digest / _STAMP_FILE
        size, stamp = _stamp(files)
        if size > _ALWAYS_VERIFIED and beside.exists() and beside.read_text() == stamp:
            return self.path(digest)
        self.check(digest, progress)
        beside.write_text(stamp)
        return self.path(digest)

    def check(self, digest: str, progress: Progress = silent, *, pause: Callable[[], None] | None = None) -> None:
        """Hash every file of a model; with `pause`, which is called after each piece, one file after the other.

        Raises:
            NotFound, SealBroken: as `verified`.
        """
        files = self.files(digest)
        size, _ = _stamp([path for path, _ in files.values()])
        with Bar("checking the model", size, progress) as bar:
            hashed = model_copy.hash_all([path for path, _ in files.values()], bar.add, pause=pause)
        for (path, expected), found in zip(files.values(), hashed, strict=True):
            if found != expected:
                raise SealBroken(f"{path} has changed since its model was imported; import it again, which mends it")

    def keep(self, staged: Mapping[str, Path], facts: ModelFacts, record: Record, papers: Mapping[str, bytes]) -> None:
        """Take staged files (by their path inside the model) in, all at once, durable.

        Where the model is here already, its record is renewed, and files that were changed since are mended.
        """
        sha256 = {file.path: file.sha256 for file in record.files}
        with self.beside() as folder:
            made = folder / facts.digest
            for name, path in staged.items():
                single = set(staged) == {MODEL_FILE}
                target = made / MODEL_FILE if single else made / MODEL_FOLDER / name
                target.parent.mkdir(parents=True, exist_ok=True)
                link(self._stored(path, sha256[name]), target)
            for name, data in {**papers, RECORD_FILE: record.text().encode()}.items():
                replace_file(made / name, data)
            for inner in (made, *(path for path in made.rglob("*") if path.is_dir())):
                inner.chmod(0o755 if inner != made else 0o700)
                sync_folder(inner)
            put_in_place(made, self.folder / facts.digest, folder / "before")
            sync_folder(self.folder)

    def state(self, statement: Statement) -> ModelFacts:
        """Take in what is stated about a model that a server outside Daulat holds."""
        with self.beside() as folder:
            made, final = folder / statement.digest(), self.folder / statement.digest()
            made.mkdir(mode=0o700)
            replace_file(made / STATEMENT_FILE, statement.text().encode())
            if not final.exists():
                made.rename(final)
                sync_folder(self.folder)
        return statement.facts()

    def _stored(self, path: Path, sha256: str) -> Path:
        """The one copy of a file, read-only; what was there under its name and is no longer right is replaced.

        The staged file keeps its name: an import that is killed from here on need not copy it again.
        """
        target = self.folder / "files" / sha256
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if not target.exists() or registry.digest_of(target) != sha256:
            path.chmod(0o444)
            beside = target.with_name(f".{sha256}")
            beside.unlink(missing_ok=True)
            link(path, beside)
            beside.replace(target)
            sync_folder(target.parent)
        return target

    @contextlib.contextmanager
    def beside(self) -> Iterator[Path]:
        """A scratch folder on the store's disk, removed afterwards."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with scratch(self.folder) as folder:
            yield folder

    @staticmethod
    def _holds(path: Path) -> bool:
        inside = (path / MODEL_FILE, path / MODEL_FOLDER, path / STATEMENT_FILE)
        return bool(_DIGEST.match(path.name)) and any(part.exists() for part in inside)


class Bar:
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


def room(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which may not be there yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def need_room(folder: Path, size: int) -> None:
    """Refuse what the disk cannot hold. Raises ConfigError."""
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        said = f"the disk has {free / 2**20:.0f} MiB free, and {(size + SPARE) / 2**20:.0f} are needed; make room, or"
        raise ConfigError(f"{said} choose another --home", location=str(folder))


def _stamp(files: list[Path]) -> tuple[int, str]:
    """The size of all files, and what changes when one of them is touched."""
    statuses = [path.stat() for path in files]
    lines = [f"{s.st_size} {s.st_mtime_ns} {s.st_ino} {s.st_ctime_ns}" for s in statuses]
    return sum(status.st_size for status in statuses), "\n".join(lines)

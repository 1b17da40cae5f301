"""What a model is: bounded readers of its files, the chat templates in it, facts, derivation."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from daulat.core import manifest
from daulat.core.manifest import ModelFile
from daulat.errors import ConfigError
from daulat.registry import documents, gguf, layout, model, safetensors, statement, weights
from daulat.registry.model import MODEL_FOLDER, RECORD_FILE, ModelFacts, Record
from daulat.registry.statement import STATEMENT_FILE
from daulat.registry.weights import Described

__all__ = ["ModelFacts", "Record", "below", "describe", "digest_of", "facts", "files_of", "open_regular"]
_PIECE = 1 << 20


def facts(path: Path, *, digest: str | None = None, name: str = "") -> ModelFacts:
    """The facts of a model: a GGUF file (of a split one, any part), a folder of safetensors, or a statement.

    `digest`: where the caller has verified it already; it is computed otherwise.

    Raises:
        ConfigError: no such file.
        BadModel: it is no model; says what is wrong.
    """
    if path.name == STATEMENT_FILE:
        return statement.read(path.read_text()).facts()
    found = files_of(path)
    said = describe(found)
    record = _record(path) or Record(name or model.plain_name(said.title or path.stem))
    files: tuple[ModelFile, ...] = record.files
    if digest is None:
        files = tuple(ModelFile(name, digest_of(file), file.stat().st_size) for name, file in found.items())
        digest = files[0].sha256 if said.format == "gguf" and len(files) == 1 else manifest.digest(files)
        files = () if said.format == "gguf" and len(files) == 1 else files
    size = sum(file.stat().st_size for file in found.values())
    return model.join(said, record, digest=digest, size=size, files=files)


def files_of(path: Path) -> dict[str, Path]:
    """The files of the model at a path, by their names inside it, in the order of these names' bytes.

    Raises:
        ConfigError: there is nothing.
        BadModel: they are no model (`layout.choose`).
    """
    if path.is_dir():
        every = below(path)
        chosen = layout.choose(every)
        found = {name: every[source] for source, name in chosen.kept.items()}
    elif split := layout.SPLIT.match(path.name):
        every = {other.name: other for other in path.parent.glob(f"*-of-{split['count']}.gguf")}
        same = {name: other for name, other in every.items() if name.startswith(f"{split['stem']}-")}
        found = {name: same[name] for name in layout.choose(same or [path.name]).kept}
    else:
        found = {path.name: path}
    return dict(sorted(found.items(), key=lambda item: item[0].encode(errors="surrogatepass")))


def describe(files: Mapping[str, Path]) -> Described:
    """Read every header and every document of a model.

    Raises:
        ConfigError: a file cannot be read.
        BadModel: something in it is wrong; names the file.
    """
    headers: dict[str, Any] = {}
    papers: dict[str, bytes] = {}
    is_folder = any(name.endswith(".safetensors") for name in files)
    for name, path in files.items():
        try:
            size = path.stat().st_size
            with io.BufferedReader(open_regular(path), _PIECE) as stream:  # type: ignore[type-var]
                if name.endswith(".safetensors"):
                    headers[name] = safetensors.read(stream, size)
                elif not is_folder:
                    headers[name] = gguf.read(stream, size)
                elif weights.is_paper(name):
                    papers[name] = stream.read(documents.MOST_BYTES + 1)
                else:
                    weights.check_paper(stream.read(8), name)
        except OSError as error:
            raise ConfigError(f"cannot read the model: {error.strerror}", location=str(path)) from None
        except gguf.BadModel as error:
            raise gguf.BadModel(error.message, location=error.location or str(path)) from None
    return weights.of_safetensors(headers, papers) if is_folder else weights.of_gguf(list(headers.values()))


def below(folder: Path) -> dict[str, Path]:
    """Every file under a folder, by its path inside. No more is listed than a model may have, however much there is.

    Raises:
        BadModel: something in it is no ordinary file, such as a link, or there is too much of it.
    """
    found: dict[str, Path] = {}
    waiting, seen = [(folder, "")], 0
    while waiting:
        parent, inside = waiting.pop()
        try:
            with os.scandir(parent) as entries:
                for entry in entries:
                    seen += 1
                    if seen > layout.MOST_MEMBERS:
                        raise gguf.BadModel(f"holds over {layout.MOST_MEMBERS} files", location=str(folder))
                    hidden = entry.name.startswith(".")  # is left out, whatever it is
                    if entry.is_dir(follow_symlinks=False):
                        waiting += [] if hidden else [(Path(entry.path), f"{inside}{entry.name}/")]
                    elif hidden or entry.is_file(follow_symlinks=False):
                        found[inside + entry.name] = Path(entry.path)
                    else:
                        raise gguf.BadModel(
                            "is a link or no ordinary file; import a copy with the files themselves (cp -rL makes one)",
                            location=inside + entry.name,
                        )
        except OSError as error:
            raise gguf.BadModel(f"cannot be read: {error.strerror}", location=str(parent)) from None
    return found


def open_regular(path: Path, flags: int = 0, *, folder: int | None = None) -> BinaryIO:
    """Open a file to read, and only if what was opened is an ordinary file: no waiting for a pipe that took its name.

    Raises:
        OSError: it is not there, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no ordinary file", str(path))
    return os.fdopen(descriptor, "rb", buffering=0)


def _record(path: Path) -> Record | None:
    """The record that an import left beside a model, where there is one."""
    holding = path.parent.parent if path.parent.name == MODEL_FOLDER and path.is_file() else path.parent
    beside = holding / RECORD_FILE
    return model.read_record(beside.read_text(), location=str(beside)) if beside.exists() else None


def digest_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file; `progress` is called with the bytes of each piece."""
    running = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            running.update(piece)
            if progress is not None:
                progress(len(piece))
    return running.hexdigest()

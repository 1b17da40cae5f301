"""What a model file is: a bounded GGUF reader, facts, derivation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from daulat.errors import ConfigError
from daulat.registry import gguf
from daulat.registry.model import RECORD_FILE, ModelFacts, Record, describe, name_of

__all__ = ["ModelFacts", "Record", "digest_of", "facts"]
_PIECE = 1 << 20


def facts(path: Path, *, digest: str | None = None, name: str = "") -> ModelFacts:
    """The facts of a model file. `digest`: where the caller has verified it already; it is computed otherwise.

    Raises:
        ConfigError: no such file.
        BadModel: it is no GGUF model.
    """
    try:
        size = path.stat().st_size
        with path.open("rb", buffering=_PIECE) as stream:
            header = gguf.read(stream, size)
    except OSError as error:
        raise ConfigError(f"cannot read the model: {error.strerror}", location=str(path)) from None
    except gguf.BadModel as error:
        raise gguf.BadModel(error.message, location=str(path)) from None
    record = read_record(path) or Record(name or name_of(header, path.stem))
    return describe(header, digest=digest or digest_of(path), size=size, record=record)


def read_record(path: Path) -> Record | None:
    """The record that an import left beside the file, where there is one."""
    beside = path.parent / RECORD_FILE
    if not beside.exists():
        return None
    try:
        value = json.loads(beside.read_text())
        return Record(value["name"], value["origin"], value["licence"], value["derived_from"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the model's record is damaged: {error}", location=str(beside)) from None


def digest_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file; `progress` is called with the bytes of each piece."""
    running = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            running.update(piece)
            if progress is not None:
                progress(len(piece))
    return running.hexdigest()

"""The rules in force: those that ship with Daulat, and the operator's own beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from daulat.core.entries import MAX_INLINE_TEXT
from daulat.core.files import text_of
from daulat.errors import ConfigError
from daulat.policy.cedar import CedarDecider

SCHEMA: Final = "daulat.cedarschema"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Rules and schema as text; `version` is the SHA-256 over all files' names and bytes."""

    version: str
    rules: str
    schema: str
    files: Mapping[str, str]

    def entry_files(self) -> list[dict[str, str | None]]:
        """The `files` of a `policy/v1` entry. A text over 32 KiB is null and belongs into a blob."""
        return [
            {
                "name": name,
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "text": text if len(text.encode()) <= MAX_INLINE_TEXT else None,
            }
            for name, text in self.files.items()
        ]


def from_files(files: Mapping[str, str]) -> Bundle:
    """A bundle of named texts, among them the schema. Nothing is validated: `CedarDecider` does that."""
    ordered = dict(sorted(files.items()))
    hashed = hashlib.sha256()
    for name, text in ordered.items():
        hashed.update(f"{name}\0{len(text.encode())}\0".encode() + text.encode())
    rules = "\n".join(text for name, text in ordered.items() if name.endswith(".cedar"))
    return Bundle(hashed.hexdigest(), rules, ordered[SCHEMA], ordered)


def load(own: Path | None = None) -> Bundle:
    """The shipped rules, and every `*.cedar` of the folder `own`. The schema is Daulat's alone.

    Raises:
        ConfigError: a file takes a shipped name, or the rules do not validate; says which file.
    """
    files = {
        item.name: item.read_text()
        for item in resources.files("daulat.policy").joinpath("rules").iterdir()
        if item.name.endswith((".cedar", ".cedarschema"))
    }
    for path in sorted(own.glob("*.cedar")) if own is not None and own.is_dir() else ():
        if path.name in files:
            raise ConfigError("has the name of a shipped file; choose another", location=str(path))
        text = text_of(path)
        _check(text, path, files[SCHEMA])
        files[path.name] = text
    bundle = from_files(files)
    CedarDecider(bundle.rules, bundle.schema)
    return bundle


def _check(text: str, path: Path, schema: str) -> None:
    """One file alone first, so that the message can name it."""
    try:
        CedarDecider(text, schema)
    except ConfigError as error:
        raise ConfigError(error.message.removeprefix(f"{error.location}: "), location=str(path)) from None

"""The files of a model, in the one form whose SHA-256 is the model's digest.

    daulat-model/v1
    <size> <sha256> <path>

UTF-8, every line ended by one newline, one line a file: size in bytes, decimal; SHA-256 in small hex; the path inside
the model with `/` between its parts; one space between. Lines are sorted by the paths' UTF-8 bytes. So whoever has the
files can name the model, and whoever has the manifest can check the files. A model that is one GGUF file needs none:
its digest is the SHA-256 of that file.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from daulat.errors import VerificationFailed

HEAD: Final = "daulat-model/v1"
PAPERS: Final = ".daulat/"  # before the names, in an entry's `files`, of what is served beside the model's own files
MANIFEST: Final = "manifest"
MOST_FILES: Final = 10_000
LONGEST_PATH: Final = 512  # bytes
_SIZE: Final = re.compile(r"(0|[1-9][0-9]{0,18})\Z", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")


@dataclass(frozen=True, slots=True, order=True)
class ModelFile:
    """One file of a model: its path inside, hex SHA-256, size in bytes."""

    path: str
    sha256: str
    size: int


def text(files: Iterable[ModelFile]) -> str:
    """The manifest of these files, in whatever order they come.

    Raises:
        VerificationFailed: a path will not do, or stands there twice, or there are too many or no files.
    """
    ordered = sorted(files, key=lambda file: file.path.encode(errors="surrogatepass"))
    _check(ordered)
    return "".join([f"{HEAD}\n", *(f"{file.size} {file.sha256} {file.path}\n" for file in ordered)])


def digest(files: Iterable[ModelFile]) -> str:
    """The model's digest: hex SHA-256 of its manifest."""
    return hashlib.sha256(text(files).encode()).hexdigest()


def holds(expected: str, listed: Iterable[ModelFile]) -> bool:
    """Whether a digest is that of an admission's `files`; one that lists none claims nothing.

    Raises:
        VerificationFailed: they are no model's.
    """
    given = list(listed)
    own = [file for file in given if not file.path.startswith(PAPERS)]
    if not own:
        named = [file.sha256 for file in given if file.path == PAPERS + MANIFEST]
        return not given or named == [expected]
    return (len(own) == 1 and own[0].sha256 == expected) or digest(own) == expected


def parse(data: bytes) -> tuple[ModelFile, ...]:
    """Read a manifest; only the one form is accepted.

    Raises:
        VerificationFailed: with the line that is wrong.
    """
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise VerificationFailed(f"the manifest is not UTF-8: {error}") from None
    if lines[0] != HEAD or lines[-1] != "":
        raise VerificationFailed(f"a manifest begins with the line {HEAD!r} and ends with a newline")
    files = []
    for number, line in enumerate(lines[1:-1], 2):
        size, _, rest = line.partition(" ")
        sha256, _, path = rest.partition(" ")
        if not _SIZE.match(size) or not _SHA256.match(sha256):
            raise VerificationFailed(f"line {number} of the manifest is not '<size> <sha256> <path>'")
        files.append(ModelFile(path, sha256, int(size)))
    _check(files)
    return tuple(files)


def check_path(path: str) -> str:
    """The same path.

    Raises:
        VerificationFailed: it is absolute, leaves the model, or holds what no file of a model needs.
    """
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise VerificationFailed(f"path {path[:80]!r}: a file of a model is named from inside it, as in 'a/b.json'")
    if _CONTROL.search(path):
        raise VerificationFailed(f"path {path[:80]!r} holds a backslash, a control or half a character")
    if len(path.encode()) > LONGEST_PATH:
        raise VerificationFailed(f"path {path[:80]!r} has over {LONGEST_PATH} bytes")
    return path


def _check(files: list[ModelFile]) -> None:
    if not 0 < len(files) <= MOST_FILES:
        raise VerificationFailed(f"a model of {len(files)} files; it may have 1 to {MOST_FILES}")
    for file in files:
        check_path(file.path)
    for before, after in itertools.pairwise(files):
        if before.path.encode() >= after.path.encode():
            raise VerificationFailed(f"path {after.path[:80]!r} stands twice, or not where the order of bytes puts it")

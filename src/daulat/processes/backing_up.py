"""A backup of a home, beside its running service: the log at one checkpoint, and what it takes to go on from there.

Two files, made together. The **backup** has the log, the files that an operator writes, and the vault's objects,
sealed as they are; it may be kept for long. The **keys** have what an erasure destroys, and private keys: the control
database (tenants' epoch keys, who is who), the log's key, the vault's root and wrapped keys. An erasure rotates the
root, so older wrapped keys are worth nothing, and newer ones open every older object but what was erased: that is why
they are not in the backup.

One key is in the backup: that of the hashes by which people are found who sign in (`keys/identity.key`). It opens
nothing by itself, and has to lie apart from those hashes, which are in the control database: whoever has both can try
out all numbers that there are.

In neither: models, which are named by digest in the log; journals, of which the sequencer takes in within a second
what is durable; projections, which are made anew; objects in a bucket and a control database in PostgreSQL, which lie
elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daulat.adapters import archive_file, log_files
from daulat.adapters import passphrase as passphrases
from daulat.adapters.log_files import LogFolder
from daulat.adapters.seal import settle
from daulat.errors import ConfigError, Conflict, NotFound, Unavailable, VerificationFailed
from daulat.ledger.reading import read_entries
from daulat.processes import checking
from daulat.settings import Home
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Verifier
from daulat.tlog.tiles import Hashes, bundles_between, tiles_between
from daulat.vault.archive import About, Head, Member, written

PUBLISH_SECONDS: Final = 10.0  # from the seal to the published checkpoint
_ROOT_TRIES: Final = 20
_ERASURE: Final = b'{"type":"erasure/v1"'
_PIECE: Final = 1 << 18
_PERIOD: Final = r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*"

IDENTITY: Final = "keys/identity.key"
FILES: Final = ("charter.toml", "settings.toml", "prices.toml", "log.vkey", IDENTITY)
PRIVATE: Final = ("signin.toml", "ceremony.json", "notices.jsonl", "control.elsewhere")
NAMES: Final[dict[archive_file.Kind, re.Pattern[str]]] = {
    "backup": re.compile(
        rf"(charter\.toml|settings\.toml|prices\.toml|log\.vkey|sequencer\.db|log/current|log/blob/[0-9a-f]{{64}}"
        rf"|log/{_PERIOD}/(checkpoint|vkey|tile/(entries|[0-9]{{1,2}})/(x[0-9]{{3}}/)*[0-9]{{3}}(\.p/[0-9]{{1,3}})?)"
        r"|keys/identity\.key|policies/[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}\.cedar|vault/index\.db|vault/objects/[a-z0-9_]{1,120})",
        re.ASCII,
    ),
    "keys": re.compile(
        r"(signin\.toml|ceremony\.json|notices\.jsonl|control\.elsewhere|control\.db|vault/keys\.db"
        r"|keys/[A-Za-z0-9_-][A-Za-z0-9._-]{0,100})",
        re.ASCII,
    ),
}
"""What may stand in a home after a restore: nothing else is read out of an archive. Older keys have `IDENTITY`, too."""


@dataclass(frozen=True, slots=True)
class Target:
    """A file to be made, and what seals it."""

    path: Path
    passphrase: str


def back_up(home: Home, backup: Target, keys: Target | None) -> dict[str, Any]:
    """Make one file, or both; what they hold, in numbers and digests.

    Raises:
        Conflict: a file is there already, or somebody was erased meanwhile; ConfigError: a passphrase is too short.
        Unavailable, VerificationFailed: the log is not in order: `daulat log fsck`.
    """
    for target in (backup, *([keys] if keys else [])):
        passphrases.strong(target.passphrase)
        if target.path.exists():
            raise Conflict(f"{target.path} exists already: a backup is never written over")
    if keys is not None and keys.passphrase == backup.passphrase:
        raise Conflict("the keys need a passphrase of their own: whoever has the one file shall not open the other")
    if not checking.periods(home):
        raise NotFound(f"there is no log in {home.log} yet: the first `daulat up` begins it")
    before = _newest(home)
    control = _bytes(home.control_db)  # before the log: it speaks of no entry that the backup's log has not
    seal = _sealed(home)
    heads = [_checked(home, origin, signed) for origin, signed in seal.heads]
    said = tuple(Head(found.origin, found.size, found.root.hex()) for found in heads)
    about = About(os.urandom(16).hex(), "backup", round(time.time() * 1000), said)
    digests = {"backup": archive_file.create(backup.path, "backup", backup.passphrase, _backup(home, seal, about))}
    if keys is not None:
        try:
            private = About(about.id, "keys", about.created, said)
            content = written(_private(home, control), private)
            digests["keys"] = archive_file.create(keys.path, "keys", keys.passphrase, content)
            _nobody_erased(home, before)
        except BaseException:
            backup.path.unlink(missing_ok=True)
            keys.path.unlink(missing_ok=True)
            raise
    return {
        "id": about.id,
        "digests": digests,
        "heads": [{"origin": h.origin, "size": h.size, "root": h.root} for h in said],
    }


# What was there, at one moment.


@dataclass(frozen=True, slots=True)
class _Seal:
    """The sequencer's database as it was, and every shard's checkpoint in it, oldest first."""

    database: bytes
    heads: tuple[tuple[str, bytes], ...]


def _sealed(home: Home) -> _Seal:
    """A copy whose newest checkpoint is published. The entries that led to it are under it, so none are staged."""
    copy = _copied(home.sequencer_db)
    if copy is None:
        raise NotFound(f"{home.sequencer_db} is missing: it holds the checkpoint's second place")
    with contextlib.closing(copy):
        heads = tuple((str(o), bytes(c)) for o, c in copy.execute("SELECT origin, checkpoint FROM seal ORDER BY rowid"))
        settle(copy)
        made = _Seal(copy.serialize(), heads)
    if not heads:
        raise NotFound("the log has not begun yet")
    end, (origin, signed) = time.monotonic() + PUBLISH_SECONDS, heads[-1]
    folder = _folder(home, origin)
    wanted = checkpoints.open_checkpoint(signed, Verifier(folder.vkey())).size
    while checking.head(folder).size < wanted:
        if time.monotonic() > end:
            raise Unavailable("the log's last step is not published yet: the next start of the service does it")
        time.sleep(0.05)
    return made


def _copied(path: Path) -> sqlite3.Connection | None:
    """A database through SQLite's online backup, in memory: no plaintext of it is left lying about."""
    if not path.exists():
        return None
    copy = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
            source.backup(copy)
    except sqlite3.Error as error:
        copy.close()
        raise Unavailable(f"{path} cannot be read: {error}") from None
    return copy


def _bytes(path: Path) -> bytes | None:
    copy = _copied(path)
    if copy is None:
        return None
    with contextlib.closing(copy):
        return copy.serialize()


def _folder(home: Home, origin: str) -> LogFolder:
    return LogFolder(home.log / origin.rpartition("/")[2])


def _checked(home: Home, origin: str, signed: bytes) -> Checkpoint:
    folder = _folder(home, origin)
    found = checkpoints.open_checkpoint(signed, Verifier(folder.vkey()))
    if Hashes(found.size, folder).root() != found.root:
        raise VerificationFailed(f"the tiles of {origin} are not those of its checkpoint: `daulat log fsck`")
    return found


def _newest(home: Home) -> tuple[str, int]:
    period = log_files.current_period(home.log)
    return period, checking.head(LogFolder(home.log / period)).size


def _nobody_erased(home: Home, before: tuple[str, int]) -> None:
    """Keys that were copied before somebody's were destroyed are not to be kept."""
    period, start = before
    folder = LogFolder(home.log / period)
    size = checking.head(folder).size
    if _newest(home)[0] != period or any(
        entry.startswith(_ERASURE)
        for first in range(start, size, 4096)
        for entry in read_entries(folder, first, min(size, first + 4096), size)
    ):
        raise Conflict("somebody was erased while the backup was made: nothing is kept of it; make it again")


# What goes in.


def _backup(home: Home, seal: _Seal, about: About) -> Iterator[bytes]:
    return written(_members(home, seal), about)


def _members(home: Home, seal: _Seal) -> Iterator[Member]:
    for name in FILES:
        yield from _file(home, name)
    for path in sorted(home.policies.glob("*.cedar")):
        yield from _file(home, f"policies/{path.name}")
    for origin, signed in seal.heads:
        yield from _shard(home, origin, signed)
    for path in sorted((home.log / "blob").glob("[0-9a-f]*")):
        yield from _file(home, f"log/blob/{path.name}")
    newest = seal.heads[-1][0].rpartition("/")[2]
    yield Member.of("log/current", f"{newest}\n".encode())
    yield Member.of("sequencer.db", seal.database)
    yield from _objects(home)


def _shard(home: Home, origin: str, signed: bytes) -> Iterator[Member]:
    period = origin.rpartition("/")[2]
    folder = _folder(home, origin)
    size = checkpoints.open_checkpoint(signed, Verifier(folder.vkey())).size
    for tile in (*tiles_between(0, size), *bundles_between(0, size)):
        yield Member.of(f"log/{period}/{tile.path}", folder.read(tile.path))
    yield Member.of(f"log/{period}/vkey", folder.vkey().encode())
    yield Member.of(f"log/{period}/checkpoint", signed)


def _objects(home: Home) -> Iterator[Member]:
    """Objects, then the rows of those that were still there: who deletes something meanwhile has deleted it."""
    index = _copied(home.vault / "index.db")
    if index is None:
        return
    with contextlib.closing(index):
        folder = home.vault / "objects"
        for (name,) in index.execute("SELECT name FROM object ORDER BY position").fetchall() if folder.is_dir() else ():
            there = False
            for member in _file(home, f"vault/objects/{name}"):
                there = True
                yield member
            if not there:
                index.execute("DELETE FROM object WHERE name = ?", (name,))
        yield Member.of("vault/index.db", index.serialize())


def _private(home: Home, control: bytes | None) -> Iterator[Member]:
    if control is not None:
        yield Member.of("control.db", control)
    for name in PRIVATE:
        yield from _file(home, name)
    yield from _vault_keys(home)
    for path in sorted(home.keys.iterdir()):
        name = f"keys/{path.name}"
        if name not in {"keys/vault.root", IDENTITY} and path.is_file() and not path.name.startswith("."):
            yield from _file(home, name)


def _vault_keys(home: Home) -> Iterator[Member]:
    """Wrapped keys, and the root that they stand under: a rotation in between would leave neither worth anything."""
    root = home.keys / "vault.root"
    for _ in range(_ROOT_TRIES):
        before = root.read_bytes() if root.exists() else b""
        wrapped = _bytes(home.vault / "keys.db")
        if before == (root.read_bytes() if root.exists() else b""):
            break
        time.sleep(0.1)
    else:
        raise Unavailable("the vault's root is being rotated all the time: try again")
    if wrapped is not None:
        yield Member.of("vault/keys.db", wrapped)
    if before:
        yield Member.of("keys/vault.root", before)


def _file(home: Home, name: str) -> Iterator[Member]:
    """A file of the home, where there is one; opened once, so that it is one and the same to its end.

    Raises:
        ConfigError: no restore would read a file of this name.
    """
    if not any(names.fullmatch(name) for names in NAMES.values()):
        words = "has a name that no backup holds: letters, digits, '_', '-' and '.', and not at the start a '.'"
        raise ConfigError(words, location=str(home.path / name))
    try:
        descriptor = os.open(home.path / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as stream:
        yield Member(name, os.fstat(descriptor).st_size, iter(lambda: stream.read(_PIECE), b""))

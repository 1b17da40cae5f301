"""A home out of a backup, once everything in it was checked; nothing is where it belongs before that.

**Into an empty home** goes everything: with the keys, a service that goes on with the log from the backup's checkpoint.

**Over a home that has a log**, that log and the backup's have to be one the beginning of the other. If the backup's is
longer, it takes the log's place. If it is shorter, **the log stays**, as do keys and the control database: an
append-only log is not set back. What is set back is the rest, and only where the log has an approved, unexpired
`backup.restore` of this file's digest. So the agreement stands in the log that auditors read, and whoever was erased
since stays erased: their keys are not in a backup. If both are the same, what people have kept and deleted since would
be set back all the same, so where the charter asks for approvals that needs an agreement too, which makes this log the
longer one. None can be asked for where the backup's is longer: written here, it would make two histories of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal

from daulat.adapters import archive_file
from daulat.adapters.journal_files import sync_folder
from daulat.adapters.log_files import LogFolder
from daulat.adapters.seal import SqliteSeal
from daulat.adapters.vault_index import SqliteIndex
from daulat.adapters.vault_keys import SqliteKeys
from daulat.core.consent import RESTORE, naming
from daulat.errors import ConfigError, Conflict, IntegrityError, PermissionDenied, SplitView, VerificationFailed
from daulat.processes import agreements, checking, log_keys
from daulat.processes.backing_up import NAMES, Target
from daulat.processes.lock import lock
from daulat.processes.sequencer import alone
from daulat.settings import Home
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Verifier
from daulat.tlog.tiles import Hashes
from daulat.vault import archive
from daulat.vault.archive import About, Head

_USED: Final = "restored"  # proposals that were used: each is good for once
_EMPTY: Final = frozenset({"models", "run", "lock", "sequencer.lock", ".restoring"})  # what an empty home may have
_HISTORY: Final = frozenset({"root", "tile", "log", "split", "entry", "shape", "reference", ""})
"""Kinds of problems by which a log is not what its checkpoint signs. Others say what happened: that stays told."""
_LOG: Final = re.compile(r"log/.*|log\.vkey|sequencer\.db")
_OWN: Final = re.compile(r"keys/.*")  # what a home that has a log keeps of its own
Standing = Literal["empty", "behind", "same", "ahead"]
_BACK: Final[dict[str, str]] = {
    "behind": "the log here goes on where the backup's ends",
    "same": "the log here ends where the backup's does, and what people have kept and deleted since is not in it",
}
Progress = Callable[[str, int, int], None]


def restore(home: Home, backup: Target, keys: Target | None, progress: Progress) -> dict[str, Any]:
    """Check a backup, and put it where it belongs; what was done.

    Raises:
        ConfigError: a file is none, or its passphrase is wrong; IntegrityError: something in it does not hold.
        SplitView: the home's log and the backup's are two histories; PermissionDenied: it would set the home back.
        Conflict: the service runs, or the home is neither empty nor has a log.
    """
    standing: Standing = "behind" if checking.periods(home) else "empty"
    if standing == "empty" and (there := _there(home)):
        raise Conflict(f"{home.path} is not empty ({', '.join(there)}), and has no log: choose another --home")
    if keys is not None and standing != "empty":
        raise Conflict("keys are restored into an empty home alone: this one has its own")
    staged, new = Home(home.path / ".restoring"), not home.path.exists()  # in the home: moving it is renaming it
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        staged.path.mkdir(mode=0o700)
    except FileExistsError:
        raise Conflict(f"{staged.path} is there, from a restore that runs or was cut off: delete it") from None
    try:
        about, digest = _extract(staged, backup, keys)
        problems = _sound(staged, about, progress)
        heads = [[head.origin, head.size, head.root] for head in about.heads]
        said = {"id": about.id, "created": about.created, "heads": heads, "problems": problems}
        if standing == "empty":
            if keys is not None:
                _fitting(staged, about)
            _forget_destroyed(staged, staged)
            _move_in(home, staged)
            return {**said, "standing": standing, "keys": keys is not None}
        return {**said, "standing": _over(home, staged, digest), "keys": False}
    finally:
        shutil.rmtree(staged.path, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # not where something was restored
                home.path.rmdir()


def _there(home: Home) -> list[str]:
    return sorted(path.name for path in home.path.iterdir() if path.name not in _EMPTY) if home.path.exists() else []


# Reading it.


def _extract(staged: Home, backup: Target, keys: Target | None) -> tuple[About, str]:
    """What the backup says of itself, and the SHA-256 of the very bytes that were read."""
    for folder in (staged.keys, staged.log, staged.journal, staged.models, staged.policies, staged.vault):
        folder.mkdir(mode=0o700)
    hashed = hashlib.sha256()
    about = _read(staged, backup, "backup", hashed.update)
    if keys is not None and _read(staged, keys, "keys", lambda _: None).id != about.id:
        raise ConfigError("these keys were not made together with this backup", location=str(keys.path))
    return about, hashed.hexdigest()


def _read(staged: Home, source: Target, kind: archive_file.Kind, look: Callable[[bytes], object]) -> About:
    def put(name: str, content: Iterator[bytes]) -> None:
        if not NAMES[kind].fullmatch(name):
            raise VerificationFailed(f"{name[:80]!r} is nothing that a backup may hold")
        path = staged.path / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise VerificationFailed(
                f"{name} is in the backup and in the keys: these are no two files of one"
            ) from None
        with os.fdopen(descriptor, "wb") as stream:
            for piece in content:
                stream.write(piece)
            stream.flush()
            os.fsync(descriptor)

    pieces = archive_file.contents(source.path, kind, source.passphrase, look)
    about = archive.read(pieces, archive_file.size(source.path), put)
    if about.kind != kind:
        raise VerificationFailed(f"the manifest is that of {about.kind[:80]!r}, not of {kind}")
    return about


def _sound(staged: Home, about: About, progress: Progress) -> list[str]:
    """The log is what the manifest says, and every hash, signature and reference in it holds. What else is wrong with
    it, in words: nobody gets rid of what a log has to tell, or of the log because of it.
    """
    heads = {head.origin: head for head in about.heads}
    found = [checking.head(LogFolder(staged.log / period)) for period in checking.periods(staged)]
    if not found or {each.origin: _head(each) for each in found} != heads:
        raise VerificationFailed("the log in the backup is another than its manifest says")
    for path in (staged.log / "blob").glob("*"):
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            raise VerificationFailed(f"the blob {path.name} is not what its name says")
    checking.reindex(staged)
    told = list[str]()
    for each in found:
        period = each.origin.rpartition("/")[2]
        for item in checking.problems(staged, period, partial(progress, period)):
            if item.serious and item.kind in _HISTORY:
                raise IntegrityError(f"the log {each.origin} in the backup is not sound: {item.what}")
            told += [f"{each.origin}: {item.what}"] * item.serious
    return told


def _head(found: Checkpoint) -> Head:
    return Head(found.origin, found.size, found.root.hex())


def _fitting(staged: Home, about: About) -> None:
    """The private key is that of the log, so that it can go on."""
    name = about.heads[-1].origin.rpartition("/")[0]
    periods = [head.origin.rpartition("/")[2] for head in about.heads]
    if not any(staged.keys.glob("log*.key")):
        raise VerificationFailed("the log's private key is not among the keys")
    if log_keys.load(staged, name, periods).vkey != LogFolder(staged.log / periods[-1]).vkey().strip():
        raise VerificationFailed("the private key among the keys is not that of the log")


def _forget_destroyed(staged: Home, keyed: Home) -> None:
    """Nothing stays of the objects of those whose keys are destroyed: they would not open, and be listed as if."""
    path = staged.vault / "index.db"
    if not path.exists() or not (keyed.vault / "keys.db").exists():
        return
    keys, index = SqliteKeys(keyed.vault / "keys.db"), SqliteIndex(path)
    try:
        for gone in keys.destroyed():
            for row in list(index.owned(gone.owner, gone.name)):
                index.remove(row)
                (staged.vault / "objects" / row.name).unlink(missing_ok=True)
    finally:
        index.close()
        keys.close()


# Putting it in its place.


def _move_in(home: Home, staged: Home) -> None:
    """Everything, the log last: cut off before, it is no home that anything takes for one. Models may be there."""
    for path in sorted(staged.path.iterdir(), key=lambda path: path == staged.log):
        if path != staged.models:
            path.rename(home.path / path.name)
    home.path.chmod(0o700)
    sync_folder(home.path)


def _over(home: Home, staged: Home, digest: str) -> Standing:
    """Over a home that has a log, whose service is stopped."""
    held = lock(home)
    try:
        with alone(home, 0):
            standing = _compare(home, staged)
            needs = standing == "behind" or (standing == "same" and _others_agree(home))
            use = _agreed(home, digest, _BACK[standing]) if needs else None
            _forget_destroyed(staged, home)
            if use is not None:
                _use(home, use)
            _replace(home, staged, with_log=standing != "behind")
    finally:
        os.close(held)
    return "ahead" if standing == "same" else standing


def _compare(home: Home, staged: Home) -> Standing:
    """Where the backup's log stands to the home's.

    Raises:
        SplitView: neither is the beginning of the other.
    """
    ours, theirs = _shards(home), _shards(staged)
    origins = list(ours) if len(ours) >= len(theirs) else list(theirs)
    longer, shorter = len(ours) > len(theirs), len(theirs) > len(ours)
    for origin in origins:
        if origin not in ours or origin not in theirs:
            continue
        (mine, folder), (other, backed_up) = ours[origin], theirs[origin]
        small = min(mine.size, other.size)
        same = folder.vkey() == backed_up.vkey() and _root(folder, mine, small) == _root(backed_up, other, small)
        if not same:
            raise SplitView(f"{origin} here and in the backup are two histories: neither continues the other")
        longer, shorter = longer or mine.size > small, shorter or other.size > small
    if (longer and shorter) or not set(ours) & set(theirs):
        raise SplitView("the log here and the one in the backup are two histories: neither continues the other")
    if longer or shorter:
        return "behind" if longer else "ahead"
    newest, folder = list(ours.values())[-1]
    return "same" if _sealed(home, folder, newest.origin) == newest.size else "ahead"  # a restore that was cut off


def _sealed(home: Home, folder: LogFolder, origin: str) -> int:
    """How far a shard goes at the log's second place, to which a restore comes last."""
    seal = SqliteSeal(home.sequencer_db, origin)
    try:
        signed = seal.checkpoint()
    finally:
        seal.close()
    return checkpoints.open_checkpoint(signed, Verifier(folder.vkey())).size if signed else -1


def _others_agree(home: Home) -> bool:
    """Whether the charter that the home's log ends under asks for the approval of others."""
    begun = [folder for found, folder in _shards(home).values() if found.size]
    return bool(begun) and agreements.read(begun[-1]).needed > 0


def _shards(home: Home) -> dict[str, tuple[Checkpoint, LogFolder]]:
    folders = [LogFolder(home.log / period) for period in checking.periods(home)]
    return {found.origin: (found, folder) for folder in folders if (found := checking.head(folder))}


def _root(folder: LogFolder, head: Checkpoint, size: int) -> bytes:
    """The root of a tree's first leaves, out of its own tiles, which lead to its checkpoint."""
    hashes = Hashes(head.size, folder)
    if hashes.root() != head.root:
        raise VerificationFailed(f"the tiles of {head.origin} are not those of its checkpoint: `daulat log fsck`")
    return hashes.range(0, size) if size else b""


def _agreed(home: Home, digest: str, why: str) -> str:
    """The id of a proposal that the home's own log shows agreed to, in force and not used.

    Raises:
        PermissionDenied: there is none.
    """
    payload, now = hashlib.sha256(naming(digest)).hexdigest(), round(time.time() * 1000)
    used = _used(home)
    for _, folder in _shards(home).values():
        for made in agreements.read(folder).of(RESTORE, payload):
            if now <= made["expires"] and made["proposal"] not in used:
                return str(made["proposal"])
    raise PermissionDenied(
        f"{why}: restoring it sets this home back, and nobody does that alone. Start the service, and propose it: "
        f"daulat operate restore-backup FILE --key FILE (digest {digest})",
        code="not_agreed",
    )


def _used(home: Home) -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return set((home.path / _USED).read_text().splitlines())
    return set()


def _use(home: Home, proposal: str) -> None:
    """Good for once; written down first, so that a crash leaves one that has to be agreed to again."""
    descriptor = os.open(home.path / _USED, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{proposal}\n")
        stream.flush()
        os.fsync(descriptor)
    sync_folder(home.path)


def _replace(home: Home, staged: Home, *, with_log: bool) -> None:
    """File by file, each whole; cut off, the same restore is done again. Checkpoints and the seal come last."""
    names = [str(path.relative_to(staged.path)) for path in staged.path.rglob("*") if path.is_file()]
    backed_up = [name for name in names if NAMES["backup"].fullmatch(name) and not _OWN.fullmatch(name)]
    kept = [name for name in backed_up if with_log or not _LOG.fullmatch(name)]
    home.prepare()
    for path in home.policies.glob("*.cedar"):
        if f"policies/{path.name}" not in kept:
            path.unlink()
    for name in ("vault/index.db", *(("sequencer.db", "index.db", "usage.db") if with_log else ())):
        for behind in ("-wal", "-shm"):
            (home.path / f"{name}{behind}").unlink(missing_ok=True)
    for name in sorted(kept, key=lambda name: (name == "sequencer.db", name.endswith("/checkpoint"), name)):
        target = home.path / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (staged.path / name).replace(target)
        sync_folder(target.parent)
    if with_log:
        checking.reindex(home)
        home.usage_db.unlink(missing_ok=True)

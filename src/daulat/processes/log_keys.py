"""The log's private keys: one for all shards, until a shard begins with a new one. Never logged.

`keys/log.key` is the first; `keys/log-<period>.key` the one that this shard and all after it use. Where the charter
asks for approvals it is made first, while the service runs (`daulat log new-key`); then others agree to its public
half, under the name of the shard that it is for; then that shard begins with it. What is cut off in between is done
again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daulat.adapters.journal_files import sync_folder
from daulat.adapters.log_files import LogFolder
from daulat.core.consent import LOG_KEY
from daulat.core.rotation import statement
from daulat.errors import ConfigError, PermissionDenied
from daulat.processes import agreements
from daulat.settings import Home
from daulat.tlog.note import Signer


def of(home: Home, period: str) -> Path:
    """Where the key is with which a period begins, if it begins with one of its own."""
    return home.keys / f"log-{period}.key"


def make(home: Home, name: str, period: str = "") -> Path:
    """Create a key, if there is none in its place yet: the first, or that of a period. Durable when it returns."""
    path = of(home, period) if period else home.keys / "log.key"
    if path.exists():
        return path
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(Signer.generate(name).export() + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
    sync_folder(home.keys)
    return path


def load(home: Home, name: str, periods: Sequence[str]) -> Signer:
    """The key of the last of these periods, which are all until then, under the name of its shard.

    Raises:
        ConfigError: the file is not a private key, or others may read it.
    """
    own = [path for period in periods if (path := of(home, period)).exists()]
    path = own[-1] if own else make(home, name)
    if path.stat().st_mode & 0o077:
        raise ConfigError("others may read it; run: chmod 600", location=str(path))
    try:
        return Signer.load(path.read_text()).renamed(f"{name}/{periods[-1]}")
    except ValueError as error:
        raise ConfigError(str(error), location=str(path)) from None


def rotation(home: Home, name: str, periods: Sequence[str]) -> dict[str, Any] | None:
    """Where the last of these shards began with a new key: the old vkey, and both signatures (`core.rotation`)."""
    if len(periods) < 2:  # noqa: PLR2004  a shard and the one before it
        return None
    new, old = load(home, name, periods), load(home, name, periods[:-1]).renamed(f"{name}/{periods[-1]}")
    if new.vkey == old.vkey:
        return None
    text = statement(old.vkey, new.vkey)
    return {"old": old.vkey, "signatures": [old.sign(text), new.sign(text)]}


def must_be_agreed(home: Home, name: str, periods: Sequence[str]) -> None:
    """Before the last of these shards begins: the one in force has the others' agreement to a new key, if it is one.

    Raises:
        PermissionDenied: nobody has agreed to it, and the charter in force there asks for approvals.
    """
    if (change := rotation(home, name, periods)) is None:
        return
    found, vkey = agreements.read(LogFolder(home.log / periods[-2])), load(home, name, periods).vkey
    if found.needed and not found.of(LOG_KEY, hashlib.sha256(statement(change["old"], vkey)).hexdigest()):
        raise PermissionDenied(
            f"the log gets a new key with {name}/{periods[-1]}, and nobody does that alone: {found.needed} others have "
            f"to agree. Start the service, and propose it: daulat operate rotate-log-key {vkey} --key FILE",
            code="not_agreed",
        )

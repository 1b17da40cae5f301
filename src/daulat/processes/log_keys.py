"""The log's private keys: one for all shards, until a shard begins with a new one. Never logged.

`keys/log.key` is the first; `keys/log-<period>.key` the one that this shard and all after it use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daulat.adapters.journal_files import sync_folder
from daulat.core.rotation import statement
from daulat.errors import ConfigError
from daulat.settings import Home
from daulat.tlog.note import Signer


def make(home: Home, name: str, period: str = "") -> Path:
    """Create a key, if there is none in its place yet: the first, or that of a period. Durable when it returns."""
    path = home.keys / (f"log-{period}.key" if period else "log.key")
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
    own = [path for period in periods if (path := home.keys / f"log-{period}.key").exists()]
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

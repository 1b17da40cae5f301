"""The key of the hashes by which people are found again (`identity.claims.hashed`): a file of its own in the home."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from daulat.errors import ConfigError
from daulat.identity.claims import KEY_BYTES


def identity_key(path: Path) -> bytes:
    """The key of the hashes, made when it is first needed.

    Raises:
        ConfigError: what stands there is no such key.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise ConfigError(f"has {len(key)} bytes, expected {KEY_BYTES}", location=str(path)) from None
        return key
    key = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(key)
        stream.flush()
        os.fsync(descriptor)
    return key

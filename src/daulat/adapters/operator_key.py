"""An operator's own key, wherever it is kept: sealed in a file (`sealed_key`), or in a PKCS#11 token (`token_key`).

Both are named by a file. Of a token's key it holds the public half and where the token is, and nothing secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from daulat.adapters import sealed_key, token_key

_LONGEST: Final = 8_192  # bytes of a file


class OperatorKey(Protocol):
    """Port: a key that can sign, opened."""

    @property
    def vkey(self) -> str: ...

    def sign_bytes(self, data: bytes) -> bytes:
        """A raw Ed25519 signature, 64 bytes."""
        ...


def vkey(path: Path) -> str:
    """The public half, for which no secret is needed.

    Raises:
        ConfigError: the file cannot be read, or is none of these.
    """
    return token_key.read(path).vkey if _in_token(path) else sealed_key.vkey(path)


def secret_name(path: Path) -> str:
    """What opens it, as a prompt calls it."""
    return "PIN of the token" if _in_token(path) else "Passphrase"


@contextmanager
def opened(path: Path, secret: str) -> Iterator[OperatorKey]:
    """The key, for as long as the context lasts.

    Raises:
        ConfigError: the file is none of these, the secret is wrong, or the token is not there.
    """
    if _in_token(path):
        with token_key.opened(token_key.read(path), secret) as key:
            yield key
    else:
        yield sealed_key.unseal(path, secret)


def _in_token(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(_LONGEST + 1))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("format") == token_key.FORMAT

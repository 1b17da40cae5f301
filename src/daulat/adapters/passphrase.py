"""A key out of a passphrase, by scrypt (RFC 7914), and the small JSON files of what is sealed under one.

Such a file says by which parameters its key is made: {"salt": <base64>, "n", "r", "p"}. They are believed up to a
bound, because they are computed before anything shows that the file is one of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from daulat.errors import ConfigError

COSTS: Final = {"n": 2**17, "r": 8, "p": 1}  # 128 MiB and about half a second (OWASP's first choice)
SHORTEST: Final = 12  # characters: who copies a file would soon guess fewer
KEY_BYTES: Final = 32
_MOST: Final = {"n": 2**20, "r": 16, "p": 4}


def strong(passphrase: str) -> None:
    """Raises ConfigError: whoever has the file would soon guess it."""
    if len(passphrase) < SHORTEST:
        raise ConfigError(f"a passphrase has at least {SHORTEST} characters")


def derive(passphrase: bytes, salt: bytes, costs: dict[str, Any]) -> bytes:
    """32 bytes."""
    return Scrypt(salt, KEY_BYTES, costs["n"], costs["r"], costs["p"]).derive(passphrase)


def affordable(costs: object) -> bool:
    """Whether these are parameters as above, and may be computed at a file's word."""
    if not isinstance(costs, dict) or set(costs) != {"salt", *_MOST} or not isinstance(costs["salt"], str):
        return False
    if not all(type(costs[name]) is int and 1 <= costs[name] <= most for name, most in _MOST.items()):
        return False
    return bool(costs["n"] > 1 and costs["n"] & (costs["n"] - 1) == 0)


def read_json(path: Path, what: str, longest: int) -> Any:
    """The value in a file of at most `longest` bytes; None where it is larger or no JSON.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(longest + 1)
        return json.loads(data) if len(data) <= longest else None
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror}", location=str(path)) from None
    except (ValueError, RecursionError):
        return None

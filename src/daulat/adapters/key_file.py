"""A secret of one line (the API key of a server outside Daulat, a passphrase, a PIN): read from a file that its owner
alone may read, and shown to nobody else.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from daulat.errors import ConfigError

_LONGEST: Final = 4_096  # bytes
_KEY: Final = re.compile(r"[\x21-\x7e]+\Z")


def read(path: str | Path, what: str = "API key", *, form: re.Pattern[str] = _KEY) -> str:
    """The key: one line of printable ASCII, without spaces unless `form` has them.

    Raises:
        ConfigError: the file is not there, may be read by others, or holds no key. Its content is never in the words.
    """
    location = os.fspath(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            data = stream.read(_LONGEST + 1) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise ConfigError(f"the {what} cannot be read: {error.strerror}", location=location) from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"the {what} stands in no ordinary file", location=location)
    if status.st_mode & 0o077 or status.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(
            f"others may read the {what}: chmod 600, and let it belong to the service's user", location=location
        )
    key = data.decode("ascii", errors="replace").strip()
    if len(data) > _LONGEST or not form.match(key):
        raise ConfigError(f"expected one {what} of at most {_LONGEST} characters, on one line", location=location)
    return key

"""One service a home."""

from __future__ import annotations

import fcntl
import os

from daulat.errors import Conflict
from daulat.settings import Home


def lock(home: Home) -> int:
    """Hold the home for this process: a descriptor, which holds it until it is closed.

    Raises:
        Conflict: another `daulat up` holds it.
    """
    descriptor = os.open(home.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            f"the service of {home.path} is running already: `daulat status`, or choose another --home"
        ) from None
    return descriptor

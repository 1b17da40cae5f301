"""Identifiers that Daulat makes itself. None is ever taken from a client."""

from __future__ import annotations

import os
import re
import time
from typing import Final

REQUEST_ID: Final = re.compile(r"req_[0-9a-f]{32}\Z")


def request_id() -> str:
    """`req_` and 32 hex digits: 48 bits of Unix milliseconds, then 80 random bits (the layout of RFC 9562's UUIDv7)."""
    return f"req_{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def new_id(prefix: str) -> str:
    """A random identifier with 96 bits of entropy, such as `key_1f0c...`."""
    return f"{prefix}_{os.urandom(12).hex()}"

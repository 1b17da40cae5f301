"""The starter charter."""

from __future__ import annotations

import os
from importlib import resources


def starter(name: str | None = None) -> str:
    """The text of a first `charter.toml`, for Malaysia. Without a name, the log gets a random one."""
    text = resources.files("daulat.catalog").joinpath("charter", "malaysia.toml").read_text()
    return text.replace("{name}", name or f"{os.urandom(4).hex()}.daulat.example")

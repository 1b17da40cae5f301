"""Giving somebody everything that is held about a person: the act that others agree to, and what is counted of it."""

from __future__ import annotations

from typing import Final

ACT: Final = "data.export"
HELD: Final = ("rows", "files", "completions", "entries")  # of the control database, of the vault, of the log

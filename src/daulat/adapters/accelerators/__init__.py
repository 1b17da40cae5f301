"""The accelerators of this machine: tools run, libraries asked, files read. Understanding it all is `fleet/`'s."""

from __future__ import annotations

from daulat.adapters.accelerators.discovery import discover

__all__ = ["discover"]

"""Public material to check against, where a machine has it: a folder named by DAULAT_FACTS, or ../shared/facts."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("DAULAT_FACTS") or Path(__file__).parents[2].parent / "shared/facts")


def folder(name: str = "") -> Path:
    """One of its folders or files; the test is skipped where it is not there."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no public material at {path}")
    return path


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file; none where it is not there, so that parametrised tests are empty."""
    path = FOLDER / name
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))

"""The databases that the control database's contract is held by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import postgres
from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """One PostgreSQL for all tests of the folder."""
    if why := postgres.missing():
        pytest.skip(why)
    with Postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a new control database may be made: once in SQLite's file, once in PostgreSQL."""
    if request.param == "sqlite":
        return tmp_path / "control.db"
    running: Postgres = request.getfixturevalue("server")
    return running.database()

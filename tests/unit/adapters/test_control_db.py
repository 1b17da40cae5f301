"""What is SQLite's alone of the control database; the rest of its contract stands in tests/contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daulat.adapters.control_db import ControlDatabase
from daulat.errors import ConfigError, Unavailable

TENANT = {"id": "ten_1", "name": "house 1", "epoch_key": "AA=="}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ControlDatabase]:
    made = ControlDatabase(tmp_path / "control.db")
    yield made
    made.close()


def test_the_file_is_for_this_user_alone(database: ControlDatabase, tmp_path: Path) -> None:
    assert (tmp_path / "control.db").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_said_and_changes_nothing(database: ControlDatabase) -> None:
    database.add("tenants", TENANT)
    with database._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.commit()
    with pytest.raises(Unavailable, match="cannot be written: database or disk is full"):
        database.set_live("charter/v1", "", "log/1", 1, '"' + "x" * 100_000 + '"')
    assert database.live("charter/v1") is None
    assert database.rows("tenants") == [TENANT]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("no url", "is no URL: expected postgresql"),
        ("mysql://user@host/db", "names 'mysql'"),
        ("postgresql://user@host/db", "names 'postgresql'"),
        ("postgresql+psycopg://user:hunter2@host/db", "holds a password"),
        ("postgresql+psycopg://user@host/db?password=hunter2", "holds a password"),
        ("hunter2://user:hunter2@host:port/db", "is no URL"),
    ],
)
def test_a_wrong_url_is_said_and_no_password_repeated(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        ControlDatabase(url)
    assert "hunter2" not in str(refused.value)


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(Unavailable, match=r"cannot be opened: .*No such file or directory"):
        ControlDatabase(f"postgresql+psycopg://somebody@/nowhere?host={tmp_path}")

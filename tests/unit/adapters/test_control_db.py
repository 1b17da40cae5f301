"""The control plane's durable state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daulat.adapters.control_db import SCHEMA_VERSION, ControlDatabase
from daulat.errors import ConfigError, Conflict, NotFound, Unavailable


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ControlDatabase]:
    made = ControlDatabase(tmp_path / "control.db")
    yield made
    made.close()


def tenant(number: int, name: str | None = None) -> dict[str, Any]:
    return {"id": f"ten_{number}", "name": name or f"house {number}", "epoch_key": "AA=="}


def key(number: int, label: str = "laptop", revoked: int | None = None) -> dict[str, Any]:
    return {
        "id": f"key_{number}",
        "digest": f"{number:064x}",
        "person": "per_1",
        "label": label,
        "models": [],
        "requests_per_minute": 0,
        "created": 1,
        "expires": 2,
        "revoked": revoked,
    }


def test_the_file_is_for_this_user_alone_and_outlives_a_restart(database: ControlDatabase, tmp_path: Path) -> None:
    database.add("tenants", tenant(1))
    database.set_meta("snapshot", "7")
    database.set_meta("snapshot", "8")
    again = ControlDatabase(tmp_path / "control.db")
    assert again.rows("tenants") == [tenant(1)]
    assert (again.meta("snapshot"), again.meta("never set")) == ("8", "")
    again.close()
    assert (tmp_path / "control.db").stat().st_mode & 0o777 == 0o600


def test_the_file_of_a_newer_daulat_is_left_alone(database: ControlDatabase, tmp_path: Path) -> None:
    database.set_meta("schema_version", str(SCHEMA_VERSION + 1))
    with pytest.raises(ConfigError, match="this Daulat knows up to"):
        ControlDatabase(tmp_path / "control.db")


def test_names_are_given_once(database: ControlDatabase) -> None:
    database.add("tenants", tenant(1))
    with pytest.raises(Conflict, match="'house 1' exists already"):
        database.add("tenants", tenant(2, "house 1"))
    assert database.rows("tenants") == [tenant(1)]


def test_a_row_is_found_by_id_or_name_and_only_if_there_is_one(database: ControlDatabase) -> None:
    database.add("tenants", tenant(1))
    assert database.find("tenants", "ten_1") == database.find("tenants", "house 1")
    with pytest.raises(NotFound, match="no tenant 'ten_2'"):
        database.find("tenants", "ten_2")
    for row in (key(1), key(2), key(3, "phone")):
        database.add("keys", row)
    with pytest.raises(Conflict, match="give the id"):
        database.find("keys", "laptop")
    database.revoke("keys", "key_1", 5)
    assert database.find("keys", "laptop")["id"] == "key_2"  # the one that still opens something
    assert database.find("keys", "key_1")["revoked"] == 5


def test_entries_in_force_are_replaced_and_ended(database: ControlDatabase) -> None:
    assert database.live("node.lease/v1", "n") is None
    database.set_live("node.lease/v1", "n", "log/1", 7, '{"time":1}')
    database.set_live("node.lease/v1", "n", "log/1", 9, '{"time":2}')
    database.set_live("node.lease/v1", "m", "log/1", 8, '{"time":3}')
    found = database.live("node.lease/v1", "n")
    assert found is not None
    assert (found["position"], found["value"], found["origin"]) == (9, {"time": 2}, "log/1")
    assert sorted(row["position"] for row in database.all_live("node.lease/v1")) == [8, 9]
    database.end_live("node.lease/v1", "n")
    assert [row["name"] for row in database.all_live("node.lease/v1")] == ["m"]


def test_a_full_disk_is_said_and_changes_nothing(database: ControlDatabase) -> None:
    database.add("tenants", tenant(1))
    with database._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.commit()
    with pytest.raises(Unavailable, match="cannot be written: database or disk is full"):
        database.set_live("charter/v1", "", "log/1", 1, '"' + "x" * 100_000 + '"')
    assert database.live("charter/v1") is None
    assert database.rows("tenants") == [tenant(1)]

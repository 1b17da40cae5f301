"""What the control plane may expect of its database, in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.postgres import Postgres

from daulat.adapters.control_db import ControlDatabase
from daulat.errors import Conflict, NotFound, Unavailable


@pytest.fixture
def database(place: Path | str) -> Iterator[ControlDatabase]:
    made = ControlDatabase(place)
    yield made
    made.close()


def tenant(number: int, name: str | None = None) -> dict[str, Any]:
    return {"id": f"ten_{number}", "name": name or f"house {number}", "epoch_key": "AA=="}


def person(number: int) -> dict[str, Any]:
    vouched = {"citizenship": "MY", "assurance": "high", "roles": ["user"], "expires": 2**40, "version": 1}
    vouched |= {"issuer": "operator", "until": 2**40, "lapsed": 0, "placed_by": None, "placed_until": None}
    vouched |= {"proven": 0}
    return {"id": f"per_{number}", "tenant": "ten_1", "name": f"person {number}", **vouched}


def key(number: int, label: str = "laptop", revoked: int | None = None) -> dict[str, Any]:
    return {
        "id": f"key_{number}",
        "digest": f"{number:064x}",
        "person": "per_1",
        "label": label,
        "models": ["a", "b"],
        "requests_per_minute": 0,
        "created": 1_795_000_000_000,
        "expires": 1_795_000_000_001,
        "networks": ["10.0.0.0/8"],
        "revoked": revoked,
        "own": 0,
    }


def test_what_is_written_outlives_a_restart(database: ControlDatabase, place: Path | str) -> None:
    database.add("tenants", tenant(1))
    database.add("people", person(1))
    database.add("keys", key(1))
    database.set_meta("snapshot", "7")
    database.set_meta("snapshot", "8")
    database.close()
    again = ControlDatabase(place)
    assert again.rows("tenants") == [tenant(1)]
    assert again.rows("people") == [person(1)]
    assert again.rows("keys") == [key(1)]
    assert (again.meta("snapshot"), again.meta("never set")) == ("8", "")
    again.close()


def test_names_are_given_once(database: ControlDatabase) -> None:
    database.add("tenants", tenant(1))
    with pytest.raises(Conflict, match="tenant 'house 1' exists already"):
        database.add("tenants", tenant(2, "house 1"))
    with pytest.raises(Conflict, match="tenant 'house 2' exists already"):
        database.add("tenants", tenant(1, "house 2"))
    assert database.rows("tenants") == [tenant(1)]


def test_nothing_belongs_to_what_is_not_there(database: ControlDatabase) -> None:
    with pytest.raises(NotFound, match="what this person belongs to does not exist"):
        database.add("people", person(1))
    assert database.rows("people") == []


def test_a_row_is_found_by_id_or_name_and_only_if_there_is_one(database: ControlDatabase) -> None:
    database.add("tenants", tenant(1))
    database.add("people", person(1))
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


def test_rows_keep_the_order_of_their_insertion(database: ControlDatabase) -> None:
    numbers = [5, 3, 9, 1, 7]
    for number in numbers:
        database.add("tenants", tenant(number))
    assert [row["id"] for row in database.rows("tenants")] == [f"ten_{number}" for number in numbers]
    database.change("tenants", "ten_3", name="another")  # which moves a row inside PostgreSQL
    database.remove("tenants", "ten_9")
    database.add("tenants", tenant(2))
    assert [row["id"] for row in database.rows("tenants")] == ["ten_5", "ten_3", "ten_1", "ten_7", "ten_2"]
    assert database.find("tenants", "ten_3") == tenant(3, "another")


def test_entries_in_force_are_replaced_and_ended(database: ControlDatabase) -> None:
    assert database.live("node.lease/v1", "n") is None
    database.set_live("node.lease/v1", "n", "log/1", 7, '{"time":1}')
    database.set_live("node.lease/v1", "n", "log/1", 2**40, '{"time":2}')
    database.set_live("node.lease/v1", "m", "log/1", 8, '{"time":3}')
    found = database.live("node.lease/v1", "n")
    assert found is not None
    assert (found["position"], found["value"], found["origin"]) == (2**40, {"time": 2}, "log/1")
    assert [row["position"] for row in database.all_live("node.lease/v1")] == [8, 2**40]
    database.end_live("node.lease/v1", "n")
    assert [row["name"] for row in database.all_live("node.lease/v1")] == ["m"]


def test_a_file_names_the_password(server: Postgres) -> None:
    name = server.database().partition("?")[0].rpartition("/")[2]
    url = server.url(name, tcp=True)
    with pytest.raises(Unavailable, match="no password supplied"):
        ControlDatabase(url)
    database = ControlDatabase(f"{url}?passfile={server.passfile()}")
    database.set_meta("a", "b")
    database.close()


def test_two_control_processes_do_not_share_a_database(server: Postgres) -> None:
    url = server.database()
    first = ControlDatabase(url)
    with pytest.raises(Conflict, match="another control process"):
        ControlDatabase(f"{url}&options=-c%20lock_timeout%3D100")
    first.close()
    ControlDatabase(url).close()


def test_a_server_that_went_away_is_said_and_comes_back_by_itself(server: Postgres) -> None:
    database = ControlDatabase(server.database())
    database.add("tenants", tenant(1))
    server.stop()
    try:
        with pytest.raises(Unavailable, match="cannot be read"):
            database.rows("tenants")
        with pytest.raises(Unavailable, match="cannot be written"):
            database.add("tenants", tenant(2))
    finally:
        server.start()
    assert database.rows("tenants") == [tenant(1)]
    database.add("tenants", tenant(2))
    assert database.rows("tenants") == [tenant(1), tenant(2)]
    database.close()


def test_a_connection_that_was_cut_is_made_anew(server: Postgres) -> None:
    database = ControlDatabase(server.database())
    server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'daulat'")
    database.add("tenants", tenant(1))
    assert database.rows("tenants") == [tenant(1)]
    database.close()

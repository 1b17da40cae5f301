"""The control database's schema: made by revisions alone, the same as the tables say, up and down without a loss."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from alembic import autogenerate
from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from daulat.adapters import migrations
from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.control_tables import metadata
from daulat.adapters.migrations import HEAD, VERSIONS, migrate
from daulat.errors import ConfigError
from daulat.tlog.note import Signer

BASELINE: Final = "r0001_baseline"
ROWS: Final[dict[str, list[dict[str, Any]]]] = {
    "tenants": [{"id": id_, "name": f"house {id_}", "epoch_key": "AA=="} for id_ in ("c", "a", "b")],
    "people": [
        {"id": id_, "tenant": "a", "name": id_, "citizenship": "MY", "assurance": "high", "roles": ["user"]}
        | {"expires": 2**40, "version": 1}
        for id_ in ("q", "p")
    ],
    "keys": [
        {"id": "k", "digest": "d", "person": "p", "label": "l", "models": [], "requests_per_minute": 0}
        | {"created": 1, "expires": 2, "revoked": None}
    ],
    "auditors": [{"id": "u", "digest": "d", "name": "n", "expires": 2, "revoked": 1}],
    "deployments": [
        {"id": "d", "name": "n", "spec": {"a": [1]}, "generation": 2, "revision": 1, "good": None, "good_spec": None}
        | {"failed": "", "created": 1}
    ],
    "operator_keys": [
        {"id": "o", "name": "n", "person": "p", "vkey": "v", "origin": "g", "position": 2**33, "revoked": None}
    ],
    "proposals": [
        {"id": "x", "name": "x", "origin": "g", "action": "a", "payload": "{}", "prior": "", "expires": 1, "key": "o"}
        | {"position": 4, "done": None}
    ],
    "approvals": [{"id": "y", "proposal": "x", "key": "o", "position": 5}],
}


@pytest.fixture
def database(place: Path | str) -> Iterator[ControlDatabase]:
    made = ControlDatabase(place)
    yield made
    made.close()


def fill(database: ControlDatabase) -> None:
    for table, rows in ROWS.items():
        for row in rows:
            database.add(table, row)
    database.set_meta("node", "n")
    database.set_live("charter/v1", "", "g", 0, '"text"')


def held(database: ControlDatabase) -> dict[str, Any]:
    rows: dict[str, Any] = {table: database.rows(table) for table in ROWS}
    return {**rows, "node": database.meta("node"), "charter": database.live("charter/v1")}


def assert_as_the_tables_say(database: ControlDatabase) -> None:
    with database._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        found = autogenerate.produce_migrations(context, metadata)
    assert found.upgrade_ops is not None
    said = render_python_code(found.upgrade_ops)
    assert found.upgrade_ops.is_empty(), f"the tables are others than the revisions make. A revision would be:\n{said}"


def test_revisions_are_one_chain_and_named_as_their_files() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_heads() == [HEAD], "two revisions were written at once: chain yours behind the other"
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == VERSIONS
    assert [name for name in VERSIONS if len(name) > 32] == [], "Alembic's column has room for 32 characters"


def test_a_fresh_database_is_what_the_tables_say(database: ControlDatabase) -> None:
    assert_as_the_tables_say(database)


def test_every_revision_down_and_up_again_keeps_rows(database: ControlDatabase) -> None:
    fill(database)
    before = held(database)
    for revision in reversed(VERSIONS[:-1]):
        migrate(database._engine, to=revision)
        migrate(database._engine)
        assert_as_the_tables_say(database)
    migrate(database._engine, to=BASELINE)
    for revision in VERSIONS[1:]:
        migrate(database._engine, to=revision)
    after = held(database)
    assert {**after, "tenants": 0, "people": 0} == {**before, "tenants": 0, "people": 0}
    if database._engine.dialect.name == "sqlite":  # whose rowid the baseline had for an order
        assert after == before
    for table in ("tenants", "people"):
        assert sorted(after[table], key=str) == sorted(before[table], key=str)


def test_whoever_had_an_identity_has_signed_in_and_older_keys_are_anothers(database: ControlDatabase) -> None:
    """So that nobody but them opens their vault; they make themselves a new key."""
    fill(database)
    database.add("identities", {"id": "i", "name": "hash", "person": "p"})
    migrate(database._engine, to="r0009_directories")
    migrate(database._engine)
    assert {row["id"]: row["proven"] for row in database.rows("people")} == {"p": 1, "q": 0}
    assert [row["own"] for row in database.rows("keys")] == [0]


def test_an_operators_public_key_is_known_whole(database: ControlDatabase) -> None:
    """What stood before the last "+" of its base64 had been cut off."""
    fill(database)
    key = Signer("a", (31).to_bytes(32, "big")).vkey
    assert key.endswith("+")
    database.add("operator_keys", {**ROWS["operator_keys"][0], "id": "cut", "name": "", "vkey": key})
    migrate(database._engine, to="r0011_own_keys")
    migrate(database._engine)
    names = {row["id"]: row["name"] for row in database.rows("operator_keys")}
    assert names == {"cut": key.split("+", 2)[2], "o": "n"}


def test_the_first_revision_goes_down_to_nothing(database: ControlDatabase) -> None:
    fill(database)
    migrate(database._engine, to=BASELINE)
    migrate(database._engine, to="base")
    assert sa.inspect(database._engine).get_table_names() == ["alembic_version"]
    migrate(database._engine)
    assert_as_the_tables_say(database)
    fill(database)


def test_a_revision_that_fails_leaves_nothing_behind(
    database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database)
    before = held(database)
    migrate(database._engine, to=BASELINE)
    run = migrations._run

    def cut(connection: sa.Connection, to: str, *, up: bool) -> None:
        run(connection, to, up=up)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(migrations, "_run", cut)
        migrate(database._engine)
    assert "ordinal" not in {column["name"] for column in sa.inspect(database._engine).get_columns("tenants")}
    migrate(database._engine)
    assert held(database)["approvals"] == before["approvals"]


def test_the_database_of_a_newer_daulat_is_left_alone(database: ControlDatabase, place: Path | str) -> None:
    fill(database)
    with database._engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'r9999_future'"))
    database.close()
    with pytest.raises(ConfigError, match=r"has schema r9999_future, this Daulat knows up to r\d{4}"):
        ControlDatabase(place)


def test_whoever_was_placed_before_that_was_written_down_is_known_to_be(database: ControlDatabase) -> None:
    fill(database)
    issuer, late = "https://id.example", 2**50
    said = {
        "placed": {},
        "theirs": {"issuer": "operator"},
        "named": {"name": "aminah"},
        "over": {"expires": 1},
        "left": {},
    }
    for id_, changes in said.items():
        person = {**ROWS["people"][0], "id": id_, "name": id_, "issuer": issuer, "expires": late, **changes}
        database.add("people", person)
    kept = {"id": "k", "name": "left", "person": "left", "external": None, "until": late, "created": 1, "changed": 1}
    database.add("provisioned", {**kept, "gone": 1})
    migrate(database._engine, to="r0009_directories")
    migrate(database._engine)
    people = {row["id"]: (row["placed_by"], row["placed_until"]) for row in database.rows("people")}
    assert people.pop("placed") == (issuer, late)
    assert set(people.values()) == {(None, None)}, "an operator's, a directory's, and whose time is over"


# Databases from before there were revisions, as `create_all` made them.

OLD_DATABASE: Final = """
CREATE TABLE meta (name VARCHAR NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY (name));
CREATE TABLE tenants (
    id VARCHAR NOT NULL, name VARCHAR NOT NULL, epoch_key VARCHAR NOT NULL, PRIMARY KEY (id), UNIQUE (name)
);
CREATE TABLE people (
    id VARCHAR NOT NULL, tenant VARCHAR NOT NULL, name VARCHAR NOT NULL, citizenship VARCHAR NOT NULL,
    assurance VARCHAR NOT NULL, roles JSON NOT NULL, expires BIGINT NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (id), UNIQUE (tenant, name), FOREIGN KEY(tenant) REFERENCES tenants (id)
);
CREATE TABLE keys (
    id VARCHAR NOT NULL, digest VARCHAR NOT NULL, person VARCHAR NOT NULL, label VARCHAR NOT NULL,
    models JSON NOT NULL, requests_per_minute INTEGER NOT NULL, created BIGINT NOT NULL, expires BIGINT NOT NULL,
    revoked BIGINT, PRIMARY KEY (id), UNIQUE (digest), FOREIGN KEY(person) REFERENCES people (id)
);
CREATE TABLE auditors (
    id VARCHAR NOT NULL, digest VARCHAR NOT NULL, name VARCHAR NOT NULL, expires BIGINT NOT NULL, revoked BIGINT,
    PRIMARY KEY (id), UNIQUE (digest)
);
CREATE TABLE live (
    kind VARCHAR NOT NULL, name VARCHAR NOT NULL, origin VARCHAR NOT NULL, position BIGINT NOT NULL,
    entry TEXT NOT NULL, PRIMARY KEY (kind, name)
);
INSERT INTO meta VALUES ('schema_version', '1'), ('node', 'n');
INSERT INTO tenants VALUES ('z', 'first', 'AA=='), ('a', 'second', 'AA==');
INSERT INTO people VALUES ('p', 'z', 'aminah', 'MY', 'high', '["user"]', 2, 1);
INSERT INTO keys VALUES ('k', 'd', 'p', 'laptop', '[]', 0, 1, 2, NULL);
INSERT INTO live VALUES ('charter/v1', '', 'log/1', 0, '"text"');
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """One of the first release, which knew no deployments and no operators."""
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD_DATABASE)
    return path


def test_a_database_from_before_there_were_revisions_goes_on(old: Path) -> None:
    with contextlib.closing(ControlDatabase(old)) as database:
        assert_as_the_tables_say(database)
        assert [row["name"] for row in database.rows("tenants")] == ["first", "second"], "in the order they came"
        assert database.find("people", "aminah")["roles"] == ["user"]
        assert database.find("keys", "laptop")["digest"] == "d"
        assert database.meta("node") == "n"
        assert database.meta("schema_version") == "2", "a Daulat that knows no revisions does not open it"
        assert database.live("charter/v1") is not None
        database.add("deployments", ROWS["deployments"][0])


def test_what_it_becomes_can_become_again_what_it_was(old: Path) -> None:
    with contextlib.closing(ControlDatabase(old)) as database:
        migrate(database._engine, to=BASELINE)
    with contextlib.closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchall() == [("1",)]
        assert connection.execute("SELECT * FROM tenants").fetchall() == [
            ("z", "first", "AA=="),
            ("a", "second", "AA=="),
        ]

"""The control database is moved to PostgreSQL and back, and nobody starts with an empty one by mistake."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from tests.contract.test_migrations import fill, held
from tests.support.postgres import Postgres
from tests.support.verbs import Run, Shell

from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.migrations import HEAD
from daulat.errors import ConfigError
from daulat.processes import starting
from daulat.settings import Home, Settings


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A home whose control database holds something."""
    home = Home(tmp_path / "home")
    home.prepare()
    monkeypatch.setenv("DAULAT_HOME", str(home.path))
    with contextlib.closing(ControlDatabase(home.control_db)) as database:
        fill(database)
    return Shell(monkeypatch, capsys, home)


def content(home: Home, url: str = "") -> dict[str, object]:
    with contextlib.closing(starting.control_database(home, Settings(database=url))) as database:
        return held(database)


def test_there_and_back_with_every_row(run: Shell, server: Postgres) -> None:
    url, before = server.database(), content(run.home)
    moved = run("database", "move", url, "--json").value
    assert moved["rows"] >= 14
    assert moved["database"] == url
    assert not run.home.control_db.exists()
    assert content(run.home, url) == before
    assert run("database", "move", url, "--json").value["error"]["code"] == "conflict"
    run.home.settings.write_text(f'database = "{url}"\n')
    assert run("database", "schema", "--json").value["revision"] == HEAD
    back = run("database", "move", "--json").value
    assert back == {"rows": moved["rows"], "database": "", "left": url}
    assert content(run.home) == before


def test_it_is_moved_into_nothing_but_an_empty_one(run: Shell, server: Postgres) -> None:
    url, before = server.database(), content(run.home)
    with contextlib.closing(ControlDatabase(url)) as other:
        other.add("tenants", {"id": "t", "name": "there already", "epoch_key": "AA=="})
    assert "is not empty" in run("database", "move", url, "--json").value["error"]["message"]
    assert content(run.home) == before
    with contextlib.closing(ControlDatabase(url)) as other:
        assert [row["name"] for row in other.rows("tenants")] == ["there already"]
        assert other.meta("node") == ""


def test_a_home_does_not_start_beside_its_own_database(run: Shell, server: Postgres) -> None:
    url = server.database()
    with pytest.raises(ConfigError, match="move it with `daulat database move URL`"):
        starting.control_database(run.home, Settings(database=url))
    run("database", "move", url)
    with pytest.raises(ConfigError, match="is in PostgreSQL, and the setting `database` names none"):
        starting.control_database(run.home, Settings())


def test_without_a_url_it_is_there_already(run: Shell) -> None:
    assert "in the home already" in run("database", "move", "--json").value["error"]["message"]


def test_a_password_is_neither_taken_nor_repeated(run: Shell) -> None:
    said = run("database", "move", "postgresql+psycopg://daulat:hunter2@127.0.0.1/daulat", "--json")
    assert said.value["error"]["code"] == "config_error"
    assert "holds a password" in said.value["error"]["message"]
    assert "hunter2" not in said.out + said.err
    assert run.home.control_db.exists()


def test_the_schema_goes_back_for_an_older_daulat(run: Shell) -> None:
    before = content(run.home)
    assert run("database", "schema", "--to", "r0001_baseline", "--json").value["revision"] == "r0001_baseline"
    assert content(run.home) == before, "the next start brings it forward again"
    assert "no revision 'r0000'" in run("database", "schema", "--to", "r0000", "--json").value["error"]["message"]


@pytest.mark.parametrize("verb", [["schema"], ["move"]])
def test_a_home_without_one_says_so(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Run(monkeypatch, capsys)("database", *verb, "--home", tmp_path / "none", "--json")
    assert said.value["error"]["code"] == "not_found"

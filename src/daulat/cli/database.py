"""`daulat database`: where the control database is, and which schema it has. All with the service stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.migrations import HEAD, VERSIONS
from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.errors import Conflict, InvalidRequest, NotFound
from daulat.processes import starting
from daulat.processes.lock import lock
from daulat.settings import Home, load


@click.group()
def database() -> None:
    """Move the control database to PostgreSQL or back, or its schema to another revision."""


@contextmanager
def _stopped(home: Home) -> Iterator[None]:
    """Raises Conflict: the service runs."""
    if not home.control_db.exists() and not home.control_elsewhere.exists():
        raise NotFound(f"{home.path} has no control database yet: the first `daulat up` makes it")
    held = lock(home)
    try:
        yield
    finally:
        os.close(held)


@database.command("move")
@click.argument("url", required=False)
@home_option
@json_option
def move(url: str | None, home: Home, as_json: bool) -> None:
    """Copy the control database to an empty one in PostgreSQL, at URL, which holds no password; without URL, back.

    What it was moved from stays, and is not used any more: destroy it, for tenants' keys stand in it.

    \b
    Example:
        daulat database move "postgresql+psycopg://daulat@db.agency.gov.my/daulat?passfile=/srv/daulat/passfile"
    """
    with _stopped(home):
        if url is None:
            value = _back(home)
        else:
            if home.control_elsewhere.exists():
                raise Conflict("it is in PostgreSQL already: move it back first")
            with closing(ControlDatabase(home.control_db)) as here, closing(ControlDatabase(url)) as there:
                rows = there.take(here)
            home.control_elsewhere.touch(mode=0o600)
            old = home.control_db.rename(home.control_db.with_suffix(".moved"))
            value = {"rows": rows, "database": url, "left": str(old)}
    said = f"database = {value['database']!r}" if value["database"] else "without `database`"
    text = (
        f"{value['rows']} rows moved. In settings.toml from now on: {said}. Left behind: {value['left']}; destroy it."
    )
    emit(value, as_json=as_json, text=text)


def _back(home: Home) -> dict[str, object]:
    """From PostgreSQL into the home."""
    settings = load(home, {})
    if not home.control_elsewhere.exists():
        raise Conflict("it is in the home already; give the URL of an empty database to move it there")
    with closing(starting.control_database(home, settings)) as there, closing(ControlDatabase(home.control_db)) as here:
        rows = here.take(there)
    home.control_elsewhere.unlink()
    return {"rows": rows, "database": "", "left": settings.database}


@database.command("schema")
@click.option("--to", metavar="REVISION", help="Bring it to this revision, before an older Daulat is installed again.")
@home_option
@json_option
def schema(to: str | None, home: Home, as_json: bool) -> None:
    """Say which revision the control database's schema has, or bring it back to an earlier one.

    The next `daulat up` of this Daulat brings it forward again. What only later revisions have room for is lost.

    \b
    Example:
        daulat database schema
    """
    if to is not None and to not in VERSIONS:
        raise InvalidRequest(f"there is no revision {to[:40]!r}; known are {', '.join(VERSIONS)}")
    with _stopped(home), closing(starting.control_database(home, load(home, {}))) as held:
        if to is not None:
            held.migrate(to)
    value = {"revision": to or HEAD, "known": list(VERSIONS)}
    emit(value, as_json=as_json, text=f"The schema is {value['revision']}.")

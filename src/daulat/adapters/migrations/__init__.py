"""The control database's schema, revision by revision (Alembic). A fresh database is made by all of them.

To write one, change `control_tables.py` and add `versions/rNNNN_words.py`, numbered one above the last, with

    revision = "rNNNN_words"        # the file's name, at most 32 characters
    down_revision = "r..."          # the last one before

and `upgrade()` and `downgrade()` made of `alembic.op`. `tests/contract/test_migrations.py` fails until both say the
same on SQLite and PostgreSQL, and shows what Alembic would write. What has been released is never changed. SQLite knows
little of ALTER TABLE: a new column that is not null has a `server_default`; anything else is done in
`op.batch_alter_table`. A revision reads and writes by `op.execute` and tables of its own, as those of
`control_tables.py` move on. If two were written at once, the second to land is renumbered and chained behind the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from daulat.errors import ConfigError

VERSIONS: Final = tuple(sorted(path.stem for path in (Path(__file__).parent / "versions").glob("r*.py")))
HEAD: Final = VERSIONS[-1]


def migrate(engine: sa.Engine, *, to: str = HEAD) -> None:
    """Bring the schema up or down to a revision, in one transaction: all of it or nothing.

    Alembic is imported only where there is something to do, which is once in a version's life.

    Raises:
        ConfigError: the database was written by a newer Daulat.
    """
    with engine.connect() as connection:
        found = _revision(connection)
        connection.rollback()
        if found == to:
            return
        if found is not None and found not in VERSIONS:
            raise ConfigError(
                f"the control database has schema {found}, this Daulat knows up to {HEAD}: start it with the newer "
                "Daulat that wrote it",
                location=str(engine.url.database),
            )
        with _without_foreign_keys(connection), connection.begin():
            _run(connection, to, up=found is None or to > found)


def _revision(connection: sa.Connection) -> str | None:
    """None of a fresh database, and of one from before there were revisions."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


def _run(connection: sa.Connection, to: str, *, up: bool) -> None:
    from alembic import command  # noqa: PLC0415  a start that finds nothing to do is spared its import
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    (command.upgrade if up else command.downgrade)(config, to)


@contextlib.contextmanager
def _without_foreign_keys(connection: sa.Connection) -> Iterator[None]:
    """SQLite changes a table by copying it, and must not follow references from a table that it drops meanwhile."""
    driver = connection.connection.driver_connection
    if connection.dialect.name != "sqlite" or driver is None:
        yield
        return
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys = ON")

"""The control plane's durable state, through SQLAlchemy Core: in the home's SQLite file, or in PostgreSQL.

Secrets stand here as digests only, but tenants' epoch keys stand here whole: whoever has them can open commitments and
link pseudonyms. The file is private to the user, and no ordinary backup should hold it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from daulat.adapters.control_tables import ORDINAL, live, meta, metadata
from daulat.adapters.migrations import migrate
from daulat.errors import ConfigError, Conflict, NotFound, Unavailable

_LIKE: Final = "postgresql+psycopg://user@host/database, or empty for SQLite in the home"
_LOCK: Final = 0x6461756C6174  # "daulat"; advisory locks are a database's own
_LOCKED: Final = "55P03"  # lock_not_available, after lock_timeout
_ARGUMENTS: Final = {
    "application_name": "daulat",
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "options": "-c statement_timeout=5000 -c lock_timeout=5000",
}


class ControlDatabase:
    """Plain rows as dicts. Used by the control process alone."""

    def __init__(self, place: Path | str) -> None:
        """Open or create, and bring the schema up to date. `place`: SQLite's file, or PostgreSQL's URL.

        Raises:
            ConfigError: the URL is not one, or holds a password; or a newer Daulat wrote the database.
            Conflict: another control process works with this database of PostgreSQL.
            Unavailable: it cannot be reached.
        """
        engine = _sqlite(place) if isinstance(place, Path) else _postgresql(place)
        with contextlib.ExitStack() as stack:
            stack.callback(engine.dispose)
            with _told("opened"):
                migrate(engine)
            if isinstance(place, Path):
                place.chmod(0o600)
            stack.pop_all()
        self._engine = engine

    def meta(self, name: str) -> str:
        """A named value, empty when it was never set."""
        with self._reading() as connection:
            return connection.scalar(sa.select(meta.c.value).where(meta.c.name == name)) or ""

    def set_meta(self, name: str, value: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(meta).where(meta.c.name == name))
            connection.execute(sa.insert(meta).values(name=name, value=value))

    def add(self, table: str, row: dict[str, Any]) -> None:
        """Insert one row.

        Raises:
            Conflict: something with that name or id exists; NotFound: what it refers to does not.
        """
        rows = metadata.tables[table]
        following = sa.select(sa.func.coalesce(sa.func.max(rows.c[ORDINAL]), 0) + 1).scalar_subquery()
        try:
            with self._writing() as connection:
                connection.execute(sa.insert(rows).values({**row, ORDINAL: following}))
        except sa.exc.IntegrityError as error:
            if "foreign key" in str(error.orig).lower():
                raise NotFound(f"what this {_one(table)} belongs to does not exist") from None
            raise Conflict(f"{_one(table)} {row.get('name') or row['id']!r} exists already") from None

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows, in insertion order."""
        rows = metadata.tables[table]
        shown = [column for column in rows.c if column.name != ORDINAL]
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(sa.select(*shown).order_by(rows.c[ORDINAL])).mappings()]

    def find(self, table: str, wanted: str) -> dict[str, Any]:
        """One row by its id, or by its name where that is nobody's id.

        Raises:
            NotFound: there is none; Conflict: there are several.
        """
        named = "label" if table == "keys" else "name"
        rows = self.rows(table)
        found = [row for row in rows if row["id"] == wanted] or [row for row in rows if row[named] == wanted]
        if not found:
            raise NotFound(f"no {_one(table)} {wanted!r}; `list` shows those that exist")
        if len(found) > 1 and table == "keys":
            found = [row for row in found if row["revoked"] is None] or found[:1]
        if len(found) > 1:
            raise Conflict(f"{len(found)} {table} are called {wanted!r}; give the id")
        return found[0]

    def change(self, table: str, id_: str, **values: Any) -> None:
        """Replace some of a row's values."""
        rows = metadata.tables[table]
        with self._writing() as connection:
            connection.execute(sa.update(rows).where(rows.c.id == id_).values(**values))

    def remove(self, table: str, id_: str) -> None:
        rows = metadata.tables[table]
        with self._writing() as connection:
            connection.execute(sa.delete(rows).where(rows.c.id == id_))

    def erase(self, table: str, id_: str) -> int:
        """Delete a row and every row that refers to it, in one transaction; how many."""
        with self._writing() as connection:
            return _erased(connection, metadata.tables[table], id_)

    def scrub(self) -> None:
        """Leave nothing of what was deleted: SQLite overwrites it, and its write-ahead log is emptied here."""
        if self._engine.dialect.name == "sqlite":
            with _told("written"), contextlib.closing(self._engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def revoke(self, table: str, id_: str, now_ms: int) -> None:
        rows = metadata.tables[table]
        with self._writing() as connection:
            connection.execute(sa.update(rows).where(rows.c.id == id_).values(revoked=now_ms))

    def live(self, kind: str, name: str = "") -> dict[str, Any] | None:
        """The entry in force, with `entry` decoded, or None."""
        statement = sa.select(live).where(live.c.kind == kind, live.c.name == name)
        with self._reading() as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else {**row, "value": json.loads(row["entry"])}

    def all_live(self, kind: str) -> list[dict[str, Any]]:
        with self._reading() as connection:
            rows = connection.execute(sa.select(live).where(live.c.kind == kind).order_by(live.c.position)).mappings()
            return [{**row, "value": json.loads(row["entry"])} for row in rows]

    def set_live(self, kind: str, name: str, origin: str, position: int, entry: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(live).where(live.c.kind == kind, live.c.name == name))
            connection.execute(
                sa.insert(live).values(kind=kind, name=name, origin=origin, position=position, entry=entry)
            )

    def end_live(self, kind: str, name: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(live).where(live.c.kind == kind, live.c.name == name))

    def take(self, other: ControlDatabase) -> int:
        """Copy everything that another one holds into this one, which is empty; the number of rows.

        Raises:
            Conflict: this one is not empty.
        """
        count = 0
        with other._reading() as source, self._writing() as target:
            for table in metadata.sorted_tables:
                if table is not meta and target.scalar(sa.select(sa.func.count()).select_from(table)):
                    raise Conflict("the database to be moved to is not empty: give a new one")
                rows = [dict(row) for row in source.execute(sa.select(table)).mappings()]
                if table is meta:
                    target.execute(sa.delete(meta))
                if rows:
                    target.execute(sa.insert(table), rows)
                count += len(rows)
        return count

    def migrate(self, to: str) -> None:
        """Bring the schema to a revision; with an earlier one, nothing but `close` may follow."""
        with _told("changed"):
            migrate(self._engine, to=to)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """Raises Unavailable: it cannot be reached."""
        with _told("read"), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One transaction.

        Raises:
            Unavailable: it could not be made durable (a full disk, above all).
        """
        with _told("written"), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()


def _erased(connection: sa.Connection, table: sa.Table, id_: str) -> int:
    """Whatever refers to it goes first; rows are known by their `id`."""
    limits = metadata.tables["limits"]  # they name their subject without a foreign key
    connection.execute(sa.delete(limits).where(limits.c.subject == id_))
    count = 0
    for other in metadata.sorted_tables:
        for key in other.foreign_keys:
            if key.column.table is table:
                referring = connection.scalars(sa.select(other.c.id).where(key.parent == id_)).all()
                count += sum(_erased(connection, other, found) for found in referring)
    return count + connection.execute(sa.delete(table).where(table.c.id == id_)).rowcount


def _one(table: str) -> str:
    """What one of its rows is called."""
    return str(metadata.tables[table].info["one"])


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the driver in words: they name host and user, and no password."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        if getattr(error.orig, "sqlstate", None) == _LOCKED:
            raise Conflict("another control process works with this control database; one home has one") from None
        words = " ".join(str(error.orig).split())
        raise Unavailable(f"the control database cannot be {what}: {words}") from None


def _sqlite(path: Path) -> sa.Engine:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver's own transactions would leave out changes of the schema
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what is erased is not to be found in free pages

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _postgresql(place: str) -> sa.Engine:
    """One connection, made anew when it broke. It holds the lock that keeps other control processes out.

    Nothing waits long for a server that does not answer: the control process does nothing else meanwhile.
    """
    url = _checked(place)
    arguments = {name: value for name, value in _ARGUMENTS.items() if name not in url.query}
    try:
        engine = sa.create_engine(url, pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args=arguments)
    except ModuleNotFoundError:
        raise ConfigError("PostgreSQL needs psycopg: pip install 'daulat[postgres]'", location="database") from None

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        connection.commit()

    return engine


def _checked(place: str) -> sa.URL:
    """The URL; what is wrong with it is said without repeating it."""
    try:
        url = sa.make_url(place)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(f"is no URL: expected {_LIKE}", location="database") from None
    if url.drivername != "postgresql+psycopg":
        raise ConfigError(f"names {url.drivername[:40]!r}, expected {_LIKE}", location="database")
    if url.password is not None or "password" in url.query:
        raise ConfigError(
            "holds a password, which others could read here: write host:port:database:user:password into a file of "
            "mode 0600, and name that with ?passfile=FILE in the URL, or with PGPASSFILE; or use ~/.pgpass",
            location="database",
        )
    return url

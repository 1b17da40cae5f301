"""The control plane's durable state, in SQLite through SQLAlchemy Core (PostgreSQL when there is more than one host).

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

from daulat.errors import ConfigError, Conflict, NotFound, Unavailable

SCHEMA_VERSION: Final = 1
_SINGULAR: Final = {
    "tenants": "tenant",
    "people": "person",
    "keys": "key",
    "auditors": "auditor",
    "identities": "identity",
    "invitations": "invitation",
    "sessions": "session",
    "deployments": "deployment",
    "operator_keys": "operator's key",
    "proposals": "proposal",
    "approvals": "approval",
}
_metadata: Final = sa.MetaData()
_meta = sa.Table(
    "meta", _metadata, sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.String, nullable=False)
)
sa.Table(
    "tenants",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("epoch_key", sa.String, nullable=False),  # base64 of 32 bytes
)
sa.Table(
    "people",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("tenant", sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("citizenship", sa.String, nullable=False),
    sa.Column("assurance", sa.String, nullable=False),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("issuer", sa.String, nullable=False, server_default="operator"),  # who says so of the citizenship
    sa.Column(
        "until", sa.BigInteger, nullable=False, server_default="0"
    ),  # when that ends to be known; 0: as the person
    sa.Column("lapsed", sa.BigInteger, nullable=False, server_default="0"),  # the `until` that the log was told of
    sa.UniqueConstraint("tenant", "name"),
)
sa.Table(
    "keys",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("requests_per_minute", sa.Integer, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("networks", sa.JSON, nullable=False, server_default="[]"),  # CIDR; none: from anywhere
    sa.Column("revoked", sa.BigInteger),
)
sa.Table(
    "auditors",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),
)
# Who somebody is when they sign in: `name` is a keyed hash (`identity.claims.hashed`), never a number or a name.
sa.Table(
    "identities",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
)
sa.Table(
    "invitations",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # hex SHA-256 of the secret
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),  # or used
)
sa.Table(
    "sessions",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # hex SHA-256 of the secret
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("issuer", sa.String, nullable=False),
    sa.Column("binding", sa.String, nullable=False),  # a hash of what the client was
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),
)
sa.Table(
    "deployments",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # what clients call its model
    sa.Column("spec", sa.JSON, nullable=False),  # core.deployment.Spec
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # the generation that last changed the template
    sa.Column("good", sa.Integer),  # the last revision that was up as wished, and its spec
    sa.Column("good_spec", sa.JSON),
    sa.Column("failed", sa.String, nullable=False),  # why the newest revision was given up, else empty
    sa.Column("created", sa.BigInteger, nullable=False),
)
sa.Table(
    "operator_keys",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # the public key, base64: one key is one operator's
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("vkey", sa.String, nullable=False),  # under the holder's pseudonym
    sa.Column("origin", sa.String, nullable=False),  # of the log that it stands in
    sa.Column("position", sa.BigInteger, nullable=False),  # of its key/v1
    sa.Column("revoked", sa.BigInteger),
)
sa.Table(
    "proposals",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # the id once more
    sa.Column("origin", sa.String, nullable=False),  # of the log that it stands in
    sa.Column("action", sa.String, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),  # the exact bytes of what will be done
    sa.Column("prior", sa.String, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("key", sa.ForeignKey("operator_keys.id"), nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),  # of its proposal/v1
    sa.Column("done", sa.BigInteger),
)
sa.Table(
    "approvals",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("proposal", sa.ForeignKey("proposals.id"), nullable=False),
    sa.Column("key", sa.ForeignKey("operator_keys.id"), nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),  # of its approval/v1
    sa.UniqueConstraint("proposal", "key"),
)
# Entries in force, by what they are about: where they stand in which log, and their text.
_live = sa.Table(
    "live",
    _metadata,
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("origin", sa.String, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("entry", sa.Text, nullable=False),
)


class ControlDatabase:
    """Plain rows as dicts. Used by the control process alone."""

    def __init__(self, path: Path) -> None:
        """Open or create.

        Raises:
            ConfigError: the file was written by a newer Daulat.
        """
        self._engine = sa.create_engine(f"sqlite:///{path}")
        with self._engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            _metadata.create_all(connection)
        path.chmod(0o600)
        version = int(self.meta("schema_version") or SCHEMA_VERSION)
        if version > SCHEMA_VERSION:
            raise ConfigError(f"has schema {version}, this Daulat knows up to {SCHEMA_VERSION}", location=str(path))
        self.set_meta("schema_version", str(SCHEMA_VERSION))

    def meta(self, name: str) -> str:
        """A named value, empty when it was never set."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(_meta.c.value).where(_meta.c.name == name)) or ""

    def set_meta(self, name: str, value: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(_meta).where(_meta.c.name == name))
            connection.execute(sa.insert(_meta).values(name=name, value=value))

    def add(self, table: str, row: dict[str, Any]) -> None:
        """Insert one row.

        Raises:
            Conflict: something with that name or id exists.
        """
        try:
            with self._writing() as connection:
                connection.execute(sa.insert(_metadata.tables[table]).values(**row))
        except sa.exc.IntegrityError:
            raise Conflict(f"{_SINGULAR[table]} {row.get('name') or row['id']!r} exists already") from None

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows, in insertion order."""
        with self._engine.connect() as connection:
            return [
                dict(row)
                for row in connection.execute(sa.select(_metadata.tables[table]).order_by(sa.text("rowid"))).mappings()
            ]

    def find(self, table: str, wanted: str) -> dict[str, Any]:
        """One row by its id or its name.

        Raises:
            NotFound: there is none; Conflict: there are several.
        """
        named = "label" if table == "keys" else "name"
        found = [row for row in self.rows(table) if wanted in {row["id"], row[named]}]
        if not found:
            raise NotFound(f"no {_SINGULAR[table]} {wanted!r}; `list` shows those that exist")
        if len(found) > 1 and table == "keys":
            found = [row for row in found if row["revoked"] is None] or found[:1]
        if len(found) > 1:
            raise Conflict(f"{len(found)} {table} are called {wanted!r}; give the id")
        return found[0]

    def change(self, table: str, id_: str, **values: Any) -> None:
        """Replace some of a row's values."""
        rows = _metadata.tables[table]
        with self._writing() as connection:
            connection.execute(sa.update(rows).where(rows.c.id == id_).values(**values))

    def remove(self, table: str, id_: str) -> None:
        rows = _metadata.tables[table]
        with self._writing() as connection:
            connection.execute(sa.delete(rows).where(rows.c.id == id_))

    def revoke(self, table: str, id_: str, now_ms: int) -> None:
        rows = _metadata.tables[table]
        with self._writing() as connection:
            connection.execute(sa.update(rows).where(rows.c.id == id_).values(revoked=now_ms))

    def live(self, kind: str, name: str = "") -> dict[str, Any] | None:
        """The entry in force, with `entry` decoded, or None."""
        statement = sa.select(_live).where(_live.c.kind == kind, _live.c.name == name)
        with self._engine.connect() as connection:
            row = connection.execute(statement).mappings().first()
        return None if row is None else {**row, "value": json.loads(row["entry"])}

    def all_live(self, kind: str) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_live).where(_live.c.kind == kind)).mappings()
            return [{**row, "value": json.loads(row["entry"])} for row in rows]

    def set_live(self, kind: str, name: str, origin: str, position: int, entry: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(_live).where(_live.c.kind == kind, _live.c.name == name))
            connection.execute(
                sa.insert(_live).values(kind=kind, name=name, origin=origin, position=position, entry=entry)
            )

    def end_live(self, kind: str, name: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(_live).where(_live.c.kind == kind, _live.c.name == name))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One transaction.

        Raises:
            Unavailable: it could not be made durable (a full disk, above all).
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise Unavailable(f"the control database cannot be written: {error.orig}") from None

    def close(self) -> None:
        self._engine.dispose()

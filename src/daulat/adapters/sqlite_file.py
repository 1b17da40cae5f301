"""SQLite files that one process writes: how they are opened, and how several statements become one step."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def opened(path: Path, schema: str, *pragmas: str) -> sqlite3.Connection:
    """A connection that commits by itself, to a file that only this user can read; for any thread, one at a time.

    `pragmas`, such as "synchronous=FULL", are set before the schema is made.

    Raises:
        sqlite3.Error: it cannot be opened, or is no such file.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    path.chmod(0o600)
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(schema)
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, *, reads: bool = False) -> Iterator[None]:
    """What is executed within happens wholly, and as durably as the file's pragmas say, or not at all.

    `reads`: it changes nothing, and sees the file as it is at its first statement, whoever writes meanwhile.

    Raises:
        sqlite3.Error: it did not.
    """
    connection.execute("BEGIN DEFERRED" if reads else "BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back where the disk is full
            connection.execute("ROLLBACK")
        raise

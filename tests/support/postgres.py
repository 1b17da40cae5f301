"""Debian's PostgreSQL, run by a test: as an unprivileged user, in a folder under /tmp, on loopback and a socket."""

from __future__ import annotations

import getpass
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.support.service import LONG_SECONDS, free_port

PASSWORD = "a password for tests"
_USERS = ("postgres", "nobody")  # whom root becomes: initdb refuses root


def missing() -> str:
    """Why there can be none here; empty when there can."""
    if _programs() is None:
        return "PostgreSQL is not installed: tools/debian-packages postgresql"
    return "" if shutil.which("setpriv") else "setpriv is missing: tools/debian-packages util-linux"


def _programs() -> Path | None:
    """The folder of the newest release's programs, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """One server, with as many databases as are asked for. TCP asks for a password, the socket does not."""

    def __init__(self) -> None:
        programs = _programs()
        assert programs is not None
        self._programs, self.port = programs, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="daulat-pg-", dir="/tmp"))
        self._data, self._numbers = self.folder / "data", itertools.count(1)
        self._server: subprocess.Popen[bytes] | None = None
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        self._user = next((known[name] for name in _USERS if name in known), None) if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        given = self.folder / "given"
        given.write_text(PASSWORD)
        given.chmod(0o644)
        auth = ("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={given}")
        self._run("initdb", "-D", self._data, "-U", "daulat", "-E", "UTF8", "--locale=C", "--no-sync", *auth)

    def url(self, name: str = "postgres", *, tcp: bool = False) -> str:
        """Of one of its databases, as the setting `database` has it."""
        if tcp:
            return f"postgresql+psycopg://daulat@127.0.0.1:{self.port}/{name}"
        return f"postgresql+psycopg://daulat@/{name}?host={self.folder}&port={self.port}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return self.url(name)

    def passfile(self) -> Path:
        """For whoever comes over TCP."""
        path = self.folder / "passfile"
        path.write_text(f"127.0.0.1:{self.port}:*:daulat:{PASSWORD}\n")
        path.chmod(0o600)
        return path

    def ask(self, statement: str, database: str = "postgres") -> str:
        """What psql says to a statement: bare values, a row a line."""
        words = ("-h", str(self.folder), "-p", str(self.port), "-U", "daulat", "-At", "-c", statement, database)
        done = subprocess.run([self._programs / "psql", "-X", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self) -> None:
        """Until it answers. It ends with this process, whatever happens to that."""
        listening = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder}
        faster = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "20"}
        settings = [word for name, value in {**listening, **faster}.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = [*self._as_user("--pdeathsig", "INT"), self._programs / "postgres", "-D", self._data, *settings]
            self._server = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + LONG_SECONDS
        ready = [self._programs / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._server.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: its "fast" way, which cuts connections; SIGQUIT: as if it had crashed."""
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(LONG_SECONDS)
            self._server = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_reason: object) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: object) -> None:
        command = [*self._as_user(), self._programs / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, f"{getpass.getuser()}: {done.stderr}"

    def _as_user(self, *options: str) -> list[str]:
        """What stands before a program."""
        if self._user is None:
            return ["setpriv", *options] if options else []
        ids = ("--reuid", str(self._user.pw_uid), "--regid", str(self._user.pw_gid), "--clear-groups")
        return ["setpriv", *ids, *options]

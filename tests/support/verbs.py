"""The `daulat` command, run in this process as a shell would, and homes with something in them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs
from tests.support.log_server import listening
from tests.support.logs import Published

from daulat import cli
from daulat.adapters import rpc
from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.log_files import LogFolder, set_current_period
from daulat.adapters.request_index import RequestIndex
from daulat.core.clock import SystemClock
from daulat.pipeline.operate import Desk
from daulat.processes.metering import Metering
from daulat.settings import Home

PERIOD = "2026"
SERVING_ONLY = (
    *("alembic", "cedarpy", "gguf", "httptools", "msgspec", "numpy", "psutil"),
    *("psycopg", "sqlalchemy", "starlette", "uvicorn", "uvloop", "xllamacpp"),
)


@dataclass(frozen=True)
class Said:
    """What a verb printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The one line of JSON, on stdout when it went well and else on stderr."""
        lines = (self.out or self.err).splitlines()
        assert len(lines) == 1, self
        return json.loads(lines[0])


class Run:
    """Runs verbs through the command's own entry point: parsing, errors and exit codes are the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Said:
        self._monkeypatch.setattr(sys, "argv", ["daulat", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self._capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)


class Shell(Run):
    """The same, with a home to run them on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Home) -> None:
        super().__init__(monkeypatch, capsys)
        self.home = home


def base_install(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where none of the serving install's packages can be imported."""
    words = ["daulat", *map(str, arguments)]
    program = f"import sys; sys.modules.update(dict.fromkeys({SERVING_ONLY!r})); sys.argv = {words!r}"
    program += "; from daulat.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


class FakeControl:
    """A control plane without a service: the real desk over a real database, entries kept in a list."""

    def __init__(self, home: Home) -> None:
        self.entries: list[tuple[str, Mapping[str, Any]]] = []
        self.status: dict[str, Any] = {}
        self.more: dict[str, rpc.Handler] = {}  # handlers of a test's own
        self._home = home
        self.rows = ControlDatabase(home.control_db)
        self.desk = Desk(self.rows, self._note, SystemClock(), 0)
        where = (home, logs.ORIGIN.partition("/")[0], logs.ORIGIN, "MY")
        self.metering = Metering(self.rows, self.desk.act, SystemClock(), *where, workers=1)

    async def _note(self, type_: str, fields: Mapping[str, Any]) -> int:
        self.entries.append((type_, fields))
        return len(self.entries) - 1

    async def _list(self, table: str) -> list[dict[str, Any]]:
        return self.desk.list(table)

    async def _status(self) -> dict[str, Any]:
        return self.status

    @contextmanager
    def serving(self) -> Iterator[FakeControl]:
        """Listen at the home's control socket, on a thread."""
        desk = self.desk
        handlers: dict[str, rpc.Handler] = {
            "status": self._status,
            "key.create": desk.create_key,
            "key.revoke": desk.revoke_key,
            "person.add": desk.add_person,
            "tenant.add": desk.add_tenant,
            "auditor.create": desk.create_auditor,
            "auditor.revoke": desk.revoke_auditor,
            "list": self._list,
            **self.metering.handlers(lambda use_case: use_case),
            **self.more,
        }
        loop = asyncio.new_event_loop()
        loop.run_until_complete(desk.begin())
        loop.run_until_complete(self.metering.begin())
        server = loop.run_until_complete(rpc.serve(self._home.control_socket, handlers))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            self.metering.close()
            self.rows.close()


def publish(home: Home, log: Published | None = None) -> Published:
    """Put a log (by default the story of `tests.support.logs`) into a home, with its index of request ids."""
    log = log or logs.write()
    folder = LogFolder(home.log / PERIOD)
    folder.write(log.files)
    folder.publish(log.signed)
    folder.set_vkey(logs.SIGNER.vkey)
    set_current_period(home.log, PERIOD)
    home.vkey.write_text(f"{logs.SIGNER.vkey}\n")
    index = RequestIndex(home.index_db, logs.ORIGIN)
    index.add(0, log.entries)
    index.close()
    return log


@dataclass
class Site:
    """A web server of a few files. `asked` are the paths and authorization headers of every request."""

    url: str
    files: dict[str, tuple[int, bytes]]
    asked: list[tuple[str, str]]


@contextmanager
def site(files: Mapping[str, bytes | tuple[int, bytes]]) -> Iterator[Site]:
    """Serve files on loopback; a value may bring its status along. Everything else is 404."""
    served = {path: value if isinstance(value, tuple) else (200, value) for path, value in files.items()}
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("authorization", "")))
            self._answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def _answer(self) -> None:
            status, body = served.get(self.path, (404, b"{}"))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with listening(Handler) as url:
        yield Site(url, served, asked)


def log_site(log: Published, period: str = PERIOD) -> dict[str, bytes]:
    """The files of a log as the service serves them."""
    return {
        f"/log/{period}/checkpoint": log.signed,
        **{f"/log/{period}/{path}": data for path, data in log.files.items()},
    }


def write_file(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path

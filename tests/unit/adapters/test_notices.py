"""Notices reach a file, a web hook and a command; what fails is named, and hinders nothing else."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from daulat.adapters.notices import Notices

NOTICE = {"notice": "break-glass", "words": "g\u00e9n\u00e9ral"}


@pytest.fixture
def hook() -> Iterator[tuple[str, list[bytes]]]:
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_everybody_is_told(tmp_path: Path, hook: tuple[str, list[bytes]]) -> None:
    url, got = hook
    program = tmp_path / "program.py"
    program.write_text(f"import sys; open({str(tmp_path / 'told')!r}, 'w').write(sys.stdin.read())")
    notices = Notices(tmp_path / "notices", url, f"{sys.executable} '{program}'")
    assert asyncio.run(notices(NOTICE)) == []
    assert asyncio.run(notices(NOTICE)) == []
    assert [json.loads(line) for line in (tmp_path / "notices").read_text().splitlines()] == [NOTICE, NOTICE]
    assert (tmp_path / "notices").stat().st_mode & 0o777 == 0o600
    assert json.loads(got[0]) == json.loads((tmp_path / "told").read_text()) == NOTICE


def test_what_fails_is_named_and_the_others_are_told(tmp_path: Path, hook: tuple[str, list[bytes]]) -> None:
    url, _ = hook
    assert asyncio.run(Notices(tmp_path / "n", f"{url}/broken", "false")(NOTICE)) == ["url", "command"]
    assert asyncio.run(Notices(tmp_path / "n", "nonsense", "no-such-program-here")(NOTICE)) == ["url", "command"]
    assert asyncio.run(Notices(tmp_path / "n", "", "'unbalanced")(NOTICE)) == ["command"]
    assert asyncio.run(Notices(tmp_path / "missing" / "n")(NOTICE)) == ["file"]
    assert len((tmp_path / "n").read_text().splitlines()) == 3

"""Web servers on loopback for tests, and a published log as the service has it under `/log/`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.support.logs import Published

from daulat.errors import NotFound

TOKEN = "an-auditors-token"


@contextmanager
def listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a thread; the address, without a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serve(shards: Mapping[str, Published]) -> Iterator[str]:
    """The log's address; `shards` by period. Entry bundles need `TOKEN`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, data = self._find()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _find(self) -> tuple[int, bytes]:
            period, _, path = self.path.removeprefix("/log/").partition("/")
            allowed = self.headers["authorization"] == f"Bearer {TOKEN}"
            if path.startswith("tile/entries/") and not allowed:
                return 401, b""
            try:
                if period == "blob":
                    return 200, next(iter(shards.values())).blob(path)
                log = shards[period]
                return 200, log.checkpoint() if path == "checkpoint" else log.read(path)
            except (NotFound, KeyError):
                return 404, b""

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with listening(Handler) as url:
        yield f"{url}/log"

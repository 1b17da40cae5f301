"""A program in an engine's place, on its own socket, that goes on answering and says nothing, or says it wrongly."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import socket
import socketserver
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Self

_EMPTY = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9},
}
_CHUNK = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


class Direct(HTTPConnection):
    """To an engine's Unix socket, past the gateway: what nobody but root on the host can do."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class Corrupt:
    """Takes the place of the engine at `path`: questions get an empty 200, everything else the engine's own answer."""

    def __init__(self, path: Path) -> None:
        self.asked = 0
        self._path, self._real = path, path.with_name("real.sock")
        corrupt = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if (said := corrupt.instead(self.path, body)) is not None:
                    self._send(200, *said)
                    return
                with contextlib.closing(Direct(corrupt._real)) as connection:  # also where the engine is gone
                    connection.request(self.command, self.path, body, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    said = corrupt.spoilt(self.path, answer.read())
                    self._send(answer.status, answer.getheader("content-type") or "text/plain", said)

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _send(self, status: int, kind: str, said: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def address_string(self) -> str:
                return "corrupt"

            def log_message(self, *_: object) -> None:
                """Nothing."""

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 128  # whoever finds the queue full is refused: that is not what is played here

            def handle_error(self, _request: object, _client: object) -> None:
                """Somebody left, or the engine did: they know themselves."""

        path.rename(self._real)
        self._server = Server(os.fspath(path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def instead(self, path: str, body: bytes) -> tuple[str, bytes] | None:
        """Content type and body of what is said without asking the engine."""
        if not path.startswith("/v1/"):
            return None
        self.asked += 1
        if json.loads(body).get("stream"):
            return "text/event-stream", f"data: {json.dumps(_CHUNK)}\n\ndata: [DONE]\n\n".encode()
        return "application/json", json.dumps(_EMPTY).encode()

    def spoilt(self, _path: str, said: bytes) -> bytes:
        """What becomes of the engine's answer."""
        return said

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        with contextlib.suppress(FileNotFoundError):  # the engine was started anew, in a new folder
            self._real.replace(self._path)


class Garbling(Corrupt):
    """Every answer is the engine's own as faulty kernels would have it: other words, and likelihoods that are off."""

    def instead(self, path: str, body: bytes) -> None:
        self.asked += path.startswith("/v1/")

    def spoilt(self, path: str, said: bytes) -> bytes:
        if path.startswith("/v1/"):
            return re.sub(
                rb'("content":")([^"]*)',
                lambda found: found[1] + codecs.encode(found[2].decode(), "rot13").encode(),
                said,
            )
        return re.sub(rb'("logprob":-?)([0-9.]+)', lambda found: b"%b%f" % (found[1], 4 * float(found[2])), said)

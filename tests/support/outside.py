"""A server that Daulat does not run: llama.cpp as it comes, and a front before it that speaks TLS and wants a key."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from daulat.processes import engine


@contextmanager
def llama_cpp(folder: Path, model: Path, name: str) -> Iterator[Path]:
    """The socket of a llama.cpp server of its own, without a sandbox."""
    socket = folder / "outside.sock"
    launch = {
        "model": str(model),
        "name": name,
        "socket": str(socket),
        "scratch": str(folder),
        "slots": 2,
        "context": 512,
        "threads": 1,
        "embeds": False,
        "uid": None,
    }
    command = [sys.executable, "-P", str(engine.__file__), json.dumps(launch)]
    pipe = subprocess.PIPE  # it ends with its standard input
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            assert b"listening" in process.stdout.readline()
            yield socket
        finally:
            process.kill()


def certificate(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A self-signed one for a server, and the SHA-256 of its DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    day = dt.timedelta(days=1)
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "pem").write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    return context, hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()


@dataclass
class Front:
    """Speaks TLS and hands every connection on to a Unix socket, once its first request shows the key. Used as a
    context; `heads` are the first requests' heads."""

    behind: Path
    folder: Path
    key: str
    heads: list[str] = field(default_factory=list)
    port: int = 0
    pin: str = ""
    _stop: Callable[[], None] = lambda: None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}#{self.pin}"

    def __enter__(self) -> Self:
        listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(listening)), daemon=True)
        self._thread.start()
        assert listening.wait(60)
        return self

    def __exit__(self, *_reason: object) -> None:
        self._stop()
        if self._thread is not None:
            self._thread.join(60)

    async def _run(self, listening: threading.Event) -> None:
        context, self.pin = certificate(self.folder)
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: _tell(loop, over)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        await over.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode())
            lines = head.decode().split("\r\n")
            shown = next((line[22:] for line in lines if line.lower().startswith("authorization: bearer ")), "")
            if shown == self.key:
                await self._pass(head, reader, writer)
            else:
                said = json.dumps({"error": {"message": f"Incorrect API key provided: {shown}"}}).encode()
                writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\n")
                writer.write(b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(said) + said)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of both has left, or the front ends
        finally:
            writer.transport.abort()

    async def _pass(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_unix_connection(os.fspath(self.behind))
        try:
            outer.write(head)
            pipes = {asyncio.create_task(_pipe(reader, outer)), asyncio.create_task(_pipe(inner, writer))}
            _, left = await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
            for pipe in left:
                pipe.cancel()
            await asyncio.gather(*pipes, return_exceptions=True)
        finally:
            outer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


def _tell(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    loop.call_soon_threadsafe(over.set)

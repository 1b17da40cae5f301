"""Whether the engine's sandbox holds: the supervisor's side of the canary.

Each round opens listeners on this host, has `agent.probe` run in the engine's own namespaces with a fresh nonce, and
judges. Contained means: a valid answer with the nonce, every attempt refused, no listener heard the nonce, and this
host's kernel confirms what the engine process itself is under. One success, or one listener that heard it, is an
escape. No valid answer is silence; two silent rounds in a row count as an escape.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self, cast

SILENT_ROUNDS: Final = 2
_ANSWER_SECONDS: Final = 15.0
_LONGEST_ANSWER: Final = 65_536
_MOST_PROBES: Final = 64
_VMADDR_CID_ANY: Final = 0xFFFFFFFF
_VMADDR_CID_HOSTS: Final = (1, 2)  # the local one, and the host as a guest sees it
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """One round. `outcome`: "contained" | "escaped" | "silent"."""

    nonce: str
    outcome: str
    probes: tuple[Mapping[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        return {"nonce": self.nonce, "probes": [dict(probe) for probe in self.probes]}


class Sandbox(Protocol):
    """What a round needs of a running sandbox."""

    def joined(self, program: Sequence[str]) -> list[str]:
        """The command that runs `program` in its namespaces."""
        ...

    def kernel(self) -> list[dict[str, str]]:
        """Probes that this host's kernel answers about the engine process."""
        ...


def judge(nonce: str, answer: bytes | None, heard: frozenset[str], kernel: Sequence[Mapping[str, str]]) -> Finding:
    """Pure. What was heard and what the kernel says count even when the canary itself says nothing."""
    witnessed = [{"kind": "heard", "target": label, "outcome": "reached", "detail": ""} for label in sorted(heard)]
    said = _probes(nonce, answer)
    probes = summary((*(said or ()), *kernel, *witnessed))
    if any(probe["outcome"] != "refused" for probe in probes):
        return Finding(nonce, "escaped", probes)
    return Finding(nonce, "contained" if said else "silent", probes)


def summary(probes: Sequence[Mapping[str, str]]) -> tuple[Mapping[str, str], ...]:
    """Probes of one kind that ended alike become one, so that a log entry a minute stays small."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for probe in probes:
        groups.setdefault((probe["kind"], probe["outcome"], probe["detail"]), []).append(probe["target"])
    return tuple(
        {"kind": kind, "target": ", ".join(targets), "outcome": outcome, "detail": detail}
        for (kind, outcome, detail), targets in groups.items()
    )


def _probes(nonce: str, answer: bytes | None) -> list[dict[str, str]] | None:
    """The canary's own, or None where they are no valid answer to this nonce."""
    try:
        value = json.loads(answer or b"")
        if value["nonce"] != nonce or not 0 < len(value["probes"]) <= _MOST_PROBES:
            return None
        names = ("kind", "target", "outcome", "detail")
        return [{name: str(probe[name])[:128] for name in names} for probe in value["probes"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class Silence:
    """Counts silent rounds in a row."""

    def __init__(self) -> None:
        self.rounds = 0

    def broken_out(self, finding: Finding) -> bool:
        """Whether this round, after those before, means that the engine must be stopped."""
        self.rounds = self.rounds + 1 if finding.outcome == "silent" else 0
        return finding.outcome == "escaped" or self.rounds >= SILENT_ROUNDS


class Listeners:
    """Listeners on this host that only an escaped canary can reach. Only the nonce counts: strangers connect too."""

    def __init__(self, nonce: str, path: Path) -> None:
        self._nonce = nonce.encode()
        self._path = path
        self._closing = contextlib.AsyncExitStack()
        self.targets: list[dict[str, Any]] = []
        self.heard: set[str] = set()

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._closing.aclose()
            raise
        return self

    async def _open(self) -> None:
        abstract = f"daulat-canary-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        await self._tcp()
        await self._udp()
        await self._unix("unix", os.fspath(self._path), os.fspath(self._path))
        self._path.chmod(0o666)  # only the mount namespace and the folder stand before it
        await self._unix("abstract", f"\0{abstract}", abstract)
        await self._vsock()

    async def __aexit__(self, *_reason: object) -> None:
        await self._closing.aclose()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _stream(self, label: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(self._nonce)) == self._nonce:
                self.heard.add(label)
                writer.write(self._nonce)
        writer.close()

    def _add(self, kind: str, label: str, address: Any) -> None:
        self.targets.append({"kind": kind, "label": label, "address": address})

    async def _keep(self, server: asyncio.Server) -> None:
        self._closing.callback(server.close)

    async def _tcp(self) -> None:
        label = "tcp 127.0.0.1"
        server = await asyncio.start_server(lambda r, w: self._stream(label, r, w), "127.0.0.1", 0)
        await self._keep(server)
        self._add("tcp", label, ["127.0.0.1", server.sockets[0].getsockname()[1]])

    async def _udp(self) -> None:
        label = "udp 127.0.0.1"
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self._nonce, lambda: self.heard.add(label)), local_addr=("127.0.0.1", 0)
        )
        self._closing.callback(transport.close)
        self._add("udp", label, ["127.0.0.1", transport.get_extra_info("sockname")[1]])

    async def _unix(self, kind: str, address: str, shown: str) -> None:
        label = f"unix {'path' if kind == 'unix' else kind}"  # the real path may name a person: never logged
        server = await asyncio.start_unix_server(lambda r, w: self._stream(label, r, w), address)
        await self._keep(server)
        self._add(kind, label, shown)

    async def _vsock(self) -> None:
        """Where the kernel has it; elsewhere there is nothing to reach."""
        if not hasattr(socket, "AF_VSOCK"):
            return
        try:
            listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        except OSError:
            return
        try:
            listener.bind((_VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            listener.listen()
        except OSError:
            listener.close()
            return
        listener.setblocking(False)
        task = asyncio.create_task(self._accept(listener))
        self._closing.callback(listener.close)
        self._closing.callback(task.cancel)
        for cid in _VMADDR_CID_HOSTS:
            self._add("vsock", f"vsock {cid}", [cid, listener.getsockname()[1]])

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            with connection:
                if (await loop.sock_recv(connection, len(self._nonce))) == self._nonce:
                    self.heard.add("vsock")


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, nonce: bytes, heard: Any) -> None:
        self._nonce, self._heard = nonce, heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: Any) -> None:
        if data == self._nonce:
            self._heard()
            self._transport.sendto(data, address)


async def one_round(
    sandbox: Sandbox, interpreter: str, bpf: bytes, path: Path, families: Sequence[str] = ("unix",)
) -> Finding:
    """Run the canary once under the filter `bpf`, which allows sockets of `families`.

    Takes some 100 ms; at most 15 s when it is silent. What cannot be tried is silence.
    """
    nonce = secrets.token_hex(16)
    source = (Path(__file__).parent / "probe.py").read_text()
    command = sandbox.joined((interpreter, "-I", "-S", "-c", source))
    answer, listeners = None, Listeners(nonce, path)
    try:
        async with listeners:
            order = {
                "nonce": nonce,
                "filter": base64.b64encode(bpf).decode(),
                "families": list(families),
                "targets": listeners.targets,
            }
            answer = await _ask(command, json.dumps(order).encode() + b"\n")
            await asyncio.sleep(0.02)  # what was sent last may still be on its way to a listener
    except OSError as error:
        _log.warning("the canary could not listen: %s", error)
    return judge(nonce, answer, frozenset(listeners.heard), sandbox.kernel())


async def _ask(command: Sequence[str], order: bytes) -> bytes | None:
    pipe, devnull = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=devnull, env={}, start_new_session=True
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            answer, _ = await process.communicate(order)
    except (TimeoutError, OSError):
        answer = None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return answer if answer is not None and len(answer) <= _LONGEST_ANSWER else None

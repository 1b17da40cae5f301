"""Daulat and its peers as processes with a port, a key and roles; each pinned, each ended when its context ends."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import host
from benchmarks.environments import ROOT, WORK, environment, program

STUB_PORT: Final = 18200
STUB_SOCKET: Final = Path(tempfile.gettempdir()) / f"daulat-benchmark-{os.getuid()}"
"""The same stub's Unix socket; not in `WORK`, whose path may be longer than a socket's can be."""
MASTER_KEY: Final = "sk-benchmark"
_START_SECONDS: Final = 120


@dataclass
class Server:
    """One of those compared. `roles`: what its processes do, by process id."""

    name: str
    port: int
    key: str = ""
    roles: dict[str, list[int]] = field(default_factory=dict)
    streams: int = 0  # the port for event streams, where it is another

    @property
    def stream_port(self) -> int:
        return self.streams or self.port

    @property
    def processes(self) -> list[int]:
        return [pid for pids in self.roles.values() for pid in pids]

    def place(self, cores: Mapping[str, Sequence[int]], default: Sequence[int]) -> None:
        """Pin each role where `cores` says, all others to `default`."""
        for role, pids in self.roles.items():
            for pid in pids:
                host.pin(pid, cores.get(role, default))


@contextmanager
def _process(
    name: str, port: int, command: Sequence[str | Path], core: int | None, environ: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start it on a core with its own session, its words in a file; end it, and what it started, at the end."""
    with socket.socket() as probe:  # one left behind would answer in its place, or take a part of what is asked
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RuntimeError(f"{name} cannot have port {port}: {error.strerror}. Is another run going?") from None
    log = WORK / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=output, cwd=ROOT, env={**os.environ, **(environ or {})}
        )
    if core is not None:
        host.pin(process.pid, [core])
    try:
        yield process
    finally:
        below = host.descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], port: int, path: str, key: str = "") -> None:
    end = time.monotonic() + _START_SECONDS
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}; see {WORK}/*.log")
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", path, headers=headers)
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} does not answer; see {WORK}/*.log")


@contextmanager
def stub(chunks: int = 100, period_ms: int = 5, port: int = STUB_PORT) -> Iterator[Server]:
    """The engine that computes nothing, on the load's core; on TCP and on a Unix socket."""
    command: list[str | Path] = [program("stub"), f"{port},{STUB_SOCKET}", str(chunks), str(period_ms)]
    try:
        with _process("stub", port, command, host.LOAD_CORE) as process:
            _wait(process, port, "/v1/models")
            yield Server("direct", port, roles={"engine": [process.pid]})
    finally:
        STUB_SOCKET.unlink(missing_ok=True)


@contextmanager
def nginx(port: int = 18300, *, tcp: bool = False) -> Iterator[Server]:
    """nginx as a bare reverse proxy with pooled connections, else as it comes: what forwarding itself costs.

    Streams have a port of their own, without the buffering that would hold events back.
    """
    name, engine = ("nginx-tcp", f"127.0.0.1:{STUB_PORT}") if tcp else ("nginx", f"unix:{STUB_SOCKET}")
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    places = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; {places} keepalive_requests 100000000;
  upstream engine {{ server {engine}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://engine; }}
  }}
  server {{
    listen 127.0.0.1:{port + 1};
    location / {{
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_pass http://engine;
    }}
  }}
}}""")
    command: list[str | Path] = ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with _process(name, port, command, host.PROXY_CORE) as process:
        _wait(process, port, "/v1/models")
        yield Server(
            name, port, roles={"worker": host.descendants(process.pid), "master": [process.pid]}, streams=port + 1
        )


@contextmanager
def vllm_router(policy: str = "cache_aware", port: int = 18400) -> Iterator[Server]:
    """vLLM's router (Rust) with one engine, quiet; "cache_aware" is its default policy, "round_robin" its cheapest."""
    command: list[str | Path] = [environment("vllm-router") / "vllm-router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", f"http://127.0.0.1:{STUB_PORT}", "--policy", policy, "--log-level", "error"]
    command += ["--worker-startup-check-interval", "1", "--prometheus-port", str(port + 1)]
    name = f"vllm-router-{policy}"
    with _process(name, port, command, host.PROXY_CORE) as process:
        _wait(process, port, "/v1/models")
        yield Server(name, port, roles={"router": [process.pid, *host.descendants(process.pid)]})


@contextmanager
def litellm(port: int = 18500) -> Iterator[Server]:
    """LiteLLM's proxy with a master key and no database."""
    folder = WORK / "litellm"
    folder.mkdir(parents=True, exist_ok=True)
    model = {"model": "openai/stub", "api_base": f"http://127.0.0.1:{STUB_PORT}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "stub", "litellm_params": model}],
        "general_settings": {"master_key": MASTER_KEY},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": MASTER_KEY, "LITELLM_LOG": "ERROR"}
    command: list[str | Path] = [environment("litellm") / "litellm", "--config", folder / "config.yaml"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    with _process("litellm", port, command, host.PROXY_CORE, environ) as process:
        _wait(process, port, "/health/liveliness", MASTER_KEY)
        yield Server("litellm", port, MASTER_KEY, {"proxy": [process.pid, *host.descendants(process.pid)]})


@contextmanager
def daulat(workers: int = 1, port: int = 18600, tenants: int = 0, *, tcp: bool = False) -> Iterator[Server]:
    """A fresh installation of Daulat with every control on, and so many tenants more, with limits (`serve.py`)."""
    home = home_of(workers, tenants, tcp=tcp)
    shutil.rmtree(home, ignore_errors=True)
    engine = f"tcp:127.0.0.1:{STUB_PORT}" if tcp else f"unix:{STUB_SOCKET}"
    command = [sys.executable, "-m", "benchmarks.serve", str(home), engine, str(port), str(workers), str(tenants)]
    name = home.name.replace("home", "daulat")
    with _process(name, port, command, host.PROXY_CORE) as process:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise RuntimeError(f"Daulat did not start; see {WORK}/{name}.log and {home}/daulat.log")
        server = Server("daulat", port, json.loads(line)["api_key"], {"control": [process.pid]})
        for pid in host.descendants(process.pid):
            name = host.command(pid).partition("daulat.processes.")[2].partition(" ")[0] or "helper"
            server.roles.setdefault(name, []).append(pid)
        _wait(process, port, "/readyz")
        yield server
    shutil.rmtree(home, ignore_errors=True)


def home_of(workers: int = 1, tenants: int = 0, *, tcp: bool = False) -> Path:
    """Where `daulat` keeps its state while it runs."""
    return WORK / f"home-{workers}{f'-{tenants}' if tenants else ''}{'-tcp' if tcp else ''}"

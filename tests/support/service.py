"""`daulat up` as an operator runs it: a process of its own, with the real engine in its real sandbox."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

LONG_SECONDS = 180.0  # for what takes a second or two: no test fails because a machine is slow
_PORTS = range(20_000, 32_000)  # below those that the kernel gives to connections, which come and go
_SPENT = 0.3  # processor seconds, for a look at how busy the machine is
_chance = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """One that nobody listens on, and that nobody is given by chance before it is used."""
    while True:
        port = _chance.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def slowness() -> float:
    """How often longer than alone something takes here now, beside whatever else runs: at least 1."""
    began, spent = time.monotonic(), time.process_time()
    while time.process_time() - spent < _SPENT:
        pass
    return max(1.0, (time.monotonic() - began) / _SPENT)


def daulat(*arguments: str, home: Path | None = None, code: int | None = 0, seconds: float = 300) -> Any:
    """Run a verb with --json; its value, or what it said on stderr where it is expected to fail."""
    environment = {**os.environ, **({} if home is None else {"DAULAT_HOME": str(home)})}
    done = subprocess.run(
        [sys.executable, "-m", "daulat", *arguments, "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=seconds,
    )
    assert code is None or done.returncode == code, f"exit {done.returncode}: {done.stdout}\n{done.stderr}"
    if done.returncode and not done.stdout.strip():
        return done.stderr
    return json.loads(done.stdout)


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and command line by pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[int(folder.name)] = (parent, line)
    return found


@dataclass
class Service:
    """One home, started as often as a test likes. Secrets are those of the first start."""

    home: Path
    port: int = field(default_factory=free_port)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # of the last start
    first: float = 0.0  # of the one that made the home
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    python: tuple[str, ...] = (sys.executable,)  # with what stands before it, such as `setpriv`

    def start(self, *arguments: str) -> dict[str, Any]:
        """Until it says it is ready; how long that took is in `seconds`."""
        began = time.monotonic()
        errors = (self.home.parent / f"{self.home.name}.stderr").open("ab")
        command = [*self.python, "-m", "daulat", "up", "--json", "--home", str(self.home), "--port", str(self.port)]
        environment = {**os.environ, **self.environment}
        with errors:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=subprocess.PIPE, stderr=errors, env=environment
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.home.parent / f"{self.home.name}.stderr").read_text()
        self.seconds = time.monotonic() - began
        self.first = self.first or self.seconds
        found = json.loads(line)
        self.facts = {**self.facts, **{name: value for name, value in found.items() if value is not None}}
        return dict(found)

    def stop(self, number: int = signal.SIGINT) -> int:
        """The exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(LONG_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def left_running(self) -> list[str]:
        """Command lines that name this home."""
        return [line for pid, (_, line) in _processes().items() if str(self.home) in line and pid != os.getpid()]

    def engines(self) -> list[int]:
        """The pids of this home's engines: inside, nothing names the home, but the sandbox around them does."""
        processes = _processes()
        return [
            pid
            for pid, (parent, line) in processes.items()
            if "/daulat/engine.py" in line
            and not line.startswith("bwrap")
            and str(self.home) in processes.get(parent, (0, ""))[1]
        ]

    def status(self) -> dict[str, Any]:
        return dict(daulat("status", home=self.home, code=None))

    def client(self, seconds: float = 120.0) -> httpx.Client:
        """A client of the API with the first start's key; paths are relative to `/v1/`."""
        headers = {"authorization": f"Bearer {self.facts['api_key']}"}
        return httpx.Client(base_url=f"{self.facts['url']}/v1/", headers=headers, timeout=seconds, trust_env=False)

    def entries(self, type_: str) -> list[dict[str, Any]]:
        """The log's entries of one type, oldest first."""
        return list(daulat("log", "show", "--type", type_, "--last", "1000", home=self.home))

    def wait(self, condition: Any, seconds: float = LONG_SECONDS) -> Any:
        """Until `condition()` is true; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s; the log ends: {(self.home / 'daulat.log').read_text()[-3000:]}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        """Everything ends with the process that `start` started."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(LONG_SECONDS)
            if self.process.stdout is not None:
                self.process.stdout.close()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """For a service that was started with arguments."""
        try:
            yield
        finally:
            self.__exit__()


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below, while a service may be writing there: what goes before it is read was not to stay."""
    for where, _, names in os.walk(folder):
        for path in (Path(where, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    yield path, path.read_bytes()


@contextlib.contextmanager
def two_slots(folder: Path) -> Iterator[Service]:
    """A running service in `folder`/home with two slots an engine and a short context: what operators do is quick."""
    made = Service(folder / "home", environment={"DAULAT_CANARY_SECONDS": "5", "DAULAT_CONTEXT": "512"})
    made.start("--slots", "2")
    with made.closing():
        yield made

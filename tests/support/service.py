"""`daulat up` as an operator runs it: a process of its own, with the real engine in its real sandbox."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

START_SECONDS = 180.0  # the first start downloads the starter model


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def daulat(*arguments: str, home: Path | None = None, code: int | None = 0) -> Any:
    """Run a verb with --json; its value, or what it said on stderr where it is expected to fail."""
    environment = {**os.environ, **({} if home is None else {"DAULAT_HOME": str(home)})}
    done = subprocess.run(
        [sys.executable, "-m", "daulat", *arguments, "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )
    assert code is None or done.returncode == code, f"exit {done.returncode}: {done.stdout}\n{done.stderr}"
    if done.returncode and not done.stdout.strip():
        return done.stderr
    return json.loads(done.stdout)


@dataclass
class Service:
    """One home, started as often as a test likes. Secrets are those of the first start."""

    home: Path
    port: int = field(default_factory=free_port)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> dict[str, Any]:
        """Until it says it is ready; how long that took is in `seconds`."""
        began = time.monotonic()
        errors = (self.home.parent / f"{self.home.name}.stderr").open("ab")
        command = [sys.executable, "-m", "daulat", "up", "--json", "--home", str(self.home), "--port", str(self.port)]
        with errors:
            self.process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=errors)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.home.parent / f"{self.home.name}.stderr").read_text()
        self.seconds = time.monotonic() - began
        found = json.loads(line)
        self.facts = {**self.facts, **{name: value for name, value in found.items() if value is not None}}
        return dict(found)

    def stop(self, number: int = signal.SIGINT) -> int:
        """The exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def left_running(self) -> list[str]:
        """Command lines that name this home."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.home) in line and str(os.getpid()) != path.parent.name:
                found.append(line)
        return found

    def status(self) -> dict[str, Any]:
        return dict(daulat("status", home=self.home, code=None))

    def wait(self, condition: Any, seconds: float = 60.0) -> Any:
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
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            if self.process.stdout is not None:
                self.process.stdout.close()

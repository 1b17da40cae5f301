"""Vendors' tools as programs: found by an absolute path, run without a shell, for a while, up to a size."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SECONDS: Final = 20.0  # npu-smi waits long for a die that does not answer
LIMIT: Final = 2**20
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH")
_PLACES: Final = {
    "npu-smi": ("/usr/local/bin", "/usr/local/sbin", "/usr/local/Ascend/driver/tools"),
    "hccn_tool": ("/usr/local/Ascend/driver/tools", "/usr/local/bin"),
    "nvidia-smi": ("/usr/bin", "/usr/lib/wsl/lib"),
    "rocm-smi": ("/opt/rocm/bin", "/usr/bin"),
    "amd-smi": ("/opt/rocm/bin", "/usr/bin"),
}


@dataclass(slots=True)
class Tools:
    """Runs tools. One that once did not answer is not asked again: it would only hang once more."""

    seconds: float = SECONDS
    silent: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        """The tool's absolute path, from PATH or where its vendor puts it."""
        found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_PLACES.get(name, ()))))
        return None if found is None else Path(found).absolute()

    def run(self, name: str, *arguments: str) -> str | None:
        """What a tool says on both its outputs; `None` where it is not there or hangs (`silent` says so)."""
        path = self.find(name)
        if path is None or name in self.silent:
            return None
        try:
            return self._read([str(path), *arguments], name)
        except OSError as error:
            self.silent[name] = f"{path} cannot be run: {error.strerror}"
            return None

    def _read(self, argv: list[str], name: str) -> str | None:
        environment = {key: os.environ[key] for key in _KEPT if key in os.environ} | {"LC_ALL": "C"}
        deadline = time.monotonic() + self.seconds
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None  # noqa: S101  it was asked for
            said = bytearray()
            while (left := deadline - time.monotonic()) > 0 and len(said) <= LIMIT:
                if not select.select([process.stdout], [], [], left)[0]:
                    break
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    process.wait(max(0.1, left))
                    return said.decode(errors="replace")
                said += piece
            os.killpg(process.pid, signal.SIGKILL)
        why = f"did not answer in {self.seconds:g} s" if len(said) <= LIMIT else "says more than 1 MiB"
        self.silent[name] = f"`{name} {' '.join(argv[1:])}` {why}"
        return None

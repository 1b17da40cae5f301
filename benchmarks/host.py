"""The machine: which process runs on which core, what each used, and what else was going on meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

_TICK: Final = os.sysconf("SC_CLK_TCK")
LOAD_CORE: Final = 0
PROXY_CORE: Final = 1


def pin(pid: int, cores: Iterable[int]) -> None:
    """Move every thread of a process; those it starts later inherit."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cores)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes, all threads, also ended ones."""
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError):
            fields = _stat(pid)
            total += int(fields[11]) + int(fields[12])
    return total / _TICK


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = parents.get(queue.pop(), [])
        found += below
        queue += below
    return found


def command(pid: int) -> str:
    """Its command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def rss_mib(pid: int) -> float:
    """Resident memory now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def _cores() -> dict[str, dict[str, float]]:
    found = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name.startswith("cpu"):
            user, nice, system, idle, wait, irq, soft, steal, *_ = (int(value) / _TICK for value in values)
            busy = user + nice + system + irq + soft
            found[name] = {"busy": busy, "idle": idle + wait, "steal": steal}
    return found


@dataclass
class Window:
    """What was used between `with` and its end: by groups of processes, by us, and by everybody else."""

    groups: dict[str, list[int]]
    result: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._began, self._cores, self._own = time.monotonic(), _cores(), self._ours()
        self._used = {name: cpu_seconds(pids) for name, pids in self.groups.items()}
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.monotonic() - self._began
        now, before = _cores(), self._cores
        used = {name: cpu_seconds(pids) - self._used[name] for name, pids in self.groups.items()}
        busy = now["cpu"]["busy"] - before["cpu"]["busy"]
        self.result = {
            "wall_seconds": round(wall, 3),
            "cpu_seconds": {name: round(value, 3) for name, value in used.items()},
            "other_cores": round(max(0.0, busy - sum(used.values()) - (self._ours() - self._own)) / wall, 3),
            "steal_cores": round((now["cpu"]["steal"] - before["cpu"]["steal"]) / wall, 3),
            "load_average": os.getloadavg()[0],
        }

    @staticmethod
    def _ours() -> float:
        """This process and its ended children, the load generators."""
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


def describe(folder: Path) -> dict[str, Any]:
    """The machine as far as a reader of figures needs it, with the cost of making 4 KB durable in `folder`."""
    known = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in known if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "fdatasync_us": _fdatasync_us(folder),
    }


def _fdatasync_us(folder: Path) -> int:
    path = folder / "fdatasync"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        times = []
        for number in range(200):
            os.pwrite(descriptor, os.urandom(4096), number * 4096)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - began)
        return round(statistics.median(times) * 1e6)
    finally:
        os.close(descriptor)
        path.unlink()

"""The machine: which process runs on which core, what each used, and what else was going on meanwhile."""

from __future__ import annotations

import math
import os
import platform
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

_TICK: Final = os.sysconf("SC_CLK_TCK")
LOAD_CORE: Final = 0
PROXY_CORE: Final = 1
_BETWEEN_SECONDS: Final = 0.1  # two looks at a core's pace
_FEW: Final = 5  # looks, of which the median is nobody's luck


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


class Pace:
    """How fast a core is, against the fastest that it has been for a second: 1 or so, or less. One whose silicon does
    another machine's work beside ours does a third less, from one second to the next, and nothing in /proc says so."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._fastest = math.inf  # seconds of a fixed piece of work, a median

    def wait(self, least: float, seconds: float) -> None:
        """Until it has been that for a second, or so many seconds are over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self.watched() as seen:
                time.sleep(1.0)
            if seen() >= least:
                return

    @contextmanager
    def watched(self) -> Iterator[Callable[[], float]]:
        """The mean of it, for whoever asks behind the `with`. It takes a quarter of a per cent of the core; what else
        runs there is not counted."""
        works: list[float] = []
        over = threading.Event()

        def watch() -> None:
            os.sched_setaffinity(0, {self._core})  # of this thread
            while not over.wait(_BETWEEN_SECONDS):
                works.append(_work())

        def mean() -> float:
            known = works and self._fastest < math.inf
            return statistics.fmean(self._fastest / seconds for seconds in works) if known else 1.0

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield mean
        finally:
            over.set()
            thread.join()
            if len(works) >= _FEW:
                self._fastest = min(self._fastest, statistics.median(works))


def _work() -> float:
    """Seconds of the processor that a fixed piece of work takes."""
    began, total = time.thread_time(), 0
    for number in range(10_000):
        total += number
    return time.thread_time() - began


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

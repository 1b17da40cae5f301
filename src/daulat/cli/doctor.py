"""`daulat doctor`: check this machine before, or while, it serves."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import click

from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.settings import Home, load

Verdict = Literal["good", "weak", "bad"]
_MARK: Final = {"good": "ok  ", "weak": "weak", "bad": "BAD "}
_DISK_WEAK: Final = 4 * 2**30
_DISK_BAD: Final = 512 * 2**20
_MEMORY_WEAK: Final = 2 * 2**30
_FSYNC_WEAK: Final = 0.020  # seconds: a group commit, and so every first byte, waits for one
_YEAR_2026: Final = 1_767_225_600


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was seen, and what to do when it is not good."""

    name: str
    verdict: Verdict
    seen: str
    advice: str = ""


@click.command()
@home_option
@json_option
def doctor(home: Home, as_json: bool) -> None:
    """Check sandbox, sockets, disk, time, memory and model, and grade this machine.

    The grade is the evidence grade that this machine can reach alone: G2 when engines can be sandboxed and probed, else
    G1. Exits with 1 when something is bad.

    \b
    Example:
        daulat doctor
        daulat doctor --json --home /srv/daulat
    """
    checks = [check for look in _LOOKS for check in look(home)]
    grade = next((c.seen.split(":")[0] for c in checks if c.name == "sandbox" and c.verdict == "good"), "G1")
    bad = sum(check.verdict == "bad" for check in checks)
    lines = [
        f"{_MARK[c.verdict]}  {c.name:<9} {c.seen}" + (f"\n      -> {c.advice}" if c.advice else "") for c in checks
    ]
    lines.append(
        f"\nThis machine can reach grade {grade} by itself." + (f" {bad} of {len(checks)} checks are bad." * bool(bad))
    )
    emit(
        {"grade": grade, "good": bad == 0, "checks": [asdict(c) for c in checks]},
        as_json=as_json,
        text="\n".join(lines),
    )
    sys.exit(1 if bad else 0)


def _python(_home: Home) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "good", f"{version} at {sys.prefix}")


def _sandbox(_home: Home) -> Iterator[Check]:
    from daulat.adapters import sandbox

    report = sandbox.check()
    if report.grade == "G2":
        yield Check("sandbox", "good", f"{report.grade}: {report.detail}")
    else:
        yield Check("sandbox", "bad", f"{report.grade}: {report.detail}", report.advice)


def _sockets(home: Home) -> Iterator[Check]:
    settings = load(home, {})
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            running = home.control_socket.exists()
            yield Check(
                "sockets",
                "good" if running else "bad",
                f"{settings.host}:{settings.port} is taken" + (" (by this installation)" if running else ""),
                "" if running else f"{error.strerror}: choose another one, daulat up --port N",
            )
        else:
            yield Check("sockets", "good", f"{settings.host}:{settings.port} is free")
    if not hasattr(socket, "SO_REUSEPORT"):
        yield Check("sockets", "bad", "no SO_REUSEPORT", "Daulat needs Linux 3.9 or newer")


def _disk(home: Home) -> Iterator[Check]:
    folder = next(path for path in (home.path, *home.path.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    verdict: Verdict = "bad" if free < _DISK_BAD else "weak" if free < _DISK_WEAK else "good"
    yield Check("disk", verdict, f"{free / 2**30:.1f} GiB free at {folder}", "" if verdict == "good" else "make room")
    if not os.access(folder, os.W_OK):
        yield Check("disk", "bad", f"{folder} is not writable", "choose another --home, or change its owner")
        return
    seconds = _fsync_seconds(folder)
    slow = seconds > _FSYNC_WEAK
    advice = "answers wait for this: put --home on a faster disk" if slow else ""
    yield Check("disk", "weak" if slow else "good", f"a durable write takes {seconds * 1000:.2f} ms", advice)


def _fsync_seconds(folder: Path, rounds: int = 9) -> float:
    path = folder / f".daulat-doctor-{os.getpid()}"
    taken = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    try:
        for _ in range(rounds):
            start = time.perf_counter()
            os.write(descriptor, b"\0" * 4096)
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - start)
    finally:
        os.close(descriptor)
        path.unlink()
    return sorted(taken)[rounds // 2]


def _time(_home: Home) -> Iterator[Check]:
    if time.time() < _YEAR_2026:
        yield Check("time", "bad", time.strftime("the clock says %Y-%m-%d"), "set it, and run an NTP client")
        return
    synchronised = Path("/run/systemd/timesync/synchronized").exists() or shutil.which("chronyc") is not None
    seen = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    advice = "" if synchronised else "no NTP client seen; leases and promises depend on the clock"
    yield Check("time", "good" if synchronised else "weak", seen, advice)


def _memory(_home: Home) -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    weak = memory.available < _MEMORY_WEAK
    seen = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available, {os.cpu_count()} cores"
    yield Check("memory", "weak" if weak else "good", seen, "the starter model needs about 1 GiB" if weak else "")


def _model(home: Home) -> Iterator[Check]:
    settings = load(home, {})
    if settings.model:
        exists = Path(settings.model).is_file()
        advice = "" if exists else "no such file: correct `model` in settings.toml or --model"
        yield Check("model", "good" if exists else "bad", settings.model, advice)
        return
    stored = sorted(home.models.glob("*/*.gguf")) if home.models.exists() else []
    seen = f"{len(stored)} in {home.models}" if stored else "none yet; `daulat up` fetches the starter model"
    yield Check("model", "good", seen)


_LOOKS: Final[tuple[Callable[[Home], Iterator[Check]], ...]] = (
    _python,
    _sandbox,
    _sockets,
    _disk,
    _time,
    _memory,
    _model,
)

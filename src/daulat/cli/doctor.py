"""`daulat doctor`: check this machine before, or while, it serves."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import click

from daulat.adapters import rpc
from daulat.cli import emit
from daulat.cli.options import home_option, json_option
from daulat.core import charter
from daulat.core.files import text_of
from daulat.errors import DaulatError, Unavailable
from daulat.settings import Home, Settings, load

Verdict = Literal["good", "weak", "bad"]
_MARK: Final = {"good": "ok  ", "weak": "weak", "bad": "BAD "}
_DISK_WEAK: Final = 4 * 2**30
_DISK_BAD: Final = 512 * 2**20
_MEMORY_WEAK: Final = 2 * 2**30
_FSYNC_WEAK: Final = 0.020  # seconds: a group commit, and so every first byte, waits for one
_YEAR_2026: Final = 1_767_225_600
_ENGINE: Final = "xllamacpp"
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES: Final = 512  # more than `struct timex` has anywhere


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
    checks = [check for name, look in _LOOKS.items() for check in _guarded(name, look, home)]
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


def _guarded(name: str, look: Callable[[Home], Iterator[Check]], home: Home) -> list[Check]:
    """Whatever a look stumbles over is a finding, and the others go on."""
    try:
        return list(look(home))
    except (DaulatError, OSError) as error:
        return [Check(name, "bad", str(error), "mend that, then look again")]


def _python(_home: Home) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "good", f"{version} at {sys.prefix}")
    if importlib.util.find_spec(_ENGINE) is None:
        yield Check("python", "bad", "the serving install is missing", "pip install 'daulat[serve]', or make up")


def _sandbox(_home: Home) -> Iterator[Check]:
    from daulat.adapters import sandbox

    report = sandbox.check()
    good = report.grade == "G2"
    yield Check("sandbox", "good" if good else "bad", f"{report.grade}: {report.detail}", report.advice)


def _settings(home: Home) -> Iterator[Check]:
    load(home, {})
    if not home.charter.exists():
        yield Check("charter", "good", "none yet; `daulat up` writes a starter charter")
        return
    found = charter.parse(text_of(home.charter), location=str(home.charter))
    starter = found.profile == "evaluation"
    advice = "a starter charter: fine to try, and every receipt says so" if starter else ""
    yield Check("charter", "weak" if starter else "good", f"profile {found.profile}, {found.country}", advice)


def _sockets(home: Home) -> Iterator[Check]:
    settings = _settings_or_defaults(home)
    running = _running(home)
    if running is not None:
        yield Check("sockets", "good", f"{running['url']} is served by this installation")
        return
    address = f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            advice = "choose another one: daulat up --port N, or `port` in settings.toml"
            yield Check("sockets", "bad", f"{address}: {error.strerror}", advice)
        else:
            yield Check("sockets", "good", f"{address} is free")


def _running(home: Home) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = rpc.call(home.control_socket, "status", timeout=5.0)
    except Unavailable:
        return None
    return found


def _settings_or_defaults(home: Home) -> Settings:
    """What is wrong with them is another check's finding."""
    try:
        return load(home, {})
    except DaulatError:
        return Settings()


def _disk(home: Home) -> Iterator[Check]:
    folder = next(path for path in (home.path, *home.path.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    verdict: Verdict = "bad" if free < _DISK_BAD else "weak" if free < _DISK_WEAK else "good"
    advice = "" if verdict == "good" else "make room: answers stop before the disk is full"
    yield Check("disk", verdict, f"{free / 2**30:.1f} GiB free at {folder}", advice)
    if not os.access(folder, os.W_OK | os.X_OK):
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
    seen = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if _synchronised():
        yield Check("time", "good", seen)
    else:
        yield Check(
            "time", "weak", seen, "the kernel says that no NTP client keeps it; leases and promises depend on it"
        )


def _synchronised() -> bool:
    """What the kernel knows, whichever client keeps the clock: `adjtimex` that reads only."""
    return ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) not in {-1, _TIME_ERROR}


def _memory(_home: Home) -> Iterator[Check]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    available, total = kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
    weak = available < _MEMORY_WEAK
    seen = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB available, {os.cpu_count()} cores"
    yield Check("memory", "weak" if weak else "good", seen, "the starter model needs about 1 GiB" if weak else "")


def _model(home: Home) -> Iterator[Check]:
    from daulat.adapters.models import ModelStore

    wanted, store = _settings_or_defaults(home).model, ModelStore(home.models)
    if wanted:
        seen = wanted if Path(wanted).is_file() else f"{wanted}, {store.find(wanted).digest[:12]}"
        yield Check("model", "good", seen)
        return
    names = ", ".join(facts.name for facts in store.all())
    yield Check("model", "good", names or "none yet; `daulat up` fetches the starter model")


def _deployments(home: Home) -> Iterator[Check]:
    """Of a running service: does what is wished for run?"""
    from daulat.cli.status import deployment_line

    deployments = (_running(home) or {}).get("deployments", [])
    if not deployments:
        yield Check("replicas", "good", "none is to run now")
    for found in deployments:
        enough, progress = (said["status"] == "True" for said in found["status"]["conditions"])
        answering = found["status"]["ready_replicas"] or not found["spec"]["replicas"]
        verdict: Verdict = "good" if enough and progress else "weak" if answering else "bad"
        advice = "" if verdict == "good" else "`daulat replicas` and `daulat logs REPLICA` say more"
        yield Check("replicas", verdict, deployment_line(found), advice)


def _operators(home: Home) -> Iterator[Check]:
    """Of a running service: will there still be enough of them to agree?"""
    warnings = (_running(home) or {}).get("warnings", [])
    if not warnings:
        yield Check("operators", "good", "none that has to be renewed within 60 days is known")
    for words in warnings:
        yield Check(
            "operators",
            "weak",
            words,
            "renew them while enough may sign: there is no way afterwards (docs/operators.md)",
        )


_LOOKS: Final[dict[str, Callable[[Home], Iterator[Check]]]] = {
    "python": _python,
    "sandbox": _sandbox,
    "charter": _settings,
    "sockets": _sockets,
    "disk": _disk,
    "time": _time,
    "memory": _memory,
    "model": _model,
    "replicas": _deployments,
    "operators": _operators,
}

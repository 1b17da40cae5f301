"""What a run needs and the repository does not hold: the peers' environments and two compiled C programs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
VENVS: Final = HERE / ".venvs"
WORK: Final = HERE / ".work"  # on the repository's disk, not in /tmp: a journal in memory would make fsync free
RESULTS: Final = HERE / "results"


def environment(name: str) -> Path:
    """The `bin` folder of the pinned environment `name`; made on first use and whenever its pins change."""
    pins = HERE / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    folder = VENVS / name
    stamp = folder / "stamp"
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"Installing {pins.name} into an environment of its own ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install"]
        pip += ["--quiet", "--no-deps", "-r", pins]
        WORK.mkdir(parents=True, exist_ok=True)
        log = WORK / f"pip-{name}.log"
        with log.open("wb") as output:
            if subprocess.run(pip, check=False, stdout=output, stderr=output).returncode:
                raise RuntimeError(f"pip failed; see {log}")
        stamp.write_text(digest)
    return folder / "bin"


def version(name: str, package: str) -> str:
    """The pinned version of `package` in the environment `name`."""
    for line in (HERE / "requirements" / f"{name}.txt").read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.partition("==")[2].split(";")[0].strip()
    return "?"


def program(name: str) -> Path:
    """`native/<name>.c`, compiled for this machine."""
    source, binary = HERE / "native" / f"{name}.c", WORK / "bin" / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        binary.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-o", binary, source, "-lm"], check=True)
    return binary

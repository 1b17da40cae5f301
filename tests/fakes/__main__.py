"""Describe a machine and put its tools into a folder: `python -m tests.fakes FOLDER --machine a3 --fault hot:3`.

The folder gets `bin/npu-smi`, `bin/hccn_tool` (or `bin/nvidia-smi`), to be put on PATH, and `dev/davinciN`. They answer
from `machine.json`, which is read anew each time: running this again changes the machine under whoever watches it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.fakes import machine

HERE = Path(__file__).parent
TOOLS = {"ascend": ("npu-smi", "hccn_tool"), "nvidia": ("nvidia-smi",)}


def install(folder: Path, kind: str, faults: tuple[str, ...] = ()) -> Path:
    """Make, or change, the machine in `folder`; its `bin`."""
    described = machine.describe(kind, faults)
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "dev").mkdir(exist_ok=True)
    for old in (folder / "dev").iterdir():
        old.unlink()
    for number in described["files"]:
        (folder / "dev" / f"davinci{number}").touch()
    if described["files"]:
        (folder / "dev" / "davinci_manager").touch()
    _replace(folder / "machine.json", json.dumps(described))
    for tool in TOOLS[described["vendor"]]:
        command = f'exec "{sys.executable}" -I -S "{HERE / "run.py"}" {tool} "{folder / "machine.json"}" "$@"'
        _replace(folder / "bin" / tool, f"#!/bin/sh\n{command}\n")
    return folder / "bin"


def _replace(path: Path, text: str) -> None:
    """All at once: whoever watches the machine reads the old one or the new one."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.chmod(0o755)
    beside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--machine", choices=sorted(machine.KINDS), default="a3")
    parser.add_argument("--fault", action="append", default=[], help=", ".join(machine.FAULTS) + "; NAME:PHYSICAL_ID")
    arguments = parser.parse_args()
    install(arguments.folder.absolute(), arguments.machine, tuple(arguments.fault))


if __name__ == "__main__":
    main()

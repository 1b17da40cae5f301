"""An engine's own Python, named by the operator: what of it must be visible inside a sandbox."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daulat.errors import ConfigError

_SECONDS: Final = 20.0
# Neither the environment's own packages nor its start-up hooks run: nothing of it runs outside a sandbox.
_ASK: Final = """
import json, sys, sysconfig
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "base": getattr(sys, "_base_executable", None) or sys.executable,
    "folders": [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")],
}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python by real paths: its executable, its standard library's folders, and where its packages lie."""

    executable: Path
    libraries: tuple[Path, ...]
    packages: Path


def look(python: Path) -> Interpreter:
    """Ask `python`, the one of a virtual environment or not.

    Raises:
        ConfigError: it is none, or has no folder of packages.
    """
    location = str(python)
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _ASK], capture_output=True, timeout=_SECONDS, check=True, text=True
        )
        said = json.loads(done.stdout)
        version, base, folders = str(said["version"]), str(said["base"]), [Path(name) for name in said["folders"]]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        raise ConfigError(
            "is no Python that can be run; name one as /path/of/venv/bin/python", location=location
        ) from None
    environment = python.absolute().parent.parent
    own = (environment / "pyvenv.cfg").is_file()
    packages = environment / "lib" / f"python{version}" / "site-packages" if own else folders[0] / "site-packages"
    if not packages.is_dir():
        raise ConfigError(f"has no packages at {packages}; install the engine there", location=location)
    return Interpreter(Path(os.path.realpath(base)), tuple(folder.parent for folder in folders), packages.resolve())

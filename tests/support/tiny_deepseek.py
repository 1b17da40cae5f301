"""The tiny DeepSeek that `make deepseek` builds: where it stands, and building it where it does not.

It is cached by what it is made of: the scripts, the lock of their environment and the plain text of the answer checks.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ROOT / "tests" / "deepseek"
CACHE: Final = ROOT / ".cache" / "deepseek"
NAME: Final = "tiny-deepseek"
_ALSO: Final = (ROOT / "requirements/deepseek.lock", ROOT / "src/daulat/engines/passage.py")
_MINUTES: Final = 12


def folder() -> Path:
    """Holds what `tests.deepseek.build` makes, once it is built."""
    running = hashlib.sha256()
    for path in (*sorted(SOURCES.glob("[!t]*.py")), SOURCES / "train.py", SOURCES / "template.jinja", *_ALSO):
        running.update(path.read_bytes())
    return CACHE / running.hexdigest()[:16]


def gguf() -> Path:
    return folder() / f"{NAME}.gguf"


def sparse() -> Path:
    """The same model as a DeepSeek-V3.2."""
    return folder() / f"{NAME}-sparse.gguf"


def layout() -> Path:
    """The same model in Hugging Face's layout."""
    return folder() / "hf"


def build(python: str) -> Path:
    """Build it with that interpreter, whole or not at all."""
    final = folder()
    if final.exists():
        return final
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=CACHE) as name:
        made = Path(name) / "made"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'src'}", "HF_HUB_OFFLINE": "1"}
        command = [python, "-m", "deepseek.build", str(made)]
        subprocess.run(command, env=environment, check=True, timeout=_MINUTES * 60)
        made.rename(final)
    return final


if __name__ == "__main__":
    sys.stdout.write(f"{build(sys.argv[1])}\n")

"""`daulat model import`, killed for good again and again, wherever it happens to be, and asked for again each time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import gguf_files, model_folders

from daulat.adapters.model_copy import Staging
from daulat.adapters.models import ModelStore
from daulat.core import manifest
from daulat.core.manifest import ModelFile

# The real command, with a state noted every 64 KiB instead of every 256 MiB: a small model then has as many places to
# be killed at as a large one.
PROGRAM = """
import sys
from daulat.adapters import model_copy
model_copy.PIECE, model_copy._STATE_EVERY = 16_384, 65_536
sys.argv = ["daulat", *sys.argv[1:]]
from daulat.cli import main
main()
"""
KILLS = 6


def folder(source: Path) -> tuple[Path, str]:
    """A model of three shards of a few MiB, and its digest."""
    big = {f"layer.{number}": ("F32", (512, 256 * (number + 1))) for number in range(3)}
    shards = {
        f"model-{number + 1:05}-of-00003.safetensors": model_folders.safetensors({name: kind}, fill=number + 1)
        for number, (name, kind) in enumerate(big.items())
    }
    changes = {name: None for name in model_folders.contents() if "safetensors" in name}
    files = model_folders.contents(**changes, **shards)
    listed = [ModelFile(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()]
    return model_folders.write(source, files), manifest.digest(listed)


def single(source: Path) -> tuple[Path, str]:
    data = gguf_files.make(gguf_files.KEYS, {"w": (32, 40_000)})
    source.mkdir()
    (source / "big.gguf").write_bytes(data)
    return source / "big.gguf", hashlib.sha256(data).hexdigest()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def start(home: Path, source: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, "model", "import", str(source), "--home", str(home), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def seen(folder: Path, pattern: str) -> list[Path]:
    """What is there; a folder that goes while it is being read has nothing."""
    try:
        return list(folder.glob(pattern))
    except FileNotFoundError:
        return []


def copied(home: Path, source: Path) -> int:
    """Bytes in the staging folder; files may go while they are counted."""
    found = 0
    for path in seen(Staging(home / "models", source).folder, "*.part"):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def noted(home: Path, source: Path) -> int:
    """How many bytes are known to be durable."""
    states = Staging(home / "models", source).folder.glob("*.state")
    return sum(int(json.loads(path.read_text())["at"]) for path in states)


def kill_once(home: Path, source: Path, digest: str, reached: Callable[[], bool], *options: str) -> bool:
    """Import, and kill that no sooner than `reached`; whether it was still running.

    What was durable is not dropped before the model is in the store, and a model that is there does not go.
    """
    kept = home / "models" / digest / "model.json"
    there, before = kept.exists(), noted(home, source)
    running = start(home, source, *options)
    while running.poll() is None and not reached():
        now = copied(home, source)
        assert now >= before or kept.exists(), "it was begun anew"
        assert kept.exists() or not there, "the model is gone"
    running.send_signal(signal.SIGKILL)
    said = running.communicate()[1]
    assert running.returncode in {0, -signal.SIGKILL}, said.decode()
    assert kept.exists() or not there
    return running.returncode != 0


def moments(home: Path, source: Path, seed: int) -> Iterator[Callable[[], bool]]:
    """When to kill: at random amounts of what is copied; then as the store is written to, at random steps of that."""
    chance = random.Random(seed)  # noqa: S311  the same moments each time
    total = sum(path.stat().st_size for path in ([source] if source.is_file() else source.iterdir()))
    amounts = sorted(chance.randrange(total) for _ in range(KILLS - 2))
    yield from (lambda amount=amount: copied(home, source) > amount for amount in amounts)
    stored = chance.randrange(1, 4)
    yield lambda: len(seen(home / "models/files", "*")) >= stored
    yield lambda: bool(seen(home / "models", ".scratch-*/*"))


def nothing_half_is_seen(home: Path, digest: str) -> None:
    """Whatever the store shows is whole."""
    store = ModelStore(home / "models")
    for facts in store.all():
        assert facts.digest == digest
        store.check(facts.digest)
        assert set(store.papers(facts.digest)) >= {"bom.cdx.json"}


def finish(home: Path, source: Path, *options: str) -> None:
    last = start(home, source, *options)
    said = last.communicate()[1]
    assert last.returncode == 0, said.decode()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [folder, single], ids=["a folder of shards", "one GGUF file"])
def test_an_import_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    home: Path, tmp_path: Path, make: Callable[[Path], tuple[Path, str]], seed: int
) -> None:
    source, digest = make(tmp_path / "source")
    killed = 0
    for reached in moments(home, source, seed):
        killed += kill_once(home, source, digest, reached)
        nothing_half_is_seen(home, digest)
    assert killed > 0
    finish(home, source)
    store = ModelStore(home / "models")
    (facts,) = store.all()
    store.check(digest)
    assert facts.digest == digest
    left = sorted(path.name for path in store.folder.iterdir())
    assert left == sorted([digest, "files"])
    assert all(path.stat().st_nlink == 2 for path in (store.folder / "files").iterdir())


@pytest.mark.slow
def test_a_model_that_is_imported_again_and_killed_is_there_at_every_moment(home: Path, tmp_path: Path) -> None:
    source, digest = folder(tmp_path / "source")
    finish(home, source, "--licence", "mit")
    chance, killed = random.Random(5), 0  # noqa: S311  the same moments each time
    for number in range(5):
        steps = chance.randrange(1, 5)
        killed += kill_once(
            home,
            source,
            digest,
            lambda steps=steps: len(seen(home / "models", ".scratch-*/*/*")) >= steps,  # type: ignore[misc]
            "--licence",
            f"licence-{number}",
        )
        nothing_half_is_seen(home, digest)
    assert killed > 0
    finish(home, source, "--licence", "apache-2.0")
    (facts,) = ModelStore(home / "models").all()
    assert (facts.digest, facts.licence) == (digest, "apache-2.0")
    assert not list((home / "models").glob(".*"))

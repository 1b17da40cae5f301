"""The real vLLM, in the environment that TEST_VLLM_PYTHON names (`make test-vllm`), and a model for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from tests.support import safetensors_model
from tests.support.service import Service, daulat

from daulat.adapters.model_import import fetch_starter
from daulat.adapters.models import ModelStore
from daulat.catalog.starter import STARTER
from daulat.settings import Home

PYTHON: Final = os.environ.get("TEST_VLLM_PYTHON", "")
MARKS: Final = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="TEST_VLLM_PYTHON names no environment with vLLM (`make test-vllm`)"),
]
START_SECONDS: Final = 600.0  # half a minute where nothing else computes
CACHE: Final = Path(__file__).parents[2] / ".cache" / "vllm"
MODEL: Final = "smollm2-vllm"


def options(**more: Any) -> str:
    """For `--engine-options`."""
    return json.dumps({"python": PYTHON, "kv_cache_gib": 1, **more})


def smollm2() -> Path:
    """The starter model as safetensors; made once, under the name of what it was made from."""
    folder = CACHE / f"smollm2-{STARTER.sha256[:16]}"
    if not folder.exists():
        making = folder.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        store = ModelStore(CACHE / "models")
        safetensors_model.convert(store.path(fetch_starter(store, STARTER).digest), making)
        making.rename(folder)
    return folder


def deploy(service: Service, *arguments: str) -> dict[str, Any]:
    return dict(daulat("deploy", *arguments, home=service.home, seconds=2 * START_SECONDS))


def replicas(service: Service, deployment: str = MODEL) -> list[dict[str, Any]]:
    return [row for row in daulat("replicas", home=service.home) if row["deployment"] == deployment]


def process(service: Service, replica: str, title: str) -> psutil.Process:
    """That one of the processes of a replica's vLLM whose command line has `title` in it."""
    run = str(Home(service.home).engine(replica))
    outer = next(each for each in psutil.process_iter(["cmdline"]) if run in " ".join(each.info["cmdline"] or ()))
    (found,) = [each for each in outer.children(recursive=True) if title in _own(each)]
    return found


def _own(process: psutil.Process) -> str:
    """The command line of a process of vLLM's own; of what only was told vLLM's, or has ended meanwhile, nothing."""
    with contextlib.suppress(psutil.NoSuchProcess):
        line = process.cmdline()
        return "" if process.name() == "bwrap" or "/daulat/inside.py" in line else " ".join(line)
    return ""

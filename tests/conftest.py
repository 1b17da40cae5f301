"""For all tests: how they are collected, and that nothing of theirs stays behind."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from daulat.settings import Home


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the collector: test modules are parsed here, and CPython up to 3.11.7 loses count of how deep it is in
    a syntax tree where anything else parses meanwhile, a finalizer, say (python/cpython#106905)."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_sockets_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of a test has a long path, and so its sockets elsewhere (`Home.run`): they go when all have ended."""
    yield
    for folder, _, _ in os.walk(tmp_path_factory.getbasetemp()):
        home = Home(Path(folder))
        if not home.run.is_relative_to(home.path):
            shutil.rmtree(home.run, ignore_errors=True)

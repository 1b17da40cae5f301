"""What the tests of the command share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.verbs import FakeControl, Shell

from daulat.settings import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A prepared, empty home, which the verbs use by default."""
    made = Home(tmp_path / "home")
    made.prepare()
    monkeypatch.setenv("DAULAT_HOME", str(made.path))
    for name in ("DAULAT_API_KEY", "DAULAT_PORT"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Home) -> Shell:
    return Shell(monkeypatch, capsys, home)


@pytest.fixture
def control(home: Home) -> Iterator[FakeControl]:
    with FakeControl(home).serving() as serving:
        yield serving

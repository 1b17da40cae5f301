"""Children are started, waited for, started again, given up where they cannot start, and ended in the end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daulat.errors import Unavailable
from daulat.processes import children
from daulat.processes.children import Child

READY = "import signal,sys; print('ready', flush=True); signal.sigwait([signal.SIGTERM])"
SLOW_TO_END = (
    "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)
BROKEN = "import sys; sys.stderr.write('no such key\\n'); sys.exit(3)"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_FIRST_WAIT", 0.01)


class Program(Child):
    """A child that is a line of Python."""

    def __init__(self, line: str, log: Path, **options: object) -> None:
        super().__init__("a.program", [], log, **options)  # type: ignore[arg-type]
        self._command = [sys.executable, "-c", line]


def run(use: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await use()

    asyncio.run(limited())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  processes tell of nothing
        await asyncio.sleep(0.01)


def test_a_child_is_ready_when_it_says_so_and_ends_when_it_is_told(tmp_path: Path) -> None:
    async def use() -> None:
        child = Program(READY, tmp_path / "log")
        child.start()
        await child.wait_ready(30)
        assert child.pid is not None
        await child.stop(30)
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)
        assert child.starts == 1

    run(use)


def test_a_killed_child_is_started_again_however_often(tmp_path: Path) -> None:
    """Four times, though it would be given up after three starts that fail: it was ready each time."""
    given_up: list[str] = []

    async def use() -> None:
        child = Program(READY, tmp_path / "log", gives_up=3, on_giving_up=given_up.append)
        child.start()
        seen: set[int | None] = set()
        for _ in range(5):
            await until(lambda: child.ready.is_set() and child.pid not in seen)
            assert child.pid is not None
            seen.add(child.pid)
            if len(seen) < 5:
                os.kill(child.pid, signal.SIGKILL)
        assert child.starts == 5
        await child.stop(30)

    run(use)
    assert given_up == []


def test_a_child_that_cannot_start_is_given_up_and_said_why(tmp_path: Path) -> None:
    given_up: list[str] = []

    async def use() -> None:
        child = Program(BROKEN, tmp_path / "log", gives_up=3, on_giving_up=given_up.append)
        child.start()
        await until(lambda: bool(given_up))
        assert child.starts == 3
        await child.stop(30)

    run(use)
    (words,) = given_up
    assert "program" in words
    assert "log" in words
    assert (tmp_path / "log").read_text() == "no such key\n" * 3


def test_a_child_that_is_not_ready_in_time_is_said_to_be_so(tmp_path: Path) -> None:
    async def use() -> None:
        child = Program("import time; time.sleep(60)", tmp_path / "log")
        child.start()
        with pytest.raises(Unavailable, match="is not ready after"):
            await child.wait_ready(0.1)
        await child.stop(30)

    run(use)


def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    async def use() -> None:
        child = Program(SLOW_TO_END, tmp_path / "log")
        child.start()
        await child.wait_ready(30)
        await child.stop(0.1)
        assert child._process is not None
        assert child._process.returncode == -signal.SIGKILL

    run(use)

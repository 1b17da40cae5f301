"""Whoever is told to stop ends, whatever keeps it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

STUBBORN = """
import asyncio
from daulat.processes import edge
edge.END_SECONDS = 1.0

async def never_ending():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def run():
    stop = edge.stop_event(asyncio.get_running_loop())
    task = asyncio.create_task(never_ending())
    edge.ready()
    await stop.wait()
    task.cancel()
    await task

edge.begin("stubborn")
asyncio.run(run())
"""
WILLING = """
import asyncio
from daulat.processes import edge

async def run():
    stop = edge.stop_event(asyncio.get_running_loop())
    edge.ready()
    await stop.wait()

edge.begin("willing")
asyncio.run(run())
"""


def told_to_stop(program: str) -> tuple[int, list[dict[str, str]]]:
    """The exit code, and what it logged."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in said.splitlines()]


def test_a_task_that_will_not_end_is_named_and_ended() -> None:
    code, (said,) = told_to_stop(STUBBORN)
    assert code == 1
    assert said["level"] == "error"
    assert said["message"] == "told to stop 1 s ago, and ended by force; still under way: never_ending, run"


def test_who_ends_in_time_is_left_alone() -> None:
    assert told_to_stop(WILLING) == (0, [])

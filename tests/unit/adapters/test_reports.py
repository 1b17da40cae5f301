"""A supervisor's reports arrive in order and once, however long the control plane is away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from daulat.adapters import rpc
from daulat.adapters.reports import Reports
from daulat.errors import ConfigError, Unavailable


class Control:
    """The control plane's side. `failures` are raised to the next calls."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, Any]]] = []
        self.failures: list[Exception] = []

    async def report(self, replica: str, event: str, data: dict[str, Any]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.heard.append((replica, event, data))


def test_reports_arrive_in_order_even_those_from_before_anybody_listened(tmp_path: Path) -> None:
    async def go() -> None:
        path, control = tmp_path / "c.sock", Control()
        reports = Reports(path, "r1")
        reports.say("loading", progress=0.1)
        reports.say("loading", progress=0.9)
        reports.say("ready", address="unix:/e")
        sending = asyncio.create_task(reports.run())
        await asyncio.sleep(0)
        server = await rpc.serve(path, {"replica.report": control.report})
        reports.say("stopped", reason="crashed")
        await reports.close(seconds=10)
        sending.cancel()
        server.close()
        assert control.heard == [
            ("r1", "loading", {"progress": 0.9}),
            ("r1", "ready", {"address": "unix:/e"}),
            ("r1", "stopped", {"reason": "crashed"}),
        ], "newer progress takes the place of older; nothing else is lost"

    asyncio.run(go())


@pytest.mark.parametrize(("failure", "arrives"), [(Unavailable("starting"), True), (ConfigError("no"), False)])
def test_what_cannot_be_taken_now_is_sent_again_and_what_is_refused_is_not(
    tmp_path: Path, failure: Exception, arrives: bool
) -> None:
    async def go() -> None:
        path, control = tmp_path / "c.sock", Control()
        control.failures = [failure]
        server = await rpc.serve(path, {"replica.report": control.report})
        reports = Reports(path, "r1")
        sending = asyncio.create_task(reports.run())
        reports.say("ready")
        reports.say("stopped")
        await reports.close(seconds=10)
        sending.cancel()
        server.close()
        assert [event for _, event, _ in control.heard] == ["ready", "stopped"][not arrives :]

    asyncio.run(go())


def test_an_absent_control_plane_neither_fills_memory_nor_holds_up_the_end(tmp_path: Path) -> None:
    async def go() -> None:
        reports = Reports(tmp_path / "nobody.sock", "r1")
        sending = asyncio.create_task(reports.run())
        for number in range(5000):
            reports.say("contained", number=number)
        assert len(reports._waiting) == 1000
        began = asyncio.get_running_loop().time()
        await reports.close(seconds=0.05)
        assert asyncio.get_running_loop().time() - began < 5
        sending.cancel()

    asyncio.run(go())

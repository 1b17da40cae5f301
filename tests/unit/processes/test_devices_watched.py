"""A replica goes with its device: what breaks or disappears is left at once, and taken up again when it is well."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.fakes.__main__ import install
from tests.support.site import Site
from tests.unit.processes.test_replicas import Fleet, _quickly, run  # noqa: F401  the fixture is used by being here

from daulat.core.accelerator import Accelerator
from daulat.placement.devices import LOOKS
from daulat.processes import inventory

ON = {"engine": "llama.cpp", "devices": ["npu:2", "npu:3"], "replicas": 2}


class Machine:
    """An A3 node of fakes on PATH, whose faults are switched while it is watched."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self.folder, self.fleet = folder, fleet

    def broken(self, *faults: str) -> list[Accelerator]:
        install(self.folder, "a3", faults)
        return list(inventory.look().accelerators)

    def seen(self, *faults: str) -> None:
        self.fleet.replicas.seen(self.broken(*faults))


def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Machine], Awaitable[None]]) -> None:
    async def prepared(fleet: Fleet) -> None:
        machine = Machine(tmp_path / "machine", fleet)
        monkeypatch.setenv("PATH", f"{install(machine.folder, 'a3')}:{os.environ['PATH']}")
        await fleet.serving(**ON)
        await use(machine)

    run(tmp_path, prepared)


def ends(fleet: Fleet) -> list[str]:
    return [entry["reason"] for entry in fleet.site.log if entry["type"] == "replica.stopped/v1"]


def test_a_chip_that_turns_critical_loses_its_replica_and_the_other_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(machine: Machine) -> None:
        fleet = machine.fleet
        (lost,) = [row["id"] for row in fleet.rows() if row["devices"] == ["npu:3"]]
        machine.seen("critical:3")
        await fleet.until(lambda: [row["devices"] for row in fleet.rows()] == [["npu:2"]])
        assert lost not in fleet.site.answering()
        assert len(fleet.site.answering()) == 1
        assert ends(fleet) == ["device npu:3 (NPU 1 die 1) is critical: npu-smi says Critical"]
        assert fleet.children[lost].stopped
        machine.seen()
        await fleet.until(lambda: sorted(row["devices"] for row in fleet.rows()) == [["npu:2"], ["npu:3"]])
        await fleet.up()
        assert len(fleet.site.answering()) == 2

    watched(tmp_path, monkeypatch, use)


def test_a_chip_that_disappears_is_left_after_the_second_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(machine: Machine) -> None:
        fleet = machine.fleet
        gone = [one for one in machine.broken("die-lost:3") if one.physical_id != 3]
        fleet.replicas.seen(gone)
        assert len(fleet.site.answering()) == 2, "a tool may fail once"
        for _ in range(LOOKS - 1):
            fleet.replicas.seen(gone)
        await fleet.until(lambda: len(fleet.rows()) == 1)
        assert ends(fleet) == ["device npu:3 has disappeared"]

    watched(tmp_path, monkeypatch, use)


def test_where_every_device_is_broken_nothing_is_started_and_the_deployment_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(machine: Machine) -> None:
        fleet = machine.fleet
        machine.seen("critical:2", "ecc-quiet:3")  # whose health says OK
        await fleet.until(lambda: not fleet.rows())
        assert fleet.site.answering() == []
        (why,) = fleet.replicas.roster.reasons()
        assert why.startswith("device npu:2 (NPU 1 die 0) is ")
        assert "deploy --on" in why
        (row,) = fleet.replicas.roster.deployment_rows()
        assert row["status"]["conditions"][1]["reason"] == "Blocked"
        starts = len(fleet.children)
        for _ in range(3):
            fleet.replicas.look()
            await asyncio.sleep(0)
        assert len(fleet.children) == starts

    watched(tmp_path, monkeypatch, use)


def test_what_has_changed_is_in_the_lease_that_the_next_canary_brings() -> None:
    async def use() -> None:
        site = Site()
        site.node.inventory({"accelerators": [{"count": 16, "fit": 16}]})
        await site.up("a")
        site.node.inventory({"accelerators": [{"count": 16, "fit": 16}]})
        await site.probed("a")
        assert site.written().count("node.lease") == 1, "nothing has changed"
        site.node.inventory({"accelerators": [{"count": 16, "fit": 15}]})
        await site.probed("a")
        leases = [entry for entry in site.log if entry["type"] == "node.lease/v1"]
        assert [lease["evidence"]["inventory"]["accelerators"][0]["fit"] for lease in leases] == [16, 15]
        assert site.answering() == ["a"]

    asyncio.run(use())

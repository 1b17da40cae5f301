"""The metrics page: the workers' totals, and below them the NPUs that the watch has seen."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx

from daulat.core.accelerator import Accelerator, Health
from daulat.fleet.inventory import Inventory
from daulat.processes.pages import application
from daulat.processes.watch import Watch
from daulat.settings import Home


def page(home: Home, watch: Watch) -> str:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application(home, watch))
        async with httpx.AsyncClient(transport=transport, base_url="http://pages") as client:
            return await client.get("/metrics")

    answer = asyncio.run(ask())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


def prepared(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    home.run.mkdir(exist_ok=True)
    (home.log / "2026").mkdir(parents=True, exist_ok=True)
    (home.run / "metrics-0").write_text(json.dumps({"daulat_connections": {"": 3}}))
    return home


def test_npus_stand_below_the_services_own_metrics(tmp_path: Path) -> None:
    npu = Accelerator("ascend", "Ascend 910B3", card=0, die=0, physical_id=0, health=Health("ok"), temperature=41.0)
    watch = Watch(lambda: Inventory((npu,), {}, {}, ()))
    home = prepared(tmp_path)
    assert "machine_npu_nums" not in page(home, watch), "nobody has looked yet"
    watch.look()
    text = page(home, watch)
    assert "\ndaulat_connections 3\n" in text
    assert "\nmachine_npu_nums 1\n" in text
    assert '\nnpu_chip_info_temperature{id="0",model_name="Ascend 910B3",' in text
    assert text.count("# TYPE ") == len({line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")})


def test_a_machine_without_npus_has_none_of_their_metrics(tmp_path: Path) -> None:
    watch = Watch(lambda: Inventory((Accelerator("cpu"),), {}, {}, ()))
    watch.look()
    assert "npu" not in page(prepared(tmp_path), watch)

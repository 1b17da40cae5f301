"""A log that goes on in new shards, one of them under a new key: audited from the newest back to the first."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.battered import Battered, nothing_wrong
from tests.support.load import Exchange, Load

pytestmark = pytest.mark.slow


def daulat(service: Battered, *arguments: str, code: int = 0) -> dict[str, Any]:
    environment = {**os.environ, "DAULAT_HOME": str(service.home.path)}
    command = [sys.executable, "-m", "daulat", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
    return dict(json.loads(done.stdout))


async def ask(service: Battered, count: int) -> list[Exchange]:
    async with Load(service.port, service.secrets["api_key"], 1) as load:
        exchanges = [await load.one(stream=bool(number % 2)) for number in range(count)]
    assert all(exchange.whole and exchange.status == 200 for exchange in exchanges)
    await service.integrated()
    return exchanges


def receipt(service: Battered, exchange: Exchange, vkey: str, folder: Path) -> dict[str, Any]:
    """Fetched from the running service, and verified with the bytes and the promise."""
    headers = {"authorization": f"Bearer {service.secrets['api_key']}"}
    url = f"{service.secrets['url']}/v1/receipts/{exchange.request_id}"
    answer = httpx.get(url, headers=headers, trust_env=False, timeout=120)
    assert answer.status_code == 200, answer.text
    files = {"receipt": answer.content, "request": exchange.request, "response": bytes(exchange.body)}
    for name, data in {**files, "promise": exchange.promise.encode()}.items():
        (folder / name).write_bytes(data)
    options = [f"--{name}={folder / name}" for name in ("request", "response", "promise")]
    return daulat(service, "verify", str(folder / "receipt"), "--vkey", vkey, *options)


def test_shards_and_keys_follow_each_other(tmp_path: Path) -> None:
    asyncio.run(_shards(tmp_path))


async def _shards(folder: Path) -> None:
    async with Battered(workers=1) as service:
        exchanges = [await ask(service, 5)]
        keys = [service.secrets["log_vkey"]]
        for period, options in (("next", ()), ("rotated", ("--new-key",)), ("last", ())):
            assert await service.stop() == 0
            daulat(service, "log", "roll", period, *options)
            await service.start()
            keys.append(service.secrets["log_vkey"])
            exchanges.append(await ask(service, 5))
        publics = [key.split("+", 2)[2] for key in keys]
        assert publics[0] == publics[1] != publics[2] == publics[3]
        for answered, key in zip(exchanges, keys, strict=True):
            assert receipt(service, answered[0], key, folder)["holds"]
        promises = [exchange.promise for answered in exchanges for exchange in answered]
        (folder / "token").write_text(service.secrets["auditor_token"])
        (folder / "promises").write_text("\n".join(promises))
        found = daulat(
            service,
            *("audit", service.secrets["url"], "--vkey", keys[-1], "--token-file", str(folder / "token")),
            *("--promises", str(folder / "promises"), "--state", str(folder / "state")),
        )
        assert found["holds"]
        assert [log["promises"]["kept"] for log in found["logs"]] == [5, 5, 5, 5]
        assert [log["origin"].rpartition("/")[2] for log in found["logs"]][:3] == ["last", "rotated", "next"]
        assert nothing_wrong(daulat(service, "log", "fsck"))
        # Whoever changes the end of a closed shard is found out, by the operator and by the auditor.
        path = service.home.log / "next" / "checkpoint"
        older = (service.home.log / "rotated" / "checkpoint").read_bytes()
        path.write_bytes(older)
        assert not daulat(service, "log", "fsck", code=1)["sound"]

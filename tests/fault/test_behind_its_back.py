"""An engine that is used past the gateway: its own counters give it away, in the operator's own log."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.battered import Battered
from tests.support.load import Load

from daulat.adapters import engine_http
from daulat.adapters.log_files import LogFiles, LogFolder, current_period
from daulat.audit.log import Report, audit
from daulat.audit.walk import Terms
from daulat.policy.cedar import CedarDecider
from daulat.tlog.note import Verifier

pytestmark = pytest.mark.slow
LATER_MS = 3_600_000
REQUESTS = 20


def audited(service: Battered, later: int = LATER_MS) -> Report:
    log = service.home.log
    folder = LogFolder(log / current_period(log))
    terms = Terms(now=round(time.time() * 1000) + later, decider=CedarDecider)
    return audit(LogFiles(folder, log / "blob"), Verifier(folder.vkey()), terms)


async def counted(service: Battered) -> None:
    """Until a canary has brought into the log what the engine counts now."""
    canaries = audited(service).types["canary/v1"]

    async def two_more() -> bool:  # the first may have read before
        return audited(service).types["canary/v1"] >= canaries + 2

    await service.until(two_more)


def test_use_behind_the_gateways_back_shows_in_the_audit() -> None:
    asyncio.run(_used())


async def _used() -> None:
    async with Battered(workers=1) as service, Load(service.port, service.secrets["api_key"], 1, leaves=0) as load:
        for _ in range(REQUESTS):
            assert (await load.one(stream=True)).whole
        await counted(service)
        await service.integrated()
        report = audited(service)
        assert report.holds
        assert not [finding for finding in report.findings.kept if finding.kind == "counters"]
        # Somebody on the host has found the engine's socket.
        assert service.engine is not None
        for _ in range(REQUESTS):
            body = b'{"model":"stub","messages":[]}'
            status, _ = await engine_http.fetch(service.engine.path, "POST", "/v1/chat/completions", body, seconds=20)
            assert status == 200
        await counted(service)
        # A young reading may have requests in flight: that is said, and not called a lie yet.
        young = audited(service, later=0)
        assert young.holds
        assert "audit again later" in _counters(young)
        old = audited(service)
        assert not old.holds
        assert "behind the gateway's back" in _counters(old)


def _counters(report: Report) -> str:
    return " ".join(str(finding) for finding in report.findings.kept if finding.kind == "counters")

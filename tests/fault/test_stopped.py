"""Told to stop under load: what can end in time ends, what cannot is told so, and the log knows of both."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.battered import Battered
from tests.support.load import Load
from tests.support.reckoning import reckon

from daulat.processes.worker import DRAIN_SECONDS

pytestmark = pytest.mark.slow

SHORT, LONG = 0.6, 30.0  # seconds of a stream; a worker waits for DRAIN_SECONDS


@pytest.mark.parametrize("seconds", [SHORT, LONG], ids=["short streams", "long streams"])
def test_no_answer_ends_in_silence(seconds: float) -> None:
    asyncio.run(_stopped(seconds))


async def _stopped(seconds: float) -> None:
    async with Battered() as service, Load(service.port, service.secrets["api_key"], 3, leaves=0) as load:
        assert service.engine is not None
        service.engine.pause = seconds / service.engine.events
        load.start()

        async def streaming() -> bool:
            return sum(bool(exchange.body) for exchange in load.exchanges) > 3

        await service.until(streaming)
        told = time.monotonic()
        stopping = asyncio.create_task(service.stop())
        await load.pause()
        lasted = time.monotonic() - told
        assert await stopping == 0
        begun = [exchange for exchange in load.exchanges if exchange.status]
        assert all(exchange.whole for exchange in begun)  # to the last byte, whichever that was
        cut = [exchange for exchange in begun if b"This answer was cut: the service is stopping" in exchange.body]
        streams = [exchange for exchange in begun if b"stream" in exchange.request]
        assert len(streams) > 3
        if seconds == LONG:
            assert set(map(id, streams)) <= set(map(id, cut))
        else:  # unless this machine let short streams last longer than a worker waits
            assert not cut or lasted >= DRAIN_SECONDS
        await service.start()
        await service.integrated()
        reckoning = reckon(service.home, load.exchanges)
        assert reckoning.outcomes["interrupted"] == 0
        assert reckoning.outcomes["failed"] == len(cut)

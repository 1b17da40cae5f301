"""A whole Daulat before a given engine, until SIGTERM: real control plane, sequencer, workers and pages.

    python -m benchmarks.serve HOME ENGINE PORT WORKERS

Prints one JSON line when it answers. Nothing is switched off; only the supervised engine is replaced by the stub.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

from tests.support.installation import NOTHING_COUNTED, start

CANARY_SECONDS = 30.0


async def main() -> None:
    """See the module."""
    home, engine, port, workers = sys.argv[1:]
    running = await start(Path(home), engine, port=int(port), workers=int(workers))
    print(json.dumps({"url": running.url, "api_key": running.api_key}), flush=True)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    while not ended.is_set():
        with suppress(TimeoutError):  # as a supervisor would: without canaries the lease ends, and with it the service
            await asyncio.wait_for(ended.wait(), CANARY_SECONDS)
        await running.control.probed(NOTHING_COUNTED)
    await running.control.stop()


asyncio.run(main())

"""When a sandbox has ended. What holds inside one is tests/integration/test_sandbox.py's."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from daulat.adapters.sandbox import Sandboxed

CRASHES = "import subprocess; subprocess.Popen(['sleep', '60']); raise SystemExit(3)"


def test_a_crash_is_seen_while_what_was_started_still_holds_the_pipes() -> None:
    async def crash() -> int:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CRASHES, stdout=pipe, stderr=pipe, start_new_session=True
        )
        held = Sandboxed(process, process.pid, None)
        try:
            return await asyncio.wait_for(held.ended(), 30)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()

    assert asyncio.run(crash()) == 3

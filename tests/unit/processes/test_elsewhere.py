"""An engine that runs elsewhere: asked over a Unix socket or TLS, counted where it can be, never called sandboxed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.outside import certificate
from tests.support.worlds import replica

from daulat.adapters import engine_http
from daulat.adapters.reports import Reports
from daulat.engines.options import parse
from daulat.errors import ConfigError, EngineDead
from daulat.gateway.engines import Pool
from daulat.processes import elsewhere
from daulat.processes.launcher import Wanted
from daulat.processes.machines import RemoteMachine
from daulat.processes.supervisor import Supervisor

METRICS = b"""vllm:prompt_tokens_total{model_name="m"} 100.0
vllm:prompt_tokens_cached_total{model_name="m"} 40.0
vllm:generation_tokens_total{model_name="m"} 7.0
vllm:num_requests_running{model_name="m"} 0.0
vllm:num_requests_waiting{model_name="m"} 0.0
"""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    body = METRICS if head.startswith(b"GET /metrics") else b"{}"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    writer.close()


def wanted(options: str) -> Wanted:
    said = parse(options)
    return Wanted(
        *("r", "m", Path("/none"), Path("/none")),
        *(4, 2048, 1),
        embeds=False,
        memory_mib=0,
        engine=elsewhere.engine(said),
        options=said,
    )


class Heard:
    """`adapters.reports.Reports`."""

    def __init__(self) -> None:
        self.said: dict[str, dict[str, Any]] = {}
        self.ready = asyncio.Event()

    def say(self, event: str, **data: Any) -> None:
        self.said[event] = data
        if event == "ready":
            self.ready.set()


async def lived(options: str) -> dict[str, dict[str, Any]]:
    """What the control plane hears of one that becomes ready and is stopped."""
    heard, given = Heard(), wanted(options)
    supervisor = Supervisor(given, cast("Reports", heard), RemoteMachine(given), 60.0, 600.0)
    running = asyncio.create_task(supervisor.run())
    await heard.ready.wait()
    supervisor.stop()
    await running
    return heard.said


def test_what_is_known_of_it_is_said_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.sock"
    monkeypatch.setattr(RemoteMachine, "check", _sensible)

    async def go() -> dict[str, dict[str, Any]]:
        async with await asyncio.start_unix_server(answer, path):
            return await lived(f'{{"address": "unix:{path}", "grade": "G3", "vouched_by": "An Agency"}}')

    said = asyncio.run(go())
    assert "contained" not in said, "no canary went in"
    assert said["alive"]["counters"]["prompt_tokens"] == 0
    ready = said["ready"]
    assert ready["address"] == f"unix:{path}"
    assert ready["dialect"] == "openai"
    assert ready["engine"]["answers"] == "plain"
    facts = ready["sandbox"]
    assert (facts["tool"], facts["network"], facts["grade"], facts["seccomp"]) == ("none", "outside", "G3", False)
    assert facts["vouched_by"] == "An Agency"
    assert ready["device"]["kind"] == "unknown"
    assert said["stopped"]["exact"] is False, "it has no counters to be held to"


def test_one_that_says_nothing_that_makes_sense_is_never_ready(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"

    async def go() -> str:
        async with await asyncio.start_unix_server(answer, path):
            heard, given = Heard(), wanted(f'{{"address": "unix:{path}"}}')
            supervisor = Supervisor(given, cast("Reports", heard), RemoteMachine(given), 60.0, 600.0)
            running = asyncio.create_task(supervisor.run())
            while "stopped" not in heard.said:  # noqa: ASYNC110  it waits for what is said, not for what is ready
                await asyncio.sleep(0.01)
            supervisor.stop()
            await running
            assert not heard.ready.is_set()
            return str(heard.said["stopped"]["reason"])

    assert "wrong answers: its answer has no choice" in asyncio.run(go())


def test_one_whose_metrics_are_known_is_counted_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.sock"
    monkeypatch.setattr(RemoteMachine, "check", _sensible)

    async def go() -> dict[str, dict[str, Any]]:
        async with await asyncio.start_unix_server(answer, path):
            return await lived(f'{{"address": "unix:{path}", "metrics": "vllm"}}')

    said = asyncio.run(go())
    assert said["ready"]["dialect"] == "vllm"
    assert said["ready"]["counters"]["prompt_tokens"] == 60
    assert said["stopped"]["exact"] is True
    assert said["stopped"]["counters"]["completion_tokens"] == 7


async def _sensible(_machine: RemoteMachine, _report: Any) -> bool:
    return True


def test_one_that_does_not_answer_is_dead(tmp_path: Path) -> None:
    with pytest.raises(EngineDead, match="does not answer"):
        asyncio.run(elsewhere.start(wanted(f'{{"address": "unix:{tmp_path}/none.sock"}}')))


def test_an_external_engine_needs_an_address_and_metrics_of_a_known_engine() -> None:
    with pytest.raises(ConfigError, match="needs an address"):
        elsewhere.engine(parse("{}"))
    with pytest.raises(ConfigError, match="no engine is called 'tgi'"):
        elsewhere.engine(parse('{"address": "tcp:127.0.0.1:1", "metrics": "tgi"}'))


@asynccontextmanager
async def served(context: ssl.SSLContext) -> AsyncIterator[str]:
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield f"tls:127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_over_tls_the_pinned_certificate_is_spoken_to_and_no_other(tmp_path: Path) -> None:
    context, pin = certificate(tmp_path)

    async def go() -> None:
        async with served(context) as address:
            assert (await engine_http.fetch(f"{address}#{pin}", "GET", "/v1/models", seconds=60))[0] == 200
            with pytest.raises(EngineDead, match="another certificate"):
                await engine_http.fetch(f"{address}#{'0' * 64}", "GET", "/v1/models", seconds=60)
            with pytest.raises(EngineDead, match="certificate verify failed"):
                await engine_http.fetch(address, "GET", "/v1/models", seconds=60)

    asyncio.run(go())


def test_the_gateway_sends_nothing_to_another_certificate(tmp_path: Path) -> None:
    context, pin = certificate(tmp_path)

    async def go() -> None:
        async with served(context) as address:
            pool = Pool({})
            good = pool.fetcher(replica(1, address=f"{address}#{pin}").address)
            assert await good("POST", "/v1/chat/completions", b"{}") == (200, b"{}")
            bad = pool.fetcher(replica(1, address=f"{address}#{'0' * 64}").address)
            with pytest.raises(EngineDead, match="another certificate"):
                await bad("POST", "/v1/chat/completions", b"{}")
            pool.close()

    asyncio.run(go())

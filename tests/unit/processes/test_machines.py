"""Which engine's answers are checked in which way, by the machine that a supervisor works on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from daulat.engines import options
from daulat.engines.answers import Report
from daulat.engines.known import ENGINES
from daulat.processes import elsewhere, machines
from daulat.processes.launcher import Wanted


def wanted(folder: Path, name: str, *, embeds: bool = False) -> Wanted:
    said = options.parse(json.dumps({"address": f"unix:{folder}/e.sock"} if name == "external" else {}))
    engine = elsewhere.engine(said) if name == "external" else ENGINES[name]
    given = {"slots": 1, "context": 512, "threads": 1, "memory_mib": 0, "embeds": embeds}
    return Wanted("r", "m", Path("/m"), folder, engine=engine, options=said, **given)  # type: ignore[arg-type]


def checked(folder: Path, name: str, answer: str, *, embeds: bool = False) -> tuple[bool, Report, list[str]]:
    """One round against a server that says always the same: whether there was one, what came, what was asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split()[1].decode())
        body = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async def go() -> tuple[bool, Report]:
        report = Report()
        async with await asyncio.start_unix_server(serve, folder / "e.sock"):
            machine = machines.RemoteMachine(wanted(folder, name, embeds=embeds))
            found = (
                await machine.check(report) if name == "external" else await machines._check(machine._wanted, report)
            )
        return found, report

    return *asyncio.run(go()), asked


@pytest.mark.parametrize("name", ["sglang", "mindie", "external"])
def test_an_engine_that_tells_no_likelihoods_is_asked_plainly(tmp_path: Path, name: str) -> None:
    done, report, asked = checked(tmp_path, name, "!!!!!!!!")
    assert done
    assert report.faults == ["one token, 8 times"]
    assert {*asked} == {"/v1/chat/completions"}


def test_a_model_that_embeds_is_asked_nothing(tmp_path: Path) -> None:
    assert checked(tmp_path, "sglang", "", embeds=True) == (False, Report(), [])

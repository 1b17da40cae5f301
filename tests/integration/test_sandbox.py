"""The real sandbox and the real canary: contained when everything holds, escaped as soon as one thing does not."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daulat.adapters import sandbox
from daulat.adapters.sandbox import Jail
from daulat.agent import canary, seccomp
from daulat.agent.canary import Finding

pytestmark = pytest.mark.skipif(
    sandbox.check().grade != "G2", reason="bubblewrap cannot make namespaces on this machine (see `daulat doctor`)"
)
BPF = seccomp.build()
# What an engine does as far as the sandbox goes: takes its own uid, then waits.
PROGRAM = """
import os, sys
uid = int(sys.argv[1])
if uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
sys.stdin.read()
"""


def jail(folder: Path, **changes: Any) -> Jail:
    uid = sandbox.own_uid("test", [])
    program = (sandbox.interpreter(), "-I", "-S", "-c", PROGRAM, str(uid or 0))
    return replace(Jail(program, sandbox.system_files(), folder, uid, hidden=sandbox.covered()), **changes)


def round_in(
    tmp_path: Path, *, bpf: bytes | None = BPF, families: tuple[str, ...] = ("unix",), **changes: Any
) -> Finding:
    async def go() -> Finding:
        pipe = asyncio.subprocess.PIPE
        running = await sandbox.start(
            jail(tmp_path / "engine", **changes), bpf=bpf, stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            async with asyncio.timeout(120):  # until the program has dropped what it had
                while running.status().get("CapEff") != "0" * 16:  # noqa: ASYNC110  nobody tells
                    await asyncio.sleep(0.02)
            listener, under = tmp_path / "canary.sock", seccomp.build(families=families)
            return await canary.one_round(running, sandbox.interpreter(), under, listener, families)
        finally:
            await running.kill()

    return asyncio.run(go())


def reached(finding: Finding) -> set[tuple[str, str]]:
    return {(probe["kind"], probe["target"]) for probe in finding.probes if probe["outcome"] != "refused"}


def test_the_sandbox_holds(tmp_path: Path) -> None:
    finding = round_in(tmp_path)
    assert finding.outcome == "contained", reached(finding)
    kinds = {probe["kind"] for probe in finding.probes}
    assert kinds >= {"connect", "socket", "call", "table", "read", "write", "privilege", "kernel"}


def test_the_sandbox_holds_where_no_uid_of_its_own_can_be_had(tmp_path: Path) -> None:
    """As root with files that only root may read (a umask of 077): uid 0 inside, and not one capability."""
    program = (sandbox.interpreter(), "-I", "-S", "-c", PROGRAM, "0")
    finding = round_in(tmp_path, uid=None, program=program)
    assert finding.outcome == "contained", reached(finding)


def test_a_network_is_an_escape(tmp_path: Path) -> None:
    namespaces = tuple(kind for kind in Jail.__dataclass_fields__["unshare"].default if kind != "--unshare-net")
    finding = round_in(tmp_path, unshare=namespaces)
    assert finding.outcome == "escaped"
    assert any(kind in {"table", "kernel"} for kind, _ in reached(finding))


SEVERAL = ("unix", "inet", "netlink")


def test_the_sandbox_holds_for_an_engine_that_may_use_its_own_loopback(tmp_path: Path) -> None:
    """Nothing on this host hears it, a datagram into the void is no escape, and other families stay closed."""
    filtered = seccomp.build(families=SEVERAL)
    finding = round_in(tmp_path, bpf=filtered, families=SEVERAL, shared_memory=True)
    assert finding.outcome == "contained", reached(finding)
    refused = {target for probe in finding.probes for target in probe["target"].split(", ")}
    assert {"tcp 127.0.0.1", "udp 127.0.0.1", "AF_INET6", "AF_INET raw", "AF_NETLINK sock_diag"} <= refused
    assert "AF_INET" not in refused


def test_such_an_engine_on_this_hosts_network_is_an_escape(tmp_path: Path) -> None:
    namespaces = tuple(kind for kind in Jail.__dataclass_fields__["unshare"].default if kind != "--unshare-net")
    filtered = seccomp.build(families=SEVERAL)
    finding = round_in(tmp_path, bpf=filtered, families=SEVERAL, unshare=namespaces)
    assert finding.outcome == "escaped"
    assert {("heard", "tcp 127.0.0.1"), ("heard", "udp 127.0.0.1")} <= {
        (kind, target) for kind, targets in reached(finding) for target in targets.split(", ")
    }


def test_a_family_that_the_filter_allows_and_the_engine_should_not_have_is_an_escape(tmp_path: Path) -> None:
    async def go() -> Finding:
        pipe, wide = asyncio.subprocess.PIPE, seccomp.build(families=SEVERAL)
        running = await sandbox.start(jail(tmp_path / "engine"), bpf=wide, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            return await canary.one_round(running, sandbox.interpreter(), wide, tmp_path / "canary.sock")
        finally:
            await running.kill()

    finding = asyncio.run(go())
    assert finding.outcome == "escaped"
    assert any("AF_INET" in target for kind, target in reached(finding) if kind == "socket")


def test_memory_and_processor_time_are_those_of_every_process_inside(tmp_path: Path) -> None:
    program = """
import os, sys
if os.fork() == 0:
    held = bytearray(64 * 2**20)
    for number in range(3_000_000):
        held[number % len(held)] = 1
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
os.wait()
"""

    async def go() -> tuple[int, float, int]:
        pipe = asyncio.subprocess.PIPE
        wanted = jail(tmp_path / "engine", program=(sandbox.interpreter(), "-I", "-S", "-c", program), uid=None)
        running = await sandbox.start(wanted, bpf=BPF, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            assert running.process.stdout is not None
            assert await running.process.stdout.readline() == b"ready\n"
            return running.resident_bytes(), running.cpu_seconds(), len(running.pids())
        finally:
            await running.kill()

    resident, seconds, processes = asyncio.run(go())
    assert processes == 2
    assert 64 * 2**20 < resident < 160 * 2**20
    assert seconds > 0


def test_an_engine_without_the_filter_is_an_escape(tmp_path: Path) -> None:
    finding = round_in(tmp_path, bpf=None)
    assert finding.outcome == "escaped"
    assert any("Seccomp" in target for kind, target in reached(finding) if kind == "kernel")


def test_a_visible_account_file_is_an_escape(tmp_path: Path) -> None:
    extra = ((Path("/etc/passwd"), "/etc/passwd"),)
    finding = round_in(tmp_path, read_only=(*sandbox.system_files(), *extra))
    assert finding.outcome == "escaped"
    assert ("read", "/etc/passwd") in reached(finding)


def test_a_sandbox_that_has_ended_is_silent(tmp_path: Path) -> None:
    async def go() -> Finding:
        pipe = asyncio.subprocess.PIPE
        running = await sandbox.start(jail(tmp_path / "engine"), bpf=BPF, stdin=pipe, stdout=pipe, stderr=pipe)
        await running.kill()
        return await canary.one_round(running, sandbox.interpreter(), BPF, tmp_path / "canary.sock")

    assert asyncio.run(go()).outcome == "silent"


def test_the_command_line_of_root_and_of_an_ordinary_user(tmp_path: Path) -> None:
    wanted = jail(tmp_path, uid=61_000)
    as_root = sandbox.arguments(wanted, root=True, info=3, seccomp=4)
    as_user = sandbox.arguments(replace(wanted, uid=None), root=False, info=3, seccomp=4)
    for line in (as_root, as_user):
        for option in ("--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"):
            assert option in line
        assert "--clearenv" in line
        assert line.count("--bind") == 1  # one writable folder
        assert not {"--dev", "--share-net"} & set(line)
    assert "--unshare-user" in as_user
    assert as_root[as_root.index("--cap-drop") + 1] == "ALL"
    assert [as_root[at + 1] for at, word in enumerate(as_root) if word == "--cap-add"] == ["CAP_SETUID", "CAP_SETGID"]


def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing_behind(tmp_path: Path) -> None:
    """A supervisor may be told to stop while bubblewrap sets up; it did not always end with its parent then."""
    marked = tmp_path / "cancelled"

    async def cancel(seconds: float) -> None:
        pipe = asyncio.subprocess.PIPE
        starting = asyncio.create_task(sandbox.start(jail(marked), bpf=BPF, stdin=pipe, stdout=pipe, stderr=pipe))
        await asyncio.sleep(seconds)
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await starting).kill()

    async def all_of_them() -> None:
        for milliseconds in range(40):
            await cancel(milliseconds / 1000)
        async with asyncio.timeout(30):
            while left(marked):  # noqa: ASYNC110  the kernel is still clearing up
                await asyncio.sleep(0.02)

    asyncio.run(all_of_them())


STARTER = """
import asyncio, sys
from pathlib import Path
from tests.integration.test_sandbox import BPF, jail
from daulat.adapters import sandbox

async def go():
    print("go", flush=True)
    pipe = asyncio.subprocess.PIPE
    await sandbox.start(jail(Path(sys.argv[1])), bpf=BPF, stdin=pipe, stdout=pipe, stderr=pipe)
    await asyncio.sleep(600)

asyncio.run(go())
"""


def test_nothing_outlives_whoever_started_it_and_was_killed_at_any_moment(tmp_path: Path) -> None:
    """The program ends with its standard input, as an engine does: bubblewrap's own way has a gap while it sets up."""
    marked = tmp_path / "killed"
    for milliseconds in range(0, 60, 4):
        command = [sys.executable, "-c", STARTER, str(marked)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as starter:
            assert starter.stdout is not None
            assert starter.stdout.readline() == b"go\n"
            time.sleep(milliseconds / 1000)
            starter.kill()
    end = time.monotonic() + 30
    while left(marked) and time.monotonic() < end:
        time.sleep(0.02)
    assert left(marked) == []


def left(folder: Path) -> list[str]:
    """Command lines that name it."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (text := line.read_bytes()):
                found.append(text.decode(errors="replace"))
    return found

"""The relay before an engine that listens on TCP alone, and the start of engines that are not Daulat's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daulat.adapters import interpreters
from daulat.engines.known import ENGINES
from daulat.engines.options import parse
from daulat.errors import ConfigError
from daulat.processes import inside
from daulat.processes.launcher import Wanted, jail


def test_bytes_pass_both_ways_between_the_socket_and_the_port(tmp_path: Path) -> None:
    path = str(tmp_path / "e.sock")

    async def go() -> bytes:
        over = asyncio.Event()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                writer.write(data.upper())
                await writer.drain()
            writer.close()
            await writer.wait_closed()
            over.set()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            relaying = asyncio.create_task(inside.relay({path: server.sockets[0].getsockname()[1]}))
            while not Path(path).exists():  # noqa: ASYNC110  a relay has nobody to tell that it listens
                await asyncio.sleep(0)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"a" * 300_000)
            said = await reader.readexactly(300_000)
            writer.write_eof()
            assert await reader.read() == b"", "when one side ends, both do"
            writer.close()
            await over.wait()
            relaying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relaying
            return said

    assert asyncio.run(go()) == b"A" * 300_000


def test_before_the_engine_listens_the_relay_hangs_up(tmp_path: Path) -> None:
    path = str(tmp_path / "e.sock")

    async def go() -> bytes:
        relaying = asyncio.create_task(inside.relay({path: 9}))  # discard: nobody listens
        while not Path(path).exists():  # noqa: ASYNC110  a relay has nobody to tell that it listens
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_unix_connection(path)
        said = await reader.read()
        writer.close()
        relaying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await relaying
        return said

    assert asyncio.run(go()) == b""


def test_the_program_becomes_the_engine(tmp_path: Path) -> None:
    engine = [sys.executable, "-c", "import os, sys; print(os.getpid(), sys.argv[1], oct(os.umask(0)))", "argument"]
    order = json.dumps({"uid": None, "argv": engine, "relays": {}, "files": {}})
    with subprocess.Popen(
        [sys.executable, "-I", "-S", inside.__file__, order], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
    assert said.split() == [str(process.pid), "argument", "0o77"], "the same process, and nobody else reads its files"


def test_the_engine_ends_when_whoever_started_it_is_gone() -> None:
    """bubblewrap forgets to, when it is orphaned while it sets up."""
    engine = [sys.executable, "-c", "import os, time; print(os.read(0, 1), flush=True); time.sleep(600)"]
    order = json.dumps({"uid": None, "argv": engine, "relays": {}, "files": {}})
    command = [sys.executable, "-I", "-S", inside.__file__, order]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"b''\n", "the engine itself is given nothing to read"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL


def wanted(tmp_path: Path, engine: str, options: str) -> Wanted:
    model = tmp_path / "secret-name"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    return Wanted(
        "r",
        "m",
        model,
        tmp_path / "run",
        slots=4,
        context=512,
        threads=1,
        embeds=False,
        memory_mib=0,
        engine=ENGINES[engine],
        options=parse(options),
    )


def test_vllm_sees_its_packages_and_the_model_and_writes_one_folder(tmp_path: Path) -> None:
    options = json.dumps({"python": sys.executable, "environment": {"OMP_NUM_THREADS": "3"}})
    confined, launch = jail(wanted(tmp_path, "vllm", options))
    inside_only = {there for here, there in confined.read_only if str(here) != there}
    assert {"/daulat/inside.py", "/daulat/packages", "/model"} <= inside_only
    assert confined.writable == tmp_path / "run"
    assert confined.shared_memory
    assert confined.families == ("unix", "inet", "netlink")
    environment = dict(confined.environment)
    assert environment["PYTHONPATH"] == "/daulat/packages"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["HOME"] == "/engine", "nothing of the caller's environment is passed on"
    assert os.environ["PATH"] not in environment.values()
    assert "secret-name" not in " ".join(confined.program)
    assert launch.model == "/model"
    order = json.loads(confined.program[-1])
    assert order["argv"][1:3] == ["-m", "vllm.entrypoints.openai.api_server"]


def test_a_split_gguf_is_shown_whole(tmp_path: Path) -> None:
    for part in (1, 2):
        (tmp_path / f"m-0000{part}-of-00002.gguf").write_bytes(b"")
    first = tmp_path / "m-00001-of-00002.gguf"
    split = Wanted("r", "m", first, tmp_path / "run", slots=1, context=8, threads=1, embeds=False, memory_mib=0)
    confined, launch = jail(split)
    assert (tmp_path, "/model") in confined.read_only
    assert launch.model == "/model/m-00001-of-00002.gguf"


def test_engines_that_listen_on_tcp_get_their_relay(tmp_path: Path) -> None:
    confined, _ = jail(wanted(tmp_path, "mindie", "{}"))
    assert json.loads(confined.program[-1])["relays"] == {"/engine/e.sock": 1025, "/engine/m.sock": 1027}


def test_an_engine_with_an_environment_of_its_own_must_have_it_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'\{"python": "/opt/vllm/bin/python"\}'):
        jail(wanted(tmp_path, "vllm", "{}"))
    with pytest.raises(ConfigError, match="runs elsewhere"):
        jail(wanted(tmp_path, "external", '{"address": "tcp:127.0.0.1:1"}'))


def test_an_interpreter_is_looked_at_without_running_anything_of_its_environment(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    packages = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    (packages / "hook.pth").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    found = interpreters.look(python)
    assert found.packages == packages.resolve()
    assert found.executable.is_file()
    assert not found.executable.is_relative_to(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", ["/nonexistent/python", "/bin/true", "/bin/false"])
def test_what_is_no_python_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="is no Python that can be run"):
        interpreters.look(Path(path))


def test_files_are_written_for_their_owner_and_over_no_other(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    inside.write({str(path): "{}"})
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("{}", 0o600)
    with pytest.raises(FileExistsError):
        inside.write({str(path): "other"})

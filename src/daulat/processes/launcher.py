"""Starting one engine: the jail around it, its loading, and its own words when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import platform
import re
import signal
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daulat.adapters import sandbox
from daulat.adapters.reports import Reports
from daulat.adapters.sandbox import Jail, Sandboxed
from daulat.agent.supervise import loading_progress
from daulat.engines.port import Launch
from daulat.errors import ConfigError, EngineDead

_log = logging.getLogger(__name__)
LOAD_SECONDS: Final = 600.0
SOCKET: Final = "e.sock"
_MODEL: Final = "/model/model.gguf"
_PROGRAM: Final = "/daulat/engine.py"
_TAIL: Final = 200  # lines of the engine's stderr that are kept
_PROGRESS_SECONDS: Final = 0.25
_SHELL_SIGNAL: Final = 128
_LONGEST_LINE: Final = 1_048_576
_TROUBLE: Final = re.compile(r"\b(E|W)\s+\w+\s+\S+:|GGML_ASSERT|what\(\)|[Ee]rror|[Ff]ailed")
_PREFIX: Final = re.compile(r"^[\d.]+ [A-Z] \w+\s+\S+: ")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The engine to be kept alive. Sizes in tokens, memory in MiB (0: no limit)."""

    replica: str
    name: str
    model: Path
    folder: Path
    slots: int
    context: int
    threads: int
    embeds: bool
    memory_mib: int

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET


@dataclass(slots=True)
class Engine:
    """A running one: it has said that it listens."""

    sandboxed: Sandboxed
    description: dict[str, Any]
    device: dict[str, Any]
    words: deque[str]

    def ended(self, code: int) -> str:
        """Why it ended, fit for the log: nothing that a request brought along."""
        assertion = next((line for line in reversed(self.words) if "GGML_ASSERT" in line), "")
        if assertion:
            _log.error("the engine's last words: %s", assertion)
        return f"crashed: {_exit(code)}"


def interpreter() -> str:
    return sandbox.interpreter()


def jail(wanted: Wanted) -> tuple[Jail, Launch]:
    """What this engine sees (the interpreter, `xllamacpp`, its program and the model) and how it is started.

    Raises:
        ConfigError: `xllamacpp` is not installed.
    """
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        raise ConfigError("the engine is not installed: pip install 'daulat[serve]'")
    package = Path(found.origin).parent
    program = Path(__file__).parent / "engine.py"
    needs = [wanted.model, program, package, Path(found.origin), Path(sandbox.interpreter()), Path(os.__file__)]
    uid = sandbox.own_uid(wanted.replica, needs)
    launch = Launch(
        model=_MODEL,
        name=wanted.name,
        socket=f"{sandbox.WRITABLE}/{SOCKET}",
        scratch=sandbox.WRITABLE,
        slots=wanted.slots,
        context=wanted.context,
        threads=wanted.threads,
        embeds=wanted.embeds,
        uid=uid,
    )
    own = [(package, "/daulat/xllamacpp"), (program, _PROGRAM), (wanted.model, _MODEL)]
    if (libraries := package.parent / "xllamacpp.libs").is_dir():  # where a wheel carries shared libraries of its own
        own.append((libraries, "/daulat/xllamacpp.libs"))
    confined = Jail(
        (sandbox.interpreter(), "-I", "-S", _PROGRAM, json.dumps(launch.arguments())),
        (*sandbox.system_files(), *own),
        wanted.folder,
        uid,
        hidden=sandbox.covered(),
    )
    return confined, launch


async def start(wanted: Wanted, bpf: bytes, reports: Reports) -> Engine:
    """Start it and wait until it listens, saying how far loading is.

    Raises:
        EngineDead: it could not be started; the message holds the engine's own reason.
    """
    confined, launch = jail(wanted)
    pipe = asyncio.subprocess.PIPE
    devnull = asyncio.subprocess.DEVNULL
    sandboxed = await sandbox.start(confined, bpf=bpf, stdin=devnull, stdout=pipe, stderr=pipe, limit=_LONGEST_LINE)
    words: deque[str] = deque(maxlen=_TAIL)
    listening = asyncio.create_task(_listen(sandboxed, words))
    progress = asyncio.create_task(_progress(sandboxed, wanted.model, reports))
    try:
        said = await asyncio.wait_for(listening, LOAD_SECONDS)
    except TimeoutError:
        await sandboxed.kill()
        raise EngineDead(f"the engine did not load its model within {LOAD_SECONDS:.0f} s") from None
    except BaseException:
        await sandboxed.kill()
        raise
    finally:
        progress.cancel()
    reports.say("loading", progress=1.0)
    sandboxed.facts["grade"] = "G2"
    description = {"name": "llama.cpp", "version": f"xllamacpp {said['version']}", "parameters": launch.parameters()}
    return Engine(sandboxed, description, device(), words)


async def _listen(sandboxed: Sandboxed, words: deque[str]) -> dict[str, Any]:
    """The engine's line on stdout; its stderr is drained from here on for as long as it lives."""
    stdout, stderr = sandboxed.process.stdout, sandboxed.process.stderr
    if stdout is None or stderr is None:
        raise EngineDead("the engine was started without pipes")
    drain = asyncio.create_task(_remember(stderr, words))
    sandboxed.keep(drain)
    line = await stdout.readline()
    if not line:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(drain), 2.0)
        code = await sandboxed.process.wait()
        raise EngineDead(f"the engine did not start ({_exit(code)}): {reason(words)}")
    said: dict[str, Any] = json.loads(line)
    return said


async def _remember(stream: asyncio.StreamReader, words: deque[str]) -> None:
    while line := await stream.readline():
        words.append(line.decode(errors="replace").rstrip()[:500])


async def _progress(sandboxed: Sandboxed, model: Path, reports: Reports) -> None:
    size = model.stat().st_size
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        reports.say("loading", progress=round(loading_progress(sandboxed.resident_bytes(), size), 3))


def reason(words: deque[str]) -> str:
    """What a person needs of the engine's stderr: the lines that speak of trouble, else the last ones."""
    telling = [line for line in words if _TROUBLE.search(line)] or list(words)
    return "; ".join(_PREFIX.sub("", line) for line in telling[-4:]) or "no reason given"


def device() -> dict[str, Any]:
    """The processor, as the kernel names it."""
    product = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            product = found[1]
    return {"kind": "cpu", "product": product, "count": len(os.sched_getaffinity(0))}


def _exit(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    if code > _SHELL_SIGNAL:  # bubblewrap passes its child's signal on as a shell does
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(code - _SHELL_SIGNAL).name}"
    return f"exit code {code}"

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from daulat.adapters import engine_http, interpreters, sandbox
from daulat.adapters.reports import Reports
from daulat.adapters.sandbox import Jail, Sandboxed
from daulat.agent.supervise import loading_progress
from daulat.engines.llamacpp.engine import LLAMACPP, PROGRAM
from daulat.engines.options import Options
from daulat.engines.port import Command, Engine, Launch
from daulat.engines.recipes import deployed
from daulat.errors import ConfigError, EngineDead, EngineError
from daulat.registry import layout

_log = logging.getLogger(__name__)
LOAD_SECONDS: Final = 600.0
SLOWEST_LOADING: Final = 200_000_000  # bytes a second: a large model on slow storage gets longer
SOCKET: Final = "e.sock"
_INSIDE: Final = "/daulat/inside.py"
_PACKAGES: Final = "/daulat/packages"
_TAIL: Final = 1000  # lines of the engine's stderr that are kept
_PROGRESS_SECONDS: Final = 0.25
HEALTH_SECONDS: Final = 5.0
_OK: Final = 200
_SHELL_SIGNAL: Final = 128
_LONGEST_LINE: Final = 1_048_576
_TROUBLE: Final = re.compile(r"\b(E|W)\s+\w+\s+\S+:|GGML_ASSERT|what\(\)|[Ee]rror\b|[Ff]ailed")
_RAISED: Final = re.compile(r"(?:^|\] |: )((?:[A-Z]\w*)?(?:Error|Exception): .+)")
_PREFIX: Final = re.compile(r"^[\d.]+ [A-Z] \w+\s+\S+: ")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The engine to be kept alive. Sizes in tokens, memory in MiB (0: no limit)."""

    replica: str
    name: str
    model: Path  # a GGUF file, or a folder of safetensors
    folder: Path
    slots: int
    context: int
    threads: int
    embeds: bool
    memory_mib: int
    engine: Engine = LLAMACPP
    options: Options = field(default_factory=Options)
    files: Mapping[str, str] = field(default_factory=dict)  # that the engine reads, by name: a recipe's

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET

    @property
    def served(self) -> str:
        """What the engine calls the model."""
        return self.options.served_as or self.name

    @property
    def address(self) -> str:
        """Where the gateway asks it (`engines.address`)."""
        return self.options.address or f"unix:{self.socket}"


class Body(Protocol):
    """What a supervisor watches and ends: a sandbox, or an engine elsewhere (`processes.elsewhere`)."""

    facts: dict[str, Any]

    @property
    def process(self) -> Process: ...

    def resident_bytes(self) -> int: ...

    def cpu_seconds(self) -> float: ...

    async def ended(self) -> int: ...

    async def stop(self, seconds: float) -> None: ...


class Process(Protocol):
    """Of `asyncio.subprocess.Process`, what is looked at."""

    @property
    def returncode(self) -> int | None: ...


@dataclass(slots=True)
class Running:
    """A running engine: it has said that it listens."""

    body: Body
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
    """What this engine sees (an interpreter, its own packages, its program and the model) and how it is started.

    Raises:
        ConfigError: the engine is not installed, or is none that is started.
    """
    own, python, base = _seen(wanted)
    shown, inside, model = _model(wanted.model)
    files = [path for path in shown.rglob("*") if path.is_file()]
    needs = [shown, *files, *(here for here, _ in own), Path(python), Path(os.__file__)]
    uid = sandbox.own_uid(wanted.replica, needs)
    options = wanted.options
    launch = Launch(
        model=model,
        name=wanted.name,
        socket=f"{sandbox.WRITABLE}/{SOCKET}",
        scratch=sandbox.WRITABLE,
        slots=wanted.slots,
        context=wanted.context,
        threads=wanted.threads,
        embeds=wanted.embeds,
        uid=uid,
        python=python,
        cores=len(os.sched_getaffinity(0)),
        accelerated=bool(options.devices),
        kv_cache_gib=options.kv_cache_gib,
        arguments=options.arguments,
        environment=options.environment,
    )
    command = _command(wanted.engine, launch)
    confined = Jail(
        command.argv,
        (*sandbox.system_files(), *own, (shown, inside), *_written(wanted, uid)),
        wanted.folder,
        uid,
        hidden=sandbox.covered(),
        devices=options.devices,
        environment=tuple({**base, **command.environment}.items()),
        shared_memory=wanted.engine.shared_memory,
        families=wanted.engine.families,
    )
    return confined, launch


def _written(wanted: Wanted, uid: int | None) -> Iterator[tuple[Path, str]]:
    """What a recipe has the engine read, owned by it and shown read-only (here, inside)."""
    folder = wanted.folder.with_name(f"{wanted.folder.name}-files")
    if wanted.files:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in wanted.files.items():
        path = folder / Path(name).name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
        if uid is not None:
            os.chown(path, uid, uid)
        path.chmod(0o640)  # as MindIE wants it
        yield path, f"{deployed.FILES}/{path.name}"


def _model(path: Path) -> tuple[Path, str, str]:
    """What is shown of the model, where that stands inside, and the model's own path there."""
    if path.is_dir():
        return path, "/model", "/model"
    if layout.SPLIT.match(path.name):  # the first of several files, which is all that the engine is told
        return path.parent, "/model", f"/model/{path.name}"
    return path, "/model/model.gguf", "/model/model.gguf"


def _command(engine: Engine, launch: Launch) -> Command:
    """Engines of others get their uid, relays and files by `inside.py`; llama.cpp's program is our own."""
    if engine.command is None:
        raise ConfigError(f"{engine.name} runs elsewhere and is not started here")
    command = engine.command(launch)
    if engine is LLAMACPP:
        return command
    order = {"uid": launch.uid, "argv": command.argv, "relays": dict(command.relays), "files": dict(command.files)}
    return Command((sandbox.interpreter(), "-I", "-S", _INSIDE, json.dumps(order)), command.environment)


def _seen(wanted: Wanted) -> tuple[list[tuple[Path, str]], str, Mapping[str, str]]:
    """What the engine sees of its own (here, inside), the interpreter it runs with, and its basic environment."""
    here = Path(__file__).parent
    if wanted.engine is LLAMACPP:
        found = importlib.util.find_spec("xllamacpp")
        if found is None or found.origin is None:
            raise ConfigError("the engine is not installed: pip install 'daulat[serve]'")
        package = Path(found.origin).parent
        own = [(package, "/daulat/xllamacpp"), (here / "engine.py", PROGRAM)]
        if (libraries := package.parent / "xllamacpp.libs").is_dir():  # where a wheel carries libraries of its own
            own.append((libraries, "/daulat/xllamacpp.libs"))
        return own, sandbox.interpreter(), {}
    paths = [path for path in wanted.engine.sees if Path(path).exists()] + [*wanted.options.read_only]
    own = [(here / "inside.py", _INSIDE), *((Path(path).resolve(), path) for path in paths)]
    environment = {
        "HOME": sandbox.WRITABLE,
        "TMPDIR": sandbox.WRITABLE,
        "XDG_CACHE_HOME": f"{sandbox.WRITABLE}/cache",
        "USER": "engine",  # there are no accounts inside to look it up in
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
    }
    if not wanted.engine.own_python:
        return own, sandbox.interpreter(), environment
    if not wanted.options.python:
        said = f"{wanted.engine.name} has an environment of its own: name its interpreter, as in"
        raise ConfigError(f'{said} {{"python": "/opt/vllm/bin/python"}}', location="--engine-options")
    python = interpreters.look(Path(wanted.options.python))
    own += [(path, str(path)) for path in (*python.libraries, python.executable)]
    own.append((python.packages, _PACKAGES))
    return own, str(python.executable), {**environment, "PYTHONPATH": _PACKAGES}


async def start(wanted: Wanted, bpf: bytes, reports: Reports) -> Running:
    """Start it and wait until it listens, saying how far loading is.

    Raises:
        EngineDead: it could not be started; the message holds the engine's own reason.
    """
    confined, launch = jail(wanted)
    pipe = asyncio.subprocess.PIPE
    sandboxed = await sandbox.start(confined, bpf=bpf, stdin=pipe, stdout=pipe, stderr=pipe, limit=_LONGEST_LINE)
    words: deque[str] = deque(maxlen=_TAIL)
    size = model_bytes(wanted.model)
    limit = LOAD_SECONDS + size / SLOWEST_LOADING
    waiting = _listen(sandboxed, words) if wanted.engine is LLAMACPP else _healthy(sandboxed, words, wanted)
    listening = asyncio.create_task(waiting)
    progress = asyncio.create_task(_progress(sandboxed, size, reports))
    try:
        async with asyncio.timeout(limit):
            version = await listening
    except TimeoutError:
        await sandboxed.kill()
        raise EngineDead(f"the engine did not load its model within {limit:.0f} s") from None
    except BaseException:
        await sandboxed.kill()
        raise
    finally:
        progress.cancel()
    reports.say("loading", progress=1.0)
    sandboxed.facts["grade"] = "G2"
    description = {"name": wanted.engine.name, "version": version, "parameters": wanted.engine.parameters(launch)}
    description["answers"] = wanted.engine.checks(embeds=wanted.embeds)
    return Running(sandboxed, description, dict(wanted.options.device) or device(), words)


def model_bytes(model: Path) -> int:
    shown, _, _ = _model(model)
    files = [shown] if shown.is_file() else [path for path in shown.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


async def _listen(sandboxed: Sandboxed, words: deque[str]) -> str:
    """The engine's line on stdout, and the version in it; its stderr is drained for as long as it lives."""
    drain = _drained(sandboxed, words, sandboxed.process.stderr)
    stdout = sandboxed.process.stdout
    line = await stdout.readline() if stdout is not None else b""
    if not line:
        await _dead(sandboxed, words, [drain])
    return f"xllamacpp {json.loads(line)['version']}"


async def _healthy(sandboxed: Sandboxed, words: deque[str], wanted: Wanted) -> str:
    """Until the engine answers on its socket, and what it says of its version; its words are drained while it lives."""
    process, engine = sandboxed.process, wanted.engine
    drains = [_drained(sandboxed, words, stream) for stream in (process.stdout, process.stderr)]
    while True:
        if process.returncode is not None:
            await _dead(sandboxed, words, drains)
        with contextlib.suppress(EngineError):
            status, _ = await engine_http.fetch(wanted.socket, "GET", engine.health_path, seconds=HEALTH_SECONDS)
            if status == _OK:
                break
        await asyncio.sleep(_PROGRESS_SECONDS)
    with contextlib.suppress(EngineError, ValueError, TypeError, KeyError):
        if engine.version_path:
            _, body = await engine_http.fetch(wanted.socket, "GET", engine.version_path, seconds=HEALTH_SECONDS)
            return str(json.loads(body)["version"])[:64]
    return "unknown"


def _drained(sandboxed: Sandboxed, words: deque[str], stream: asyncio.StreamReader | None) -> asyncio.Task[None]:
    if stream is None:
        raise EngineDead("the engine was started without pipes")
    drain = asyncio.create_task(_remember(stream, words))
    sandboxed.keep(drain)
    return drain


async def _dead(sandboxed: Sandboxed, words: deque[str], drains: list[asyncio.Task[None]]) -> None:
    """Raises:
    EngineDead: always, with what it said last.
    """
    await asyncio.wait(drains, timeout=2.0)
    code = await sandboxed.ended()
    raise EngineDead(f"the engine did not start ({_exit(code)}): {reason(words)}")


async def _remember(stream: asyncio.StreamReader, words: deque[str]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the limit, and dropped
            continue
        if not line:
            return
        words.append(line.decode(errors="replace").rstrip()[:500])


async def _progress(sandboxed: Sandboxed, size: int, reports: Reports) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        reports.say("loading", progress=round(loading_progress(sandboxed.resident_bytes(), size), 3))


def reason(words: deque[str]) -> str:
    """What a person needs of the engine's stderr: the first of Python's exceptions, else the lines that speak of
    trouble, else the last ones."""
    if said := raised(words):
        return said
    telling = [line for line in words if _TROUBLE.search(line)] or list(words)
    return "; ".join(_PREFIX.sub("", line) for line in telling[-4:]) or "no reason given"


def raised(words: deque[str]) -> str:
    """Python's exceptions among an engine's words, or "". Of several processes' the first is the cause and the others
    its echo."""
    found = [match[1] for line in words if (match := _RAISED.search(line))]
    return "; ".join(list(dict.fromkeys(found))[:2])


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

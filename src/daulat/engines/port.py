"""The engine port: what starting an engine takes and what a running one tells, whichever engine it is. Pure.

An `Engine` is a description. `processes/launcher.py` starts what its `command` says inside a sandbox,
`processes/supervisor.py` asks its `health` and `metrics`, and the gateway speaks its `dialect`. The known ones stand in
`engines/known.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from daulat.engines import exposition
from daulat.engines.answers import Asker
from daulat.errors import EngineError

Fetch = Callable[[str, str, bytes], Awaitable[tuple[int, bytes]]]
"""`fetch(method, path, body) -> (status, body)` to one engine. Raises EngineError."""

LONGEST_DEFAULT_CONTEXT: Final = 8192
CHAT: Final = ("chat.completions", "completions")
EMBED: Final = ("embeddings",)


@dataclass(frozen=True, slots=True)
class Launch:
    """How one engine is started. Paths are those inside its sandbox; sizes in tokens."""

    model: str  # a GGUF file, or a folder of safetensors
    name: str  # what clients call the model; its path never leaves the sandbox
    socket: str
    scratch: str
    slots: int
    context: int  # of one slot
    threads: int
    embeds: bool
    uid: int | None  # the uid the program takes before it reads the model
    python: str = ""  # the engine's own interpreter, where it has one
    cores: int = 1  # that this host lets it use
    accelerated: bool = False  # by devices that were handed to it
    kv_cache_gib: int = 0  # memory for keys and values on a CPU; 0: the engine's default here
    arguments: tuple[str, ...] = ()  # the operator's, after ours
    environment: Mapping[str, str] = field(default_factory=dict)  # the operator's, over ours

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Command:
    """What runs inside the sandbox. `relays`: loopback ports by the names of the sockets that stand for them, for
    engines that listen on TCP alone. `files`: texts that it reads, by where they are written before it starts."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    relays: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counters:
    """The engine's own, since its start. `prompt_tokens` excludes those found in its cache."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Load:
    """Requests inside an engine at one moment."""

    running: int
    waiting: int

    @property
    def idle(self) -> bool:
        return self.running == self.waiting == 0


@dataclass(frozen=True, slots=True)
class MetricNames:
    """What an engine calls its counters in Prometheus' text format. Values are summed over labels."""

    prompt: str
    completion: str
    running: str
    waiting: str
    cached: str = ""  # "": it does not tell
    prompt_has_cached: bool = False  # `prompt` counts tokens found in the cache, too
    absent_is_zero: bool = False  # a counter appears only with its first event

    def _read(self, text: bytes, *names: str) -> list[int]:
        found = exposition.totals(text, frozenset(names))
        if missing := [name for name in names if name not in found and not self.absent_is_zero]:
            raise EngineError(f"the engine's metrics lack {', '.join(missing)}")
        return [int(found.get(name, 0)) for name in names]

    def counters(self, text: bytes) -> Counters:
        """Raises:
        EngineError: a counter is missing or is no number.
        """
        prompt, completion = self._read(text, self.prompt, self.completion)
        (cached,) = self._read(text, self.cached) if self.cached else (0,)
        if self.prompt_has_cached:
            prompt -= cached
        if prompt < 0:
            raise EngineError(f"the engine's metrics say that more of {self.prompt} was cached than there was")
        return Counters(prompt, cached, completion)

    def load(self, text: bytes) -> Load:
        """Raises:
        EngineError: a gauge is missing or is no number.
        """
        return Load(*self._read(text, self.running, self.waiting))


def added_arguments(launch: Launch) -> dict[str, Any]:
    """Arguments that the operator added shape answers, so they are logged as they are: they must not be secrets."""
    return {"slots": launch.slots, "context": launch.context, "arguments": list(launch.arguments)}


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of engine.

    `families` are those of sockets that its sandbox allows (`agent.seccomp.FAMILIES`).
    """

    name: str
    dialect: str  # how the gateway speaks to it: "llama.cpp", "vllm", or "openai" as it is
    metrics: MetricNames | None  # None: it has none, and the audit cannot reconcile its use
    parameters: Callable[[Launch], dict[str, Any]]  # for `replica.started/v1`: what shapes answers, no paths
    command: Callable[[Launch], Command] | None = None  # None: it runs already, elsewhere
    actions: tuple[str, ...] = CHAT  # of the API, for a model that generates
    families: tuple[str, ...] = ("unix",)
    shared_memory: bool = False  # several processes, which share memory
    sees: tuple[str, ...] = ()  # what of this host it cannot start without: programs, the kernel's account of its cores
    own_python: bool = False  # its package is not Daulat's: the operator names its interpreter
    version_path: str = ""  # where it says its `version`, as a member of a JSON object
    asker: Callable[[Fetch, str], Asker] | None = None  # of likelihoods, for answer checks; given the model's name, too
    core_apart: bool = False  # another process computes than answers health probes, and may hang alone
    health_path: str = "/health"
    metrics_path: str = "/metrics"
    metrics_socket: str = ""  # beside the API's, where metrics have a port of their own

    def checks(self, *, embeds: bool) -> str:
        """How its answers are checked, for `replica.started/v1`: by "likelihoods", by "plain" questions, or "none"."""
        if embeds:
            return "none"
        return "plain" if self.asker is None else "likelihoods"

    def capabilities(self, *, embeds: bool) -> tuple[str, ...]:
        """The API's actions that it offers with a model that `embeds`, or generates."""
        return EMBED if embeds else self.actions


def threads_for(cores: int, wanted: int) -> int:
    """Compute threads: what was asked for, else one core is left to the gateway."""
    return wanted or max(1, cores - 1)


def context_for(wanted: int, trained: int) -> int:
    """Tokens of one slot: what was asked for, else the model's own up to 8192; never beyond what it was trained on."""
    limit = trained or LONGEST_DEFAULT_CONTEXT
    return min(wanted or LONGEST_DEFAULT_CONTEXT, limit)

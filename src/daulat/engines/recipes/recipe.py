"""What a launch recipe is made from, and what it is: processes with arguments and environment, files. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from daulat.catalog.accelerators import Hardware
from daulat.catalog.models import ModelSpec
from daulat.errors import ConfigError

GOALS: Final = ("throughput", "latency", "long-context", "disaggregated")
BALANCING: Final = ("internal", "external")
LONGEST: Final = 16 * 1024 * 1024  # tokens of context that anybody plans with
MOST_ANSWERS: Final = 1_000_000  # at once
MOST_DRAFTS: Final = 16
KV_POOLS: Final = ("mooncake", "memcache")
MOST_POOLED: Final = 1024  # GB of main memory for one device
DRAFTERS: Final = ("eagle3", "dflash")


class Misfit(ConfigError):
    """The weights, or one sequence of the context, have no room on a group's devices."""


WeightShare = Callable[[int, int], float]
"""`share(tp, devices)`: of one device's memory, what the weights take when attention is split over `tp` devices and
experts over all `devices` of the group. Above 1 they do not fit. The planner fills this port."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a group's devices leave to the KV cache. `longest`: tokens that one sequence could have; `holds`: whether
    that is enough; `why`: in a sentence, why not; `tight`: the share of the memory that must be asked for, 0 where the
    usual one does.
    """

    holds: bool
    longest: int
    tight: float = 0
    why: str = ""


Rooms = Callable[["Group", int], Room]
"""`room(group, context)`: weights, runtime and KV cache beside each other on the group's fullest device, where one
sequence of `context` tokens is wanted; 0 where no context in particular is. The planner fills this port, too."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the service shall do. None: the recipe's own choice.

    `context`: most tokens of prompt and answer; `concurrency`: answers at once, over all nodes that decode;
    `shared_prefix`: whether prompts begin alike often enough to keep a prefix cache; `drafts`: tokens drafted ahead by
    MTP; `balancing`: who spreads requests over data-parallel ranks, the engine (`internal`) or a proxy before it
    (`external`); `rebalance`: whether experts move between devices by load (EPLB); `layerwise`: whether a prefill node
    hands over the KV cache layer by layer; `layout`: (tensor-parallel size, data-parallel size) in place of the
    recipe's own, where nothing is disaggregated; `prefill_nodes`: how many read prompts where something is; `tpot`:
    most milliseconds between two tokens of an answer; `drafter`: the method (one of DRAFTERS) and the path of a model
    of its own that drafts, in place of the model's MTP layers; `kv_pool`: the store (one of KV_POOLS) that keeps KV
    cache in the nodes' main memory, with `kv_pool_gib` GB of it for each device; `shared_cache`: with a `layout`, of
    the tensor-parallel devices, how many share one sequence's cache.
    """

    goal: str = "throughput"
    context: int | None = None
    concurrency: int | None = None
    shared_prefix: bool | None = None
    drafts: int | None = None
    balancing: str | None = None
    rebalance: bool = False
    layerwise: bool = False
    layout: tuple[int, int] | None = None
    prefill_nodes: int | None = None
    tpot: int | None = None
    drafter: tuple[str, str] | None = None
    kv_pool: str | None = None
    kv_pool_gib: int = 10
    shared_cache: int = 1

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise ConfigError(f"goal is {self.goal!r}, expected one of {', '.join(GOALS)}", location="--goal")
        if self.balancing not in (None, *BALANCING):
            raise ConfigError(f"balancing is {self.balancing!r}, expected one of {', '.join(BALANCING)}")
        if self.context is not None and not 1 <= self.context <= LONGEST:
            raise ConfigError(f"a context of {self.context} tokens: from 1 to {LONGEST} can be planned")
        if self.concurrency is not None and not 1 <= self.concurrency <= MOST_ANSWERS:
            raise ConfigError(f"{self.concurrency} answers at once: from 1 to {MOST_ANSWERS} can be planned")
        if self.drafts is not None and not 0 <= self.drafts <= MOST_DRAFTS:
            raise ConfigError(f"{self.drafts} drafted tokens: from 0 to {MOST_DRAFTS} can be planned")
        if self.prefill_nodes is not None and self.prefill_nodes < 1:
            raise ConfigError(f"{self.prefill_nodes} nodes for prefill: at least 1", location="--prefill-nodes")
        if self.layout is not None and min(self.layout) < 1:
            raise ConfigError(f"tensor- and data-parallel sizes are at least 1, not {self.layout}")
        self._check_answers()

    def _check_answers(self) -> None:
        if self.drafter is not None:
            if self.drafter[0] not in DRAFTERS:
                raise ConfigError(
                    f"drafting method {self.drafter[0]!r}: known are {', '.join(DRAFTERS)}", location="--drafter"
                )
            _refuse_flag("path", self.drafter[1])
        if self.kv_pool not in (None, *KV_POOLS):
            raise ConfigError(f"KV pool {self.kv_pool!r}: known are {', '.join(KV_POOLS)}", location="--kv-pool")
        if not 1 <= self.kv_pool_gib <= MOST_POOLED:
            raise ConfigError(f"{self.kv_pool_gib} GB a device: from 1 to {MOST_POOLED}", location="--kv-pool-gib")
        if self.tpot is not None and self.tpot < 1:
            raise ConfigError(f"{self.tpot} ms between tokens: at least 1", location="--tpot")


@dataclass(frozen=True, slots=True)
class Site:
    """Where it shall run, which no catalogue knows.

    `addresses`: one a node; `interface`: each one's network card; `device_addresses`: of each node's devices.
    """

    weights: str
    name: str
    addresses: tuple[str, ...] = ("127.0.0.1",)
    interface: str = "eth0"
    port: int = 8000
    device_addresses: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for what, text in (("path", self.weights), ("name", self.name), ("interface", self.interface)):
            _refuse_flag(what, text)
        for address in self.addresses:
            _refuse_flag("address", address)


@dataclass(frozen=True, slots=True)
class Request:
    """All that a recipe is made from."""

    model: ModelSpec
    hardware: Hardware
    precision: str
    workload: Workload
    site: Site
    share: WeightShare
    room: Rooms

    @property
    def published(self) -> bool:
        """Whether weights in this precision are known; engines make 16 bits of the one kind from the other's."""
        return ("bf16" if self.precision == "fp16" else self.precision) in self.model.weights

    @property
    def checkpoint(self) -> str:
        """The published weights in this precision; where none are known, the model's own name."""
        name = "bf16" if self.precision == "fp16" else self.precision
        return self.model.weights[name].checkpoint if self.published else self.model.title

    @property
    def context(self) -> int | None:
        """The wished-for context, refused where the model has none so long."""
        wished = self.workload.context
        if wished is not None and wished > self.model.context:
            raise ConfigError(f"{self.model.title} has a context of {self.model.context} tokens, not {wished}")
        return wished


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that serve as one engine: `dp` data-parallel ranks of `tp` devices each, over `nodes` (indices).

    `role`: mixed, prefill or decode. `ep`: devices that experts are spread over, 1 where there are none. `dcp`: of the
    tensor-parallel devices, how many share one sequence's KV cache between them.
    """

    role: str
    nodes: tuple[int, ...]
    tp: int
    dp: int
    ep: int = 1
    dcp: int = 1

    @property
    def local(self) -> int:
        """Data-parallel ranks on each node."""
        return max(1, self.dp // len(self.nodes))

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.tp * self.dp


@dataclass(frozen=True, slots=True)
class Process:
    """One command on one node. `devices`: logical ids it may use; `ports`: those it listens on.

    `sources`: where the value of each flag and variable is from, by its name, where the engine's recipe tells them.
    """

    name: str
    role: str
    node: int
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    devices: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class File:
    """A file that a process reads, at its path within the container. `node`: where, None for every node."""

    path: str
    text: str
    mode: str = "640"
    node: int | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of the host, seen inside the container at `inside`."""

    host: str
    inside: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Container:
    """How the processes' image is started. `options`: further words of `docker run`, such as the memory they share."""

    image: str
    devices: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    options: tuple[str, ...] = ()
    entrypoint: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A word to the operator, and where it is from."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole launch. `versions`: the software that the image and the host need, by name."""

    engine: str
    model: str
    checkpoint: str
    precision: str
    hardware: str
    goal: str
    context: int
    groups: tuple[Group, ...]
    processes: tuple[Process, ...]
    container: Container | None = None
    files: tuple[File, ...] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[Note, ...] = ()

    @classmethod
    def of(cls, request: Request, engine: str, **rest: Any) -> Recipe:
        """What was asked for, and in `rest` an engine's own answer to it."""
        asked: dict[str, Any] = {
            "checkpoint": request.checkpoint,
            "hardware": f"{request.hardware.nodes} x {request.hardware.node.title}",
        }
        model, goal = request.model.id, request.workload.goal
        return cls(engine=engine, model=model, precision=request.precision, goal=goal, **{**asked, **rest})


def _refuse_flag(what: str, text: str) -> None:
    """What an engine's parser would take for a flag of its own, or no shell can pass on."""
    if not text or text.startswith("-") or "\0" in text:
        raise ConfigError(f"{text!r} is no {what}: it must not be empty, begin with '-' or hold a NUL")


def refuse_precision(request: Request) -> None:
    """Raises:
    ConfigError: the chips do not compute in the request's precision.
    """
    chip = request.hardware.chip
    if request.precision not in chip.precisions:
        raise ConfigError(
            f"{chip.title} does not compute in {request.precision}; it does in {', '.join(chip.precisions)}",
            location="--precision",
        )


def flags(*pairs: tuple[str, object]) -> list[str]:
    """Arguments of a command: None and False leave a flag out, True gives it alone, all else follows as its value."""
    words: list[str] = []
    for name, value in pairs:
        if value is None or value is False:
            continue
        words.append(name)
        if value is not True:
            words.append(str(value))
    return words

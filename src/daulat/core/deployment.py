"""A deployment, the wish for some replicas of one model, in Kubernetes' words: spec, generation, status, conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

MOST_REPLICAS: Final = 64
STRATEGIES: Final = ("rolling", "recreate")
_NOT_OF_A_REPLICA: Final = frozenset({"replicas", "drain_seconds", "strategy"})
Phase = Literal["starting", "ready", "broken", "draining", "stopping"]
Truth = Literal["True", "False"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What is wished for. `context`: tokens of one slot, 0 leaves it to the model. Empty `engine`: by the model."""

    model: str  # hex digest of the imported model
    engine: str = ""
    devices: tuple[str, ...] = ()  # such as "npu:0"; empty leaves it to placement
    slots: int = 4
    context: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)  # the engine's own, passed through
    replicas: int = 1
    drain_seconds: int = 120  # how long running answers may go on when a replica is taken away
    strategy: str = "rolling"  # of `STRATEGIES`: new replicas beside the old ones, or after them

    @property
    def template(self) -> dict[str, Any]:
        """What shapes a replica: a change of it is a new revision, and a rollout."""
        return {name: value for name, value in self.as_dict().items() if name not in _NOT_OF_A_REPLICA}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "devices": list(self.devices), "options": dict(self.options)}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Spec:
        """The inverse of `as_dict`."""
        return cls(**{**value, "devices": tuple(value["devices"])})


@dataclass(frozen=True, slots=True)
class Share:
    """What one replica gets of this machine. `memory_mib`: beyond it the engine is restarted."""

    threads: int
    memory_mib: int
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is, or is not, so. `reason` is one word for scripts, `message` is for people."""

    type: Literal["Available", "Progressing"]
    status: Truth
    reason: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)

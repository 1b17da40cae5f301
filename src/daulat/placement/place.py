"""This machine's cores, memory and devices, shared out among the replicas that are wished for.

A replica's share depends on the wishes alone, never on what happens to run: a rollout's extra replica changes nobody's,
and every replica is started with the share that it will have when the rollout is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daulat.core.deployment import Share

_OVERHEAD = 1.2  # of a model file: what the engine makes of it beside (buffers, KV cache)
_FLOOR_MIB = 128  # an engine with a tiny model


@dataclass(frozen=True, slots=True)
class Budget:
    """What engines may use. `threads`: compute threads in all; `memory_mib`: of the host."""

    threads: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One deployment's: so many replicas, each needing so much host memory, on these devices ("cpu": none)."""

    deployment: str
    replicas: int
    memory_mib: int
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """No room: why, in words."""

    reason: str


def memory_needed(model_bytes: int) -> int:
    """MiB that one replica on the CPU needs at least, by the size of its model file: an estimate from below."""
    return round(model_bytes / 2**20 * _OVERHEAD) + _FLOOR_MIB


def place(budget: Budget, claims: Sequence[Claim]) -> dict[str, tuple[Share, ...] | Refused]:
    """A share for each replica of each deployment, in the order of the claims: who came first keeps its place."""
    fitting: list[Claim] = []
    found: dict[str, tuple[Share, ...] | Refused] = {}
    left, taken = budget.memory_mib, dict[str, str]()
    for claim in claims:
        need = claim.memory_mib * claim.replicas
        held = next((device for device in claim.devices if device in taken), None)
        if need > left:
            words = f"{claim.replicas} replicas need {need} MiB of memory, {left} of {budget.memory_mib} are left"
            found[claim.deployment] = Refused(f"{words}: stop another deployment, or ask for fewer replicas")
        elif held is not None:
            found[claim.deployment] = Refused(
                f"{held} belongs to deployment {taken[held]!r}: stop that, or choose others"
            )
        elif claim.devices and len(claim.devices) % max(1, claim.replicas):
            words = f"{len(claim.devices)} devices cannot be shared out among {claim.replicas} replicas evenly"
            found[claim.deployment] = Refused(words)
        else:
            left -= need
            taken.update(dict.fromkeys(claim.devices, claim.deployment))
            fitting.append(claim)
    replicas = sum(claim.replicas for claim in fitting)
    computing = sum(claim.replicas for claim in fitting if not claim.devices)
    for claim in fitting:
        each = len(claim.devices) // max(1, claim.replicas)
        found[claim.deployment] = tuple(
            Share(
                threads=max(1, budget.threads // max(1, computing)) if not claim.devices else 1,
                memory_mib=claim.memory_mib + left // replicas,
                devices=claim.devices[number * each : (number + 1) * each],
            )
            for number in range(claim.replicas)
        )
    return found

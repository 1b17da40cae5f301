"""A node's lease: when it is granted, renewed, and over. Pure; time comes in as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Term:
    """From when to when a lease holds: Unix milliseconds, and the same end in seconds since boot."""

    not_before: int
    expires: int
    expires_boottime: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine runs that Daulat does not run: a node of its own, and what is stated of it.

    `grade`: G1, the operator states it, or G3, the organisation `vouched_by` does.
    """

    node: str
    jurisdiction: str  # ISO 3166-1 alpha-2
    site: str  # in words
    grade: str
    vouched_by: str = ""

    def evidence(self) -> dict[str, Any]:
        """What its lease rests on. Nothing of it was seen, so there is no sandbox, canary or inventory in it."""
        whose = {"vouched_by": self.vouched_by} if self.vouched_by else {}
        return {
            "site": {"grade": self.grade, "statement": self.site, **whose},
            "external": {"grade": self.grade, **whose},
        }


def term(now_ms: int, boottime: float, seconds: int) -> Term:
    """A lease of this length from now. Its end is the earlier of both clocks: setting one back gains nothing."""
    return Term(now_ms, now_ms + seconds * 1000, boottime + seconds)


def due(held: Term | None, now_ms: int, boottime: float) -> bool:
    """Whether to ask for a new lease: there is none, or less than half of it is left."""
    if held is None:
        return True
    half = (held.expires - held.not_before) / 2
    return held.expires - now_ms < half or (held.expires_boottime - boottime) * 1000 < half


def evidence(
    *, sandbox: Mapping[str, Any], canary: Mapping[str, Any] | None, inventory: Mapping[str, Any], site: str
) -> dict[str, Any]:
    """What a lease rests on, each kind with its grade (architecture.md section 1).

    The canary's word is G2 while it found the engine contained: the node's kernel enforced it and it was probed. What
    the node says of itself, and what the operator says of the place, is G1.
    """
    contained = canary is not None and canary["outcome"] == "contained"
    return {
        "sandbox": dict(sandbox),
        "canary": {"grade": "G2" if contained and canary is not None and canary.get("sandboxed", True) else "G1"},
        "inventory": {"grade": "G1", **inventory},
        "site": {"grade": "G1", "statement": site},
    }

"""Decisions remembered, under everything they depend on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from daulat.core.decision import Decider, Decision, Question

MAX_DECISIONS: Final = 16_384


class CachedDecider:
    """Remembers by a key which the caller guarantees to cover every value of the question.

    The gateway's key is (charter, policy, principal's version, action, model, what rules see of the lease). Charter,
    policy and model are log indices: entries never change, so these stand for every value. A lease is renewed every few
    minutes, and with ten thousand keys no decision may be made anew for that. Liveness (expiry, revocation) is never
    cached.
    """

    def __init__(self, decider: Decider) -> None:
        self._decider = decider
        self._decisions: dict[Hashable, Decision] = {}

    def decide(self, key: Hashable, build: Callable[[], Question]) -> Decision:
        """The remembered decision, or a new one over the question that `build` makes."""
        found = self._decisions.get(key)
        if found is None:
            if len(self._decisions) >= MAX_DECISIONS:
                self._decisions.clear()
            found = self._decisions[key] = self._decider.decide(build())
        return found

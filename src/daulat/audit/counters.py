"""An engine's own token counters against the log: use that went past the gateway.

At each reading, what the engine has counted since its start must not exceed what the log shows for the requests that
were admitted until then. (llama.cpp's prompt counter leaves cached tokens out; so does the sum here, and it adds the
tokens that the gateway spent itself, `overhead`.) Slack is given, and stated, for requests whose tokens nobody can know
(aborted, failed, interrupted: up to the context length each) and, at readings so young that requests may be in flight,
for as many as the engine has slots.

Its supervisor spends tokens, too: it checks the engine's answers (`engines.answers`), and says how many of those
counted were its own (`checked_...`). At most two rounds of checks fit between two readings; more would be a cloak for
other use.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from daulat.audit.facts import ReplicaFacts
from daulat.audit.finding import Finding

KINDS = ("prompt_tokens", "completion_tokens")
MOST_CHECKED = 8192  # tokens of a kind between two readings


@dataclass(slots=True)
class _Sums:
    prompt: int = 0
    completion: int = 0
    unknown: int = 0  # requests whose tokens are not known


@dataclass(frozen=True, slots=True)
class _Reading:
    index: int
    time: int
    counters: Mapping[str, int]
    until: _Sums  # of requests admitted after the reading before, until this one

    def used(self, kind: str) -> int:
        return _used(self.counters, kind)


class Account:
    """One replica's logged tokens, cut at its counters' readings."""

    __slots__ = ("_open", "_readings", "_times", "facts", "read_at")

    def __init__(self, facts: ReplicaFacts) -> None:
        self.facts = facts
        self.read_at = -1  # time of the newest reading
        self._open = _Sums()
        self._readings: list[_Reading] = []
        self._times: list[int] = []

    def add(self, admitted: int, prompt: int, completion: int, unknown: int) -> None:
        """Book one request's tokens: those the engine processed, so without cached ones."""
        sums = self._open
        if admitted <= self.read_at:
            sums = self._readings[bisect_left(self._times, admitted)].until
        sums.prompt += prompt
        sums.completion += completion
        sums.unknown += unknown

    def read(self, index: int, time: int, counters: Mapping[str, int], *, exact: bool = True) -> Iterator[Finding]:
        """Take in one reading of the engine's counters.

        Not `exact`: what was last seen of an engine that is lost. A control plane that was killed may remember less
        than its last canary had already brought into the log; then this adds nothing.
        """
        before = self._readings[-1].counters if self._readings else self.facts.counters
        if before is not None and any(counters[kind] < before[kind] for kind in KINDS):
            if not exact:
                return
            yield Finding("counters", "the engine's counters went backwards", index)
        for kind in KINDS:
            since = _checked(counters, kind) - (0 if before is None else _checked(before, kind))
            if not 0 <= since <= MOST_CHECKED:
                words = f"answer checks claim {since} {kind.replace('_', ' ')} since the reading before"
                yield Finding("counters", f"{words}, at most {MOST_CHECKED} are due to them", index)
        self._readings.append(_Reading(index, time, counters, self._open))
        self.read_at = max(self.read_at, time)  # clocks may be set back; `add` searches times that ascend
        self._times.append(self.read_at)
        self._open = _Sums()

    @property
    def has_readings(self) -> bool:
        return bool(self._readings)

    def settle(self, settled_before: int) -> Iterator[Finding]:
        """Compare every reading; those taken at or after `settled_before` may have requests in flight."""
        for kind in KINDS:
            yield from self._settle(kind, settled_before)

    def _settle(self, kind: str, settled_before: int) -> Iterator[Finding]:
        logged = unknown = worst = 0
        start = 0 if self.facts.counters is None else _used(self.facts.counters, kind)
        found: Finding | None = None
        for reading in self._readings:
            sums = reading.until
            logged += sums.prompt if kind == "prompt_tokens" else sums.completion
            unknown += sums.unknown
            flying = 0 if reading.time < settled_before else self.facts.slots
            excess = reading.used(kind) - start - logged
            if excess > unknown * self.facts.context and excess > worst:
                worst = excess
                certain = excess > (unknown + flying) * self.facts.context
                if found is None or not found.lie:
                    found = self._excess(kind, reading, logged, unknown, start, lie=certain)
        if found is not None:
            yield found

    def _excess(self, kind: str, reading: _Reading, logged: int, unknown: int, start: int, *, lie: bool) -> Finding:
        words = (
            f"replica {self.facts.index} counted {reading.used(kind) - start} {kind.replace('_', ' ')}, the log "
            f"shows {logged} and {unknown} requests of unknown use: "
        )
        if lie:
            words += "the engine was used behind the gateway's back"
        else:
            words += "requests in flight may explain it, audit again later"
        return Finding("counters", words, reading.index, lie)


def _checked(counters: Mapping[str, int], kind: str) -> int:
    return counters.get(f"checked_{kind}", 0)


def _used(counters: Mapping[str, int], kind: str) -> int:
    return counters[kind] - _checked(counters, kind)

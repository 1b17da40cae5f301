"""An engine's own token counters against the log: use that went past the gateway.

Between any two readings, what the engine has counted must not exceed what the log shows for the requests that could
have been computed then: those admitted until the second, but for those that had ended well before the first. The
engine's start is the first reading of all. (llama.cpp's prompt counter leaves cached tokens out; so does the sum here,
and it adds the tokens that the gateway spent itself, `overhead`.)

Slack is given, and stated in every report, for requests whose tokens nobody can know (aborted, failed, interrupted): up
to the context length each, of either kind. It is good for the readings around such a request and no others: what was
left unused of it makes no room for use an hour later. At readings so young that requests may be in flight, as many
contexts are given as the engine has slots.

Its supervisor spends tokens, too: it checks the engine's answers (`engines.answers`), and says how many of those
counted were its own (`checked_...`). At most two rounds of checks fit between two readings; more would be a cloak for
other use.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from daulat.audit.facts import ReplicaFacts
from daulat.audit.finding import Finding

KINDS = ("prompt_tokens", "completion_tokens")
SPENT_MS = 600_000  # after its end an engine computes nothing more for a request, not even for one given up
MOST_CHECKED = 8192  # tokens of a kind between two readings


@dataclass(slots=True)
class _Sums:
    prompt: int = 0
    completion: int = 0
    unknown: int = 0  # requests whose tokens are not known

    def add(self, prompt: int, completion: int, unknown: int) -> None:
        self.prompt += prompt
        self.completion += completion
        self.unknown += unknown

    def of(self, kind: str) -> int:
        return self.prompt if kind == "prompt_tokens" else self.completion


@dataclass(frozen=True, slots=True)
class _Reading:
    index: int
    time: int
    counters: Mapping[str, int]
    until: _Sums  # of requests admitted after the reading before, until this one
    ended: _Sums  # of all requests that stand before this reading in the log
    ended_by: int  # time by which those had ended

    def used(self, kind: str) -> int:
        return _used(self.counters, kind)


@dataclass(frozen=True, slots=True)
class _Since:
    """A beginning to count from: what the engine had counted there, and what of the log could add nothing after it."""

    index: int | None  # of the reading; None: the engine's start
    used: int
    logged: int
    unknown: int

    def room(self, context: int) -> int:
        """The less, the more is forbidden to what follows."""
        return self.used - self.logged - self.unknown * context


class Account:
    """One replica's logged tokens, cut at its counters' readings."""

    __slots__ = ("_all", "_ended_by", "_open", "_readings", "_times", "facts", "read_at")

    def __init__(self, facts: ReplicaFacts) -> None:
        self.facts = facts
        self.read_at = -1  # time of the newest reading
        self._open, self._all = _Sums(), _Sums()
        self._ended_by = 0
        self._readings: list[_Reading] = []
        self._times: list[int] = []

    def add(self, admitted: int, ended: int, prompt: int, completion: int, unknown: int) -> None:
        """Book one request's tokens: those the engine processed, so without cached ones."""
        self._ended_by = max(self._ended_by, ended)
        sums = self._open
        if admitted <= self.read_at:
            sums = self._readings[bisect_left(self._times, admitted)].until
        sums.add(prompt, completion, unknown)
        self._all.add(prompt, completion, unknown)

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
        self._readings.append(_Reading(index, time, counters, self._open, replace(self._all), self._ended_by))
        self.read_at = max(self.read_at, time)  # clocks may be set back; `add` searches times that ascend
        self._times.append(self.read_at)
        self._open = _Sums()

    @property
    def has_readings(self) -> bool:
        return bool(self._readings)

    @property
    def unknown(self) -> tuple[int, int]:
        """How many requests' tokens are not known, and how many of each kind they leave room for in all."""
        return self._all.unknown, self._all.unknown * self.facts.context

    def settle(self, settled_before: int) -> Iterator[Finding]:
        """Compare every reading; those taken at or after `settled_before` may have requests in flight."""
        for kind in KINDS:
            yield from self._settle(kind, settled_before)

    def _settle(self, kind: str, settled_before: int) -> Iterator[Finding]:
        context = self.facts.context
        logged = unknown = worst = 0
        since = _Since(None, 0 if self.facts.counters is None else _used(self.facts.counters, kind), 0, 0)
        found: Finding | None = None
        for number, reading in enumerate(self._readings):
            logged += reading.until.of(kind)
            unknown += reading.until.unknown
            flying = 0 if reading.time < settled_before else self.facts.slots
            excess = reading.used(kind) - logged - since.used + since.logged
            slack = (unknown - since.unknown) * context
            if excess > slack and excess > worst:
                worst = excess
                certain = excess > slack + flying * context
                if found is None or not found.lie:
                    until = replace(since, logged=logged - since.logged, unknown=unknown - since.unknown)
                    found = self._excess(kind, reading, until, lie=certain)
            since = min(since, self._from(number, kind), key=lambda item: item.room(context))
        if found is not None:
            yield found

    def _from(self, number: int, kind: str) -> _Since:
        """Counting from this reading on: what had ended `SPENT_MS` before it adds nothing any more."""
        reading = self._readings[number]
        spent = bisect_left(
            self._readings, self._times[number] - SPENT_MS, hi=number + 1, key=lambda item: item.ended_by
        )
        ended = self._readings[spent - 1].ended if spent else _Sums()
        return _Since(reading.index, reading.used(kind), ended.of(kind), ended.unknown)

    def _excess(self, kind: str, reading: _Reading, until: _Since, *, lie: bool) -> Finding:
        counted = f"{reading.used(kind) - until.used} {kind.replace('_', ' ')}"
        if until.index is not None:
            counted += f" since entry {until.index}"
        words = (
            f"replica {self.facts.index} counted {counted}, the log shows {until.logged} and {until.unknown} requests "
            "of unknown use: "
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

"""Walking through a log's entries in order: the part of an audit that sees every byte, and so must be fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from daulat.audit import facts, fast, names, shards, state, words
from daulat.audit.chain import Chain, check_references, shortfalls
from daulat.audit.counters import Account
from daulat.audit.decisions import DeciderFactory, Decisions
from daulat.audit.facts import InferenceFacts
from daulat.audit.finding import Finding, Findings
from daulat.audit.promises import Promised
from daulat.audit.sequences import Worker
from daulat.audit.tree import Tree, leaf_hashes
from daulat.core import entries
from daulat.core.promise import Promise
from daulat.errors import DaulatError, VerificationFailed
from daulat.tlog.checkpoint import Checkpoint

LONGEST_ANSWER_MS: Final = 600_000
_LATE_MS: Final = 60_000  # an entry this much older than the ones before it is remarked on
_FUTURE_MS: Final = 60_000
_MAX_LEARNED: Final = 100_000  # routes, endings and callers: bounds memory
_TYPES: Final = ("", *entries.SHAPES)
_CODES: Final = {name: code for code, name in enumerate(_TYPES)}
_INFERENCE: Final = _CODES[entries.INFERENCE]
_ENDS_ROUTES: Final = frozenset({"policy/v1", "node.revoked/v1", "replica.stopped/v1"})


@dataclass(frozen=True, slots=True)
class Terms:
    """What an audit is held against. Times are Unix milliseconds."""

    now: int
    longest_answer: int = LONGEST_ANSWER_MS  # the service's limit on one answer
    promises: Sequence[Promise] = ()
    remembered: Mapping[str, str] = field(default_factory=dict)  # signed checkpoints by origin
    decider: DeciderFactory | None = None
    continued: bool = False  # a later shard goes on from this one, and has what is left open here


class Walk:
    """One audit under way. Bundles come in order; `finish` comes last."""

    def __init__(self, head: Checkpoint, terms: Terms, blob: Callable[[str], bytes], old: Checkpoint | None) -> None:
        self.findings = Findings()
        self.tree = Tree()
        self.promised = Promised(head.origin, terms.promises)
        self._head, self._terms, self._old = head, terms, old
        self._old_root: bytes | None = None
        self._types = bytearray()  # the type of each entry, as a code
        self._chain = Chain(head.origin, whole=True)
        self._decisions = None if terms.decider is None else Decisions(self._chain, terms.decider, blob)
        self._workers: dict[int, Worker] = {}
        self._accounts: dict[int, Account] = {}
        self._routes: dict[tuple[bytes, bytes], fast.Route] = {}
        self._learned = 0
        self._latest = 0  # the latest time any entry gave so far

    def bundle(self, new: Sequence[bytes], tile: bytes) -> None:
        """The next bundle's entries, and the level 0 tile published for it (steps 2 to 5)."""
        first = self.tree.size
        leaves = leaf_hashes(new)
        if self._old is not None and first <= self._old.size <= first + len(new):
            self._old_root = self.tree.root_with(leaves[: self._old.size - first])
        self.tree.add(leaves)
        if b"".join(leaves) != tile:
            self._add("tile", "the level 0 tile is not that of the entries", first)
        self._types.extend(bytes([_INFERENCE]) * len(new))
        self._entries(first, new)

    def _entries(self, first: int, new: Sequence[bytes]) -> None:
        """Every entry, the fast way where it is known to hold (see `audit.fast`)."""
        known, head_of, tail_of = self._routes.get, fast.HEAD.match, fast.TAIL.match
        ends, promised, rerun = fast.ROUTE_ENDS, self.promised, self._decisions is not None
        for index, entry in enumerate(new, first):
            head = head_of(entry)
            if head is None:
                self._slow(index, entry)
                continue
            start = head.end()
            cut = entry.find(ends, start)
            route = known((head[3], entry[start:cut]))
            if route is None or (rerun and head[4] not in route.callers) or (tail := tail_of(entry, cut)) is None:
                self._slow(index, entry)
                continue
            sequence, name, finished, key, prompt_, cached_, completion, overhead, response = tail.groups()
            ending = route.endings.get(key)
            time, end, prompt, cached = int(head[2]), int(finished), int(prompt_), int(cached_)
            if (
                ending is None
                or name not in route.names
                or not route.not_before <= time <= route.not_after
                or end < time
                or end < self._latest - _LATE_MS
                or cached > prompt
                or (ending.responded and response == b"null")
                or (ending.last is None and not prompt_ == completion == overhead == b"0")
            ):
                self._slow(index, entry)
                continue
            self._latest = max(self._latest, end)
            wrong = route.worker.take(int(sequence), time)
            if wrong is not None:
                self._add("sequence", wrong, index)
            if ending.last is not None:
                # Whoever read a prefix ahead also made the one token without which llama.cpp reads nothing.
                made = int(completion) + (overhead != b"0")
                ending.last.add(time, end, prompt - cached + int(overhead), made, ending.unknown)
                for earlier in ending.earlier:
                    earlier.add(time, end, 0, 0, 1)
            if promised:
                promised.meet(head[1], index, entry)

    def _slow(self, index: int, entry: bytes) -> None:
        """One entry, in full."""
        self._types[index] = 0  # until it is known to be sound, nothing may refer to it
        try:
            value = entries.decode(entry)
            wrong = list(check_references(index, value, self._type_of))
            if value["type"] == entries.INFERENCE:
                self._inference(index, entry, value, wrong)
            else:
                self._control(index, value, wrong)
        except VerificationFailed as error:
            self._add("entry", error.message, index)

    def _control(self, index: int, value: Mapping[str, Any], wrong: list[Finding]) -> None:
        type_, time = value["type"], facts.natural(value, "time")
        if index == 0 and type_ != "charter/v1":
            self._add("charter", "a log begins with its charter", index)
        self._note_time(index, time)
        if not wrong:
            wrong += self._chain.add(index, value)
            self._types[index] = _CODES[type_]
            wrong += self._consequences(index, type_, value, time)
        for finding in wrong:
            self.findings.add(finding)
        if type_ in _ENDS_ROUTES or (type_ == "canary/v1" and value["outcome"] != "contained"):
            self._forget()
        if value.get("action") == names.APPLY:  # a name may stand for less than it could before
            self._forget()

    def _consequences(self, index: int, type_: str, value: Mapping[str, Any], time: int) -> Iterator[Finding]:
        """What an entry means for workers, accounts and decisions."""
        if type_ == "replica.started/v1":
            self._accounts[index] = Account(self._chain.replicas[index])
        elif type_ in {"canary/v1", "replica.stopped/v1"}:
            counted = facts.counters(value)
            if value["started"] is not None and counted is not None:
                exact = value.get("exact") is not False
                yield from self._accounts[value["started"]].read(index, time, counted, exact=exact)
        elif type_ == "node.lease/v1":
            yield from self._rerun(index, lambda run: run.check_lease(self._chain.leases[index]))
        elif type_ == "model.admitted/v1":
            yield from self._rerun(index, lambda run: run.check_model(self._chain.models[index]))
        elif type_ == "key/v1":
            key = self._chain.keys[index]
            self._workers[index] = Worker(key.not_after)

    def _inference(self, index: int, entry: bytes, value: Mapping[str, Any], wrong: list[Finding]) -> None:
        request = facts.inference(value)
        self._types[index] = _INFERENCE
        self._note_time(index, request.finished)
        if not wrong:
            wrong += self._chain.check(index, request)
        if not wrong:
            wrong += self._rerun(index, lambda run: run.check_inference(request))
        for finding in wrong:
            self.findings.add(finding)
        worker = self._workers.get(request.worker)
        taken = None if worker is None else worker.take(request.sequence, request.time)
        if taken is not None:
            self._add("sequence", taken, index)
        if all(attempt.replica in self._accounts for attempt in request.attempts):
            ending = fast.ending(request, self._accounts)
            if ending.last is not None:
                spent = max(0, request.prompt_tokens - request.cached_tokens) + request.overhead
                made = request.completion_tokens + (request.overhead > 0)
                ending.last.add(request.time, request.finished, spent, made, ending.unknown)
            for earlier in ending.earlier:
                earlier.add(request.time, request.finished, 0, 0, 1)
            if worker is not None and not wrong:
                self._learn(entry, request, worker, ending)
        self.promised.meet(request.request_id.encode(), index, entry)

    def _learn(self, entry: bytes, request: InferenceFacts, worker: Worker, ending: fast.Ending) -> None:
        """Know a sound entry's route and ending again."""
        parts = fast.split(entry)
        # An attempt under another lease has times of its own, which a route's do not bound.
        if parts is None or any((a.replica, a.lease) != (request.replica, request.lease) for a in request.attempts):
            return
        self._learned += 1
        if self._learned >= _MAX_LEARNED:
            self._forget()
        key, end, caller, name = parts
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = fast.Route(worker, *self._chain.lasts(request))
        route.endings[end] = ending
        route.names.add(name)
        if self._decisions is not None:
            route.callers.add(caller)

    def _forget(self) -> None:
        self._routes.clear()
        self._learned = 0

    def _rerun(self, index: int, check: Callable[[Decisions], str | None]) -> Iterator[Finding]:
        if self._decisions is None:
            return
        try:
            wrong = check(self._decisions)
        except DaulatError as error:
            wrong = f"the decision cannot be run again: {error.message}"
        if wrong is not None:
            yield Finding("decision", wrong, index)

    def _note_time(self, index: int, time: int) -> None:
        if time < self._latest - _LATE_MS:
            seconds = (self._latest - time) // 1000
            words = f"entered the log {seconds} s after its own time, which is the operator's word"
            self._add("late", words, index, lie=False)
        self._latest = max(self._latest, time)

    def finish(self) -> None:
        """What only the whole log can show (steps 1, 2, 6, 7 and 8).

        Raises:
            SplitView: the log does not continue the one remembered.
        """
        if self.tree.size != self._head.size or self.tree.root() != self._head.root:
            self._add("root", f"the entries do not lead to the checkpoint's root of {self._head.size} entries", None)
        charters = self._chain.charters
        margin = max((item.charter.margin_seconds for item in charters.values()), default=0) * 1000
        settled_before = self._terms.now - self._terms.longest_answer - margin
        for index, worker in self._workers.items():
            self._gaps(index, worker, settled_before)
        for finding in self.promised.settle(self._terms.now, self._chain.keys):
            self.findings.add(finding)
        if not self._terms.continued:
            for finding in self._chain.settle(self._terms.now):
                self.findings.add(finding)
        self._accounted(settled_before)
        if self._latest > self._terms.now + _FUTURE_MS:
            self._add("time", "an entry's time lies in the future", None)
        if self._old is not None:
            state.compare(self._old, self._head, self._old_root if self._old.size else self._old.root)

    def _accounted(self, settled_before: int) -> None:
        for index, account in self._accounts.items():
            if not account.has_readings:
                self._add("counters", "no reading of this engine's counters is in the log", index, lie=False)
            for finding in account.settle(settled_before):
                self.findings.add(finding)

    def _gaps(self, index: int, worker: Worker, settled_before: int) -> None:
        for first, last, before in worker.gaps():
            which = f"sequence {first}" if first == last else f"sequences {first} to {last}"
            if before < settled_before:
                self._add("sequence", f"{which} of worker {index}: admitted, and not in the log: omitted", None)
            else:
                self._add("sequence", f"{which} of worker {index}: still running, or omitted", None, lie=False)

    def short(self) -> tuple[str, ...]:
        return tuple(shortfalls(self._chain))

    def slack(self) -> dict[int, tuple[int, int]]:
        """By replica, where there are any: requests whose tokens nobody knows, and for how many they leave room."""
        return {index: account.unknown for index, account in self._accounts.items() if account.unknown[0]}

    def edges(self) -> tuple[shards.Opening | None, shards.Closing | None]:
        """What this shard begins and ends with."""
        return shards.opening(self._chain), shards.closing(self._chain)

    def named(self) -> names.Names:
        """What this log says of the names that models answer to."""
        return self._chain.names

    def ceremony(self) -> str | None:
        """The key ceremony in words, where there is one."""
        held = self._chain.ceremony
        return None if held is None else words.ceremony(held, self._chain)

    def types(self) -> dict[str, int]:
        """How many entries there are of each type."""
        counts = Counter(self._types)
        return {name or "unsound": counts[code] for code, name in enumerate(_TYPES) if counts[code]}

    @property
    def decisions_run(self) -> int | None:
        return None if self._decisions is None else self._decisions.asked

    def predecessor(self) -> str | None:
        """The origin of the log whose live entries this one restates, if it is a later shard."""
        first = self._chain.charters.get(0)
        restates = None if first is None else first.restates
        origin = restates.get("origin") if isinstance(restates, dict) else None
        return origin if isinstance(origin, str) else None

    def replaced(self, vkey: str) -> str | None:
        """The public key that this one of the log's has replaced, under this log's name."""
        keys = self._chain.keys
        before = [key.replaces for key in keys.values() if key.vkey == vkey and key.replaces is not None]
        return keys[before[-1]].vkey if before else None

    def _type_of(self, index: int) -> str | None:
        return _TYPES[self._types[index]] or None

    def _add(self, kind: str, words: str, index: int | None, *, lie: bool = True) -> None:
        self.findings.add(Finding(kind, words, index, lie))

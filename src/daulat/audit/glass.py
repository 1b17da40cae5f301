"""What was done by breaking glass, from the log alone: why, by whom, in time, once; and whether two others reviewed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from daulat.audit import facts
from daulat.audit.consent import Consent
from daulat.audit.facts import KeyFacts
from daulat.audit.finding import Finding
from daulat.core.consent import OPERATOR, Proposed
from daulat.core.glass import LONGEST_MS, REVIEWERS, VERDICTS, Broken
from daulat.errors import VerificationFailed
from daulat.tlog.note import Verifier


@dataclass(slots=True)
class Pane:
    """One broken glass: what it was for, and what has become of it."""

    index: int
    broken: Broken
    vkey: str
    signature: bytes
    restated: bool
    acted: bool = False
    closed: bool = False
    reviews: dict[int, str] = field(default_factory=dict)  # entry -> the reviewer's name

    @property
    def breaker(self) -> str:
        return self.vkey.partition("+")[0]


class Glasses:
    """All broken glass of one log. Entries come in ascending order, their references checked."""

    def __init__(self, origin: str, keys: Mapping[int, KeyFacts], consent: Consent) -> None:
        self._origin, self._keys, self._consent = origin, keys, consent
        self.panes: dict[int, Pane] = {}

    def broken(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        """Glass is broken, or was in an older shard and its review goes on here."""
        time, pane = facts.natural(entry, "time"), read(index, entry)
        self.panes[index] = pane
        made = pane.broken.made
        wrong = list(pane.broken.wrong())
        if not pane.restated and made.origin != self._origin:
            wrong.append("glass broken for another log")
        if not pane.restated and not 0 < made.expires - time <= LONGEST_MS:
            wrong.append("glass broken for longer than 24 hours, or for no time at all")
        if not pane.restated and not self._consent.may_sign(pane.vkey, time):
            wrong.append("glass broken by nobody who was an operator then")
        try:
            Verifier(pane.vkey).verify_bytes(pane.broken.statement(), pane.signature)
        except VerificationFailed as error:
            wrong.append(f"glass broken, and not signed: {error.message}")
        for words in wrong:
            yield Finding("glass", words, index)
        if not wrong:
            yield Finding("glass", f"glass was broken for {made.action} ({pane.broken.cause})", index, lie=False)

    def acted(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        """What it was broken for was done."""
        pane, time = self.panes[entry["glass"]], facts.natural(entry, "time")
        if pane.acted or pane.restated:
            yield Finding("glass", f"what glass {pane.index} was broken for was done a second time", index)
        if time > pane.broken.made.expires:
            yield Finding("glass", f"what glass {pane.index} was broken for was done after its end", index)
        pane.acted = True
        self._consent.urgent(pane.broken.made)

    def reviewed(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        """One of the others says what they think of it."""
        review, pane = facts.approval(index, {**entry, "proposal": entry["glass"]}), self.panes[entry["glass"]]
        key, verdict = self._keys[review.key], str(entry["verdict"])
        holder = Verifier(key.vkey).name
        if verdict not in VERDICTS:
            yield Finding("glass", f"a review that says {verdict[:20]!r}", index)
        if key.purpose != OPERATOR or not self._consent.may_sign(key.vkey, review.time):
            yield Finding("glass", "a review by nobody who was an operator then", index)
        if holder == pane.breaker:
            yield Finding("glass", f"glass {pane.index} was reviewed by whoever broke it", index)
        try:
            Verifier(key.vkey).verify_bytes(pane.broken.review(verdict), review.signature)
        except VerificationFailed as error:
            yield Finding("glass", f"a review that is not signed: {error.message}", index)
        if verdict == VERDICTS[1]:
            yield Finding(
                "glass", f"a reviewer found that glass {pane.index} should not have been broken", index, lie=False
            )
        pane.reviews[index] = holder

    def closed(self, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
        """The review is over."""
        pane = self.panes[entry["glass"]]
        if any(review not in pane.reviews for review in entry["reviews"]):
            yield Finding("glass", "a review that was closed on reviews of something else", index)
        others = {pane.reviews[review] for review in entry["reviews"] if review in pane.reviews} - {pane.breaker}
        if len(others) < REVIEWERS:
            yield Finding("glass", f"a review closed by {len(others)} others, {REVIEWERS} are needed", index)
        pane.closed = pane.closed or len(others) >= REVIEWERS

    def open(self) -> dict[str, tuple[Broken, str, bytes]]:
        """What waits for its review, by proposal."""
        return {
            pane.broken.made.proposal: (pane.broken, pane.vkey, pane.signature)
            for pane in self.panes.values()
            if not pane.closed
        }

    def restated(self) -> dict[str, tuple[Broken, str, bytes]]:
        """What an older shard is said to have left open, by proposal."""
        return {
            pane.broken.made.proposal: (pane.broken, pane.vkey, pane.signature)
            for pane in self.panes.values()
            if pane.restated
        }

    def settle(self, now: int, longest: int) -> Iterator[Finding]:
        """At a log's end: what is still open, and since when it should not be. Milliseconds."""
        for pane in self.panes.values():
            if not pane.closed:
                late = now > pane.broken.made.expires + longest
                days = longest // 86_400_000
                words = (
                    f"the review is still open, more than {days} days after its end" if late else "the review is open"
                )
                yield Finding("glass", words, pane.index, lie=late)


def read(index: int, entry: Mapping[str, Any]) -> Pane:
    """A `break-glass/v1` entry.

    Raises:
        VerificationFailed: a value has a wrong type.
    """
    texts = {
        name: entry[name] for name in ("origin", "proposal", "action", "prior", "payload", "cause", "reason", "vkey")
    }
    if not all(isinstance(text, str) for text in texts.values()):
        raise VerificationFailed(f"{', '.join(texts)} are texts")
    vkey, cause, reason = (texts.pop(name) for name in ("vkey", "cause", "reason"))
    made = Proposed(**texts, expires=facts.natural(entry, "expires"))
    if any("\n" in text for text in (*texts.values(), cause, reason)):
        raise VerificationFailed("a value of broken glass holds a newline")
    signature = facts.signature(entry)
    return Pane(index, Broken(made, cause, reason), Verifier(vkey).vkey, signature, entry["restates"] is not None)

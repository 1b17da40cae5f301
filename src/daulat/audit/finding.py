"""What a check has to say: findings as values, bounded in number, never an exception half-way through a log."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from daulat.errors import shortened

PER_KIND: Final = 20  # findings kept in words for each kind; all are counted


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold (`lie`), or that holds more weakly than it should.

    `kind` is stable and for machines, `words` for people, `index` the log entry it is about.
    """

    kind: str
    words: str
    index: int | None = None
    lie: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", shortened(self.words))  # they repeat what entries say

    def as_dict(self) -> dict[str, object]:
        return {"kind": self.kind, "index": self.index, "lie": self.lie, "words": self.words}

    def __str__(self) -> str:
        where = "" if self.index is None else f"entry {self.index}: "
        return f"{where}{self.words} [{self.kind}]"


@dataclass(slots=True)
class Findings:
    """Findings as they gather: the first of each kind in words, all of them counted."""

    kept: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        key = (finding.kind, finding.lie)
        self.counts[key] += 1
        if self.counts[key] <= PER_KIND:
            self.kept.append(finding)

    @property
    def lies(self) -> int:
        return sum(count for (_, lie), count in self.counts.items() if lie)

    @property
    def omitted(self) -> int:
        """How many are counted but not kept in words."""
        return sum(self.counts.values()) - len(self.kept)

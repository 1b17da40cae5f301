"""Whose answer it was: the model that answered, against those that operators had deployed under the name asked for.

A `deployment.apply` says which model, by its digest, is to answer to a name from then on. While one replaces another
both answer, and one that fails gives way to the one before, so any that was deployed under that name before is right. A
later shard does not restate deployments: what it does not tell, the shards before it do (`across`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daulat.audit.finding import Finding

APPLY = "deployment.apply"


@dataclass(slots=True)
class Names:
    """What one log, or one shard, says of names."""

    deployed: dict[str, set[str]] = field(default_factory=dict)  # digests of models, by name
    untold: dict[tuple[str, str], int] = field(default_factory=dict)  # name and digest, not from here: first entry

    def acted(self, entry: Mapping[str, Any]) -> bool:
        """Whether an `operator.action/v1` has changed what a name stands for."""
        subject, detail = entry["subject"], entry["detail"]
        name = detail.get("deployment") if isinstance(detail, Mapping) else None
        if entry["action"] != APPLY or not isinstance(name, str) or not isinstance(subject, str):
            return False
        self.deployed.setdefault(name, set()).add(subject)
        return True

    def answered(self, index: int, name: str, digest: str, *, carried: bool) -> Iterator[Finding]:
        """This model answered to that name. `carried`: older shards may have deployed it."""
        here = self.deployed.get(name, ())
        if digest in here:
            return
        if here and not carried:
            yield _another(index, name, digest)
        else:
            self.untold.setdefault((name, digest), index)


def across(shards: Sequence[Names]) -> Iterator[tuple[int, Finding]]:
    """What all shards together, oldest first, show of what each does not tell by itself: which shard, and what."""
    known: dict[str, set[str]] = {}
    for number, names in enumerate(shards):
        for (name, digest), index in names.untold.items():
            before = known.get(name, ())
            if before and digest not in before:
                yield number, _another(index, name, digest)
            elif not before:
                words = f"nothing here says who deployed {name[:80]!r}: that it stands for {digest[:16]} is unproven"
                yield number, Finding("model", words, index, lie=False)
        for name, digests in names.deployed.items():
            known.setdefault(name, set()).update(digests)


def _another(index: int, name: str, digest: str) -> Finding:
    words = f"asked for {name[:80]!r}, and answered by model {digest[:16]}, which was never deployed under that name"
    return Finding("model", words, index)

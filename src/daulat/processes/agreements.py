"""What others have agreed to, out of a home's own log: for what is done with the service stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from daulat.adapters.log_files import LogFolder
from daulat.core import entries
from daulat.ledger.reading import each_entry
from daulat.processes import checking

_LOOKED_AT: Final = tuple(
    f'{{"type":"{name}"'.encode()
    for name in ("charter/v1", "proposal/v1", "break-glass/v1", "operator.action/v2", "operator.action/v3")
)


@dataclass(frozen=True, slots=True)
class Agreements:
    """Of one shard: how many others its charter asks for, and the proposals and broken glass that were carried out."""

    needed: int
    done: tuple[dict[str, Any], ...]

    def of(self, action: str, payload: str) -> list[dict[str, Any]]:
        """Those of this act, over a payload with this SHA-256 in hex."""
        return [made for made in self.done if (made["action"], made["payload"]) == (action, payload)]


def read(folder: LogFolder) -> Agreements:
    """All of a shard, up to its published checkpoint.

    Raises:
        NotFound, VerificationFailed: it cannot be read.
    """
    needed, asked, done = 0, dict[int, dict[str, Any]](), list[dict[str, Any]]()
    for index, written in each_entry(folder, checking.head(folder).size):
        if not written.startswith(_LOOKED_AT):
            continue
        entry = entries.decode(written)
        if entry["type"] == "charter/v1":
            needed = int(entry["approvals"])
        elif entry["type"].startswith("operator.action/"):
            done.append(asked[entry["proposal"] if "proposal" in entry else entry["glass"]])
        else:
            asked[index] = entry
    return Agreements(needed, tuple(done))

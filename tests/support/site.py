"""A node under the starter charter: a log as a list of entries, and supervisors that say what a test wants."""

from __future__ import annotations

import json
from typing import Any

from tests.support.worlds import StillClock

from daulat.catalog import charters
from daulat.core import charter as charter_core
from daulat.core import entries
from daulat.core.charter import Charter
from daulat.core.snapshot import ModelRow
from daulat.fleet.lease import Place
from daulat.pipeline.book import Book
from daulat.pipeline.enrol import Ground, Node
from daulat.policy import bundle
from daulat.policy.cedar import CedarDecider

COUNTERS = {"prompt_tokens": 0, "cached_prompt_tokens": 0, "completion_tokens": 0}
SHIPPED = bundle.load()
DECIDER = CedarDecider(SHIPPED.rules, SHIPPED.schema)
CHARTER = charter_core.parse(charters.starter("test.daulat.example"))


class Memory:
    """`pipeline.book.LiveEntries`, in a dict."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], dict[str, Any]] = {}

    def live(self, kind: str, name: str = "") -> dict[str, Any] | None:
        return self.held.get((kind, name))

    def all_live(self, kind: str) -> list[dict[str, Any]]:
        return [found for (held, _), found in self.held.items() if held == kind]

    def set_live(self, kind: str, name: str, origin: str, position: int, entry: str) -> None:
        value = {"origin": origin, "position": position, "entry": entry, "value": json.loads(entry)}
        self.held[kind, name] = value

    def end_live(self, kind: str, name: str) -> None:
        self.held.pop((kind, name), None)


class Site:
    """A node, its log as a list of entries, and supervisors that say what a test wants."""

    def __init__(self, memory: Memory | None = None, charter: Charter = CHARTER) -> None:
        self.clock, self.memory = StillClock(), memory or Memory()
        self.log: list[dict[str, Any]] = []
        book = Book("test.daulat.example/2026", self._append, self.memory, self.clock)
        self.node = Node(book, self.clock, Ground(charter, 1, 2, DECIDER), "node_1")
        self.node.inventory({"cpu": "x"})

    async def _append(self, texts: list[str]) -> list[int]:
        for text in texts:
            self.log.append(entries.decode(text.encode()))
        return list(range(100 + len(self.log) - len(texts), 100 + len(self.log)))

    def expect(self, *replicas: str, model: int = 7, place: Place | None = None) -> None:
        for replica in replicas:
            self.node.expect(replica, ModelRow("small", model, "{}", 0, False, 4096), place)

    async def probed(self, replica: str, outcome: str = "contained", *, final: bool = False) -> bool:
        found = {"nonce": "00", "probes": [], "counters": COUNTERS, "final": final}
        return await self.node.report(replica, outcome, found)

    async def ready(self, replica: str, *, grade: str = "G2") -> bool:
        said = {
            "address": f"unix:/{replica}",
            "dialect": "openai",
            "slots": 4,
            "engine": {"name": "x", "version": "0", "parameters": {}},
            "device": {"kind": "cpu", "product": "x", "count": 1},
            "sandbox": {"grade": grade},
            "counters": COUNTERS,
        }
        return await self.node.report(replica, "ready", said)

    async def up(self, *replicas: str) -> None:
        self.expect(*replicas)
        for replica in replicas:
            await self.probed(replica)
            await self.ready(replica)

    async def stopped(self, replica: str, reason: str = "crashed", *, unfit: bool = False) -> None:
        said = {"reason": reason, "counters": COUNTERS, "exact": False, "unfit": unfit}
        await self.node.report(replica, "stopped", said)

    def written(self) -> list[str]:
        return [entry["type"].partition("/")[0] for entry in self.log]

    def answering(self) -> list[str]:
        return [row.id for row in self.node.rows()] if self.node.lease is not None else []

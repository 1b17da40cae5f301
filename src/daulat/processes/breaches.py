"""Breaches as the control plane notes them: opened, told of, closed; each step an entry, so that the clocks show."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from typing import Any, Final

from daulat.adapters import rpc
from daulat.adapters.control_db import ControlDatabase
from daulat.adapters.log_files import LogFolder
from daulat.core import entries
from daulat.core.clock import Clock
from daulat.core.commitments import pseudonym
from daulat.core.ids import new_id
from daulat.errors import Conflict, InvalidRequest, NotFound
from daulat.ledger.reading import each_entry
from daulat.pipeline import breach
from daulat.pipeline.breach import Case, Stands
from daulat.pipeline.operate import Desk
from daulat.settings import Home
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.note import Verifier

_KIND: Final = "breach"


class Breaches:
    """The open ones are kept beside the log, for `daulat status`; everything else is read from the log."""

    def __init__(self, rows: ControlDatabase, desk: Desk, clock: Clock, home: Home) -> None:
        self._rows, self._desk, self._clock, self._home = rows, desk, clock, home

    def of(self, desk: Desk) -> Breaches:
        """The same, noted in the name of whoever acts at that desk."""
        return Breaches(self._rows, desk, self._clock, self._home)

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        return {
            "breach.open": changes(self.open),
            "breach.notified": changes(self.notified),
            "breach.close": changes(self.close),
        }

    async def open(
        self, learned: int, begins: int, ends: int, tenant: str = "", key: str = "", replica: str = ""
    ) -> dict[str, Any]:
        """Begin the clocks. Times are Unix milliseconds; tenant and key are names or ids, pseudonyms in the log.

        Raises:
            InvalidRequest: the times are in the future, or not in order; NotFound: there is no such tenant or key.
        """
        now = self._clock.now_ms()
        if not begins <= ends or max(begins, ends, learned) > now:
            raise InvalidRequest("a breach begins before it ends, and neither that nor its discovery is in the future")
        if learned < begins:
            raise InvalidRequest("nobody can have learned of a breach before it began")
        id_ = new_id("breach")
        scope = {"tenant": self._tenant(tenant), "key": self._key(key), "replica": replica}
        detail = {
            "learned": learned,
            "from": begins,
            "to": ends,
            **{name: said for name, said in scope.items() if said},
        }
        await self._desk.act(breach.OPEN, id_, detail)
        self._rows.set_live(_KIND, id_, "", learned, "{}")
        return shown(Case(id_, now, learned, begins, ends, {name: said for name, said in scope.items() if said}), now)

    async def notified(self, wanted: str, told: str, at: int) -> dict[str, Any]:
        """Raises NotFound: no such open breach; InvalidRequest: nobody of that name is told, or not at that time."""
        learned = self._open(wanted)
        if told not in breach.TOLD:
            raise InvalidRequest(f"those who are told are {' and '.join(breach.TOLD)}")
        if not learned <= at <= self._clock.now_ms():
            raise InvalidRequest("they were told after the breach was learned of, and not in the future")
        await self._desk.act(breach.NOTIFIED, wanted, {"told": told, "at": at})
        return {"id": wanted, "told": told, "at": at}

    async def close(self, wanted: str) -> dict[str, Any]:
        """Raises NotFound: no such open breach."""
        self._open(wanted)
        await self._desk.act(breach.CLOSE, wanted, {})
        self._rows.end_live(_KIND, wanted)
        return {"id": wanted, "closed": True}

    async def all(self) -> list[dict[str, Any]]:
        """Every breach that the log tells of, oldest first."""
        found = await asyncio.to_thread(lambda: breach.cases(stands(self._home)))
        return [shown(case, self._clock.now_ms()) for case in found.values()]

    async def notice(self, wanted: str) -> dict[str, Any]:
        """The notice to the Commissioner, as far as the log has it. Raises NotFound: it tells of no such breach."""
        return await asyncio.to_thread(notice, self._home, wanted)

    def open_ones(self) -> list[dict[str, Any]]:
        """Of each open breach, its id and until when the Commissioner must know."""
        return [
            {"id": row["name"], "commissioner_by": row["position"] + breach.COMMISSIONER_MS}
            for row in self._rows.all_live(_KIND)
        ]

    def _open(self, wanted: str) -> int:
        """When it was learned of."""
        held = self._rows.live(_KIND, wanted)
        if held is None:
            raise NotFound(f"no open breach {wanted!r}; `daulat breach list` shows those that exist")
        return int(held["position"])

    def _tenant(self, wanted: str) -> str:
        if not wanted:
            return ""
        house = self._rows.find("tenants", wanted)
        return pseudonym(base64.b64decode(house["epoch_key"]), "tenant", house["id"])

    def _key(self, wanted: str) -> str:
        if not wanted:
            return ""
        row = self._rows.find("keys", wanted)
        house = self._rows.find("tenants", self._rows.find("people", row["person"])["tenant"])
        if not house["epoch_key"]:
            raise Conflict(f"the keys of {house['name']} are destroyed: nothing in the log can be told to be theirs")
        return pseudonym(base64.b64decode(house["epoch_key"]), "key", row["id"])


def shown(case: Case, now_ms: int) -> dict[str, Any]:
    """A breach in the words of its table."""
    fields = ("id", "learned", "begins", "ends")
    return {
        **{name: getattr(case, name) for name in fields},
        "state": "open" if case.closed is None else "closed",
        "scope": dict(case.scope),
        "told": dict(case.told),
        "deadlines": case.deadlines(),
        "overdue": case.overdue(now_ms),
    }


def notice(home: Home, wanted: str) -> dict[str, Any]:
    """`pipeline.breach.notice` over the log of a home.

    Raises:
        NotFound: the log tells of no such breach.
    """
    heads: dict[str, dict[str, Any]] = {}
    case = breach.cases(stands(home)).get(wanted)
    if case is None:
        raise NotFound(f"the log tells of no breach {wanted!r}; `daulat breach list` shows those that exist")
    return breach.notice(case, breach.extent(case, stands(home, heads)), heads)


def stands(home: Home, heads: dict[str, dict[str, Any]] | None = None) -> Iterator[Stands]:
    """Every entry of every shard, oldest first; `heads` is told of each shard's origin, size and root hash.

    Raises:
        NotFound: there is no log yet.
    """
    periods = sorted(path.parent for path in home.log.glob("*/checkpoint"))
    if not periods:
        raise NotFound(f"there is no log in {home.log} yet: the first `daulat up` begins it")
    for path in periods:
        folder = LogFolder(path)
        head = checkpoints.open_checkpoint(folder.published(), Verifier(folder.vkey()))
        if heads is not None:
            heads[head.origin] = {"size": head.size, "root_hash": head.root.hex()}
        for index, entry in each_entry(folder, head.size):
            yield head.origin, index, entries.decode(entry)

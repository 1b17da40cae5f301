"""The control process' half of signing in over a real database, with the log kept in a list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support import oidc
from tests.support.worlds import StillClock

from daulat.adapters.control_db import ControlDatabase
from daulat.catalog import charters
from daulat.core import charter, entries
from daulat.core.identity import REFUSED
from daulat.identity import claims, providers
from daulat.identity.claims import Seen
from daulat.pipeline.operate import Desk
from daulat.processes.identifying import Identifying

DAY = 86_400_000
ISSUERS = 'issuers = ["operator"]  '


class Office:
    """`identities` under the starter charter, which counts the word of the test's provider too."""

    def __init__(self, path: Path, *, settings: str = "", issuers: str = f'["operator", "{oidc.ISSUER}"]') -> None:
        self.clock = StillClock(oidc.NOW * 1000)
        self.rows = ControlDatabase(path)
        self.entries: list[dict[str, Any]] = []
        self.published = 0
        text = charters.starter("test.daulat.example").replace(ISSUERS, f"issuers = {issuers}")
        assert issuers in text
        self.desk = Desk(self.rows, self._log, self.clock, 0)
        read = (0, charter.parse(text))
        self.where = providers.parse(settings or oidc.settings())
        self.identifying = Identifying(self.rows, self._log, self.clock, read, self.desk, self.where)
        self.identities = self.identifying._identities
        self.handlers = self.identifying.handlers(self._changes)
        run(self.desk.begin())
        self.entries.clear()

    async def _log(self, type_: str, fields: Mapping[str, Any]) -> int:
        line = entries.encode(type_, {"time": self.clock.now_ms(), **fields})
        self.entries.append(entries.decode(line))
        return len(self.entries) - 1

    def _changes(self, use_case: Callable[..., Any]) -> Any:
        async def act(**params: Any) -> Any:
            self.published += 1
            return await use_case(**params)

        return act

    async def call(self, method: str, **params: Any) -> Any:
        """As `adapters.rpc.Client`."""
        return await self.handlers[method](**params)

    def seen(self, **changes: Any) -> Seen:
        return claims.read(self.where.provider["test"], oidc.claims(**changes), oidc.KEY, self.clock.now_ms())

    def sign_in(self, *, invitation: str = "", binding: str = "here", **changes: Any) -> dict[str, Any]:
        seen = self.seen(**changes)
        said = {name: getattr(seen, name) for name in ("citizenship", "assurance", "until", "tenant")}
        said |= {"hashes": list(seen.hashes), "roles": None if seen.roles is None else list(seen.roles)}
        done = self.call("signin.complete", provider="test", seen=said, binding=binding, invitation=invitation)
        return dict(run(done))

    def invited(self, name: str = "aminah", **given: Any) -> str:
        usual = {"citizenship": "", "assurance": "low", "roles": ["user"], "days": 300}
        run(self.desk.add_person(name, "first-agency", **{**usual, **given}))
        return str(run(self.identities.invite(name, days=7))["invitation"])

    def events(self) -> list[tuple[str, Any]]:
        """What the log has of identities: event, and a refusal's code."""
        found = [entry for entry in self.entries if entry["type"] == "identity/v1"]
        return [(entry["event"], entry["detail"]["code"] if entry["event"] == REFUSED else None) for entry in found]


def run(done: Any) -> Any:
    return asyncio.run(done)

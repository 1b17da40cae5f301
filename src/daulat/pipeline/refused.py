"""What an operator tried and may not do leaves an entry: who, what, and in one word why it was refused."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from daulat.core.clock import Clock
from daulat.errors import Conflict, PermissionDenied, VerificationFailed
from daulat.pipeline.consent import public
from daulat.pipeline.operate import Log, Rows
from daulat.tlog.note import Verifier

_MOST: Final = 10  # entries a minute: nobody fills the log by trying
_MINUTE_MS: Final = 60_000
_ID: Final = re.compile(r"proposal_[0-9a-f]{32}\Z")


class Refusals:
    """Notes what is refused to whoever names an operator's key. A stranger's key leaves nothing."""

    def __init__(self, rows: Rows, log: Log, clock: Clock, charter: int) -> None:
        self._rows, self._log, self._clock, self._charter = rows, log, clock, charter
        self._noted: deque[int] = deque(maxlen=_MOST)

    @asynccontextmanager
    async def noted(self, attempt: str, proposal: Any, vkey: str) -> AsyncIterator[None]:
        """Around one attempt, such as "approval". Raises whatever it raises, once that is written down."""
        try:
            yield
        except (PermissionDenied, Conflict) as error:
            holder = self._holder(vkey)
            if holder and self._room():
                named = proposal if isinstance(proposal, str) and _ID.match(proposal) else None
                fields = {"charter": self._charter, "attempt": attempt, "proposal": named, "operator": holder}
                await self._log("consent.refused/v1", {**fields, "reason": error.code})
            raise

    def _holder(self, vkey: str) -> str:
        """The pseudonym of the operator, also of a former one, whose key this is."""
        try:
            name = public(vkey)
        except VerificationFailed:
            return ""
        row = next((row for row in self._rows.rows("operator_keys") if row["name"] == name), None)
        return "" if row is None else Verifier(row["vkey"]).name

    def _room(self) -> bool:
        now = self._clock.now_ms()
        if len(self._noted) == _MOST and now - self._noted[0] < _MINUTE_MS:
            return False
        self._noted.append(now)
        return True

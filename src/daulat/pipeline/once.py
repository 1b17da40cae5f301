"""Requests that happen once, however often they are sent (draft-ietf-httpapi-idempotency-key-header-07).

What was made is remembered on disk for a day, by digests. The answer itself, which may hold a secret, is in memory
only, for minutes: after that, or a restart, the same request is told that it was done, and makes nothing again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from daulat.core.clock import Clock
from daulat.errors import Conflict, DaulatError, InvalidRequest
from daulat.pipeline.deploy import Rows

REMEMBERED_MS: Final = 86_400_000
_ANSWER_MS: Final = 600_000
_MOST_ANSWERS: Final = 1000
_LONGEST: Final = 100


class Once:
    """One at a time: whoever calls holds the lock of administrative acts."""

    def __init__(self, rows: Rows, clock: Clock) -> None:
        self._rows, self._clock = rows, clock
        self._answers: dict[str, tuple[int, Any]] = {}  # by id: when, and what was answered

    async def run(self, actor: str, key: str, request: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """What `act` gives, or gave when this actor's request with this key came first. `request`: all that it asks.

        Raises:
            InvalidRequest: the key is malformed, or was used for another request.
            Conflict: it was done, and its answer is not kept any more.
        """
        if not 0 < len(key) <= _LONGEST or not (key.isascii() and key.isprintable()):
            raise InvalidRequest(f"Idempotency-Key has 1 to {_LONGEST} printable ASCII characters")
        now = self._clock.now_ms()
        self._forget(now)
        id_, fingerprint = _sha256(f"{actor}\n{key}"), _sha256(request)
        held = next((row for row in self._rows.rows("idempotency") if row["id"] == id_), None)
        if held is not None:
            return self._again(held, fingerprint)
        # Remembered before: a crash in between leaves a key that is used up, never two of what it was for.
        self._rows.add("idempotency", {"id": id_, "fingerprint": fingerprint, "created": now})
        try:
            answer = await act()
        except DaulatError:
            self._rows.remove("idempotency", id_)
            raise
        self._answers[id_] = (now, answer)
        return answer

    def _again(self, held: dict[str, Any], fingerprint: str) -> Any:
        if held["fingerprint"] != fingerprint:
            raise InvalidRequest("this Idempotency-Key was used for another request", code="idempotency_key_reused")
        if held["id"] not in self._answers:
            raise Conflict(
                "a request with this Idempotency-Key was taken before, and its answer is not kept: look at the list, "
                "revoke what you have no secret of, and ask with another key"
            )
        return self._answers[held["id"]][1]

    def _forget(self, now: int) -> None:
        for row in self._rows.rows("idempotency"):
            if row["created"] + REMEMBERED_MS <= now:
                self._rows.remove("idempotency", row["id"])
        fresh = [item for item in self._answers.items() if item[1][0] + _ANSWER_MS > now]
        self._answers = dict(fresh[-_MOST_ANSWERS:])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

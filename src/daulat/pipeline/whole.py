"""An engine's answer in one piece: what it used, or what its error means to the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daulat.errors import EngineRequestFailed, InvalidRequest
from daulat.pipeline import empty, enveloped, typed, wording
from daulat.pipeline import usage as usages
from daulat.pipeline.actions import MESSAGES, RESPONSES
from daulat.pipeline.empty import Asked
from daulat.pipeline.ports import Render
from daulat.pipeline.usage import Usage

_TYPED: Final = RESPONSES | MESSAGES
_OK: Final = 200
_CLIENTS: Final = range(400, 500)
_OURS: Final = frozenset({401, 403, 407})  # about our own key, not the client's; the words may quote it


def usage(action: str, status: int, answer: bytes, asking: Callable[[], Asked]) -> Usage | None:
    """The usage that an answer to what `asking` tells of states; None too for an error that is the client's.

    Raises:
        EngineRequestFailed: the answer is empty, or the error is the engine's or ours: another replica may do better.
    """
    if status != _OK:
        if status not in _CLIENTS or status in _OURS:
            raise EngineRequestFailed(f"The engine failed with status {status}.", status=status)
        return None
    found = (typed.of_answer if action in _TYPED else usages.of_answer)(answer)
    if empty.is_empty(action, answer, found, asking):
        raise empty.failure()
    return found


def refusal(action: str, status: int, answer: bytes, render: Render) -> bytes:
    """An engine's error as the client is to read it: in the envelope of what was asked."""
    if action not in MESSAGES and (said := enveloped.whole(answer)):
        return said
    words = usages.error_message(answer) or wording.refusal(status, answer)
    return render(InvalidRequest(words, code="engine_refused"), action).body

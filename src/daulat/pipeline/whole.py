"""An engine's answer in one piece: what it used, or what its error means to the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daulat.errors import EngineRequestFailed
from daulat.pipeline import empty, typed, wording
from daulat.pipeline import usage as usages
from daulat.pipeline.actions import MESSAGES, RESPONSES
from daulat.pipeline.empty import Asked
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


def refusal(action: str, status: int, answer: bytes) -> str:
    """The words of an engine's error that has to be put into our envelope; empty where it stands in it already."""
    said = usages.error_message(answer)
    if said and action not in MESSAGES:
        return ""
    return said or wording.refusal(status, answer)

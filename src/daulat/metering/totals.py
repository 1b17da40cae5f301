"""Use, counted from the log's entries: whoever has the log comes to the same numbers.

What counts is a request that an engine was asked for: an entry with at least one attempt. It counts for the day (UTC)
of its admission, with the tokens of its completion. One whose worker was killed is in the log as interrupted, without
tokens: nobody knows them. Refused requests, and those that left before their turn, use nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

_INFERENCE: Final = b'{"type":"inference/v1"'


class Tokens(msgspec.Struct):
    """As `completion.usage` has them; those cached are among those of the prompt."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class _Admission(msgspec.Struct):
    time: int
    tenant: str
    key: str
    worker: int
    requested_model: str


class _Completion(msgspec.Struct):
    attempts: list[Any]
    usage: Tokens


class Used(msgspec.Struct):
    """One request's use, as far as it counts."""

    admission: _Admission
    completion: _Completion


_decode: Final = msgspec.json.Decoder(Used).decode


def used(entry: bytes) -> Used | None:
    """What an entry counts for; None: it is of another type, or no engine was asked.

    Raises:
        msgspec.MsgspecError: an inference entry that is none.
    """
    if not entry.startswith(_INFERENCE):
        return None
    found = _decode(entry)
    return found if found.completion.attempts else None

"""The wires with typed events: OpenAI's Responses, and Anthropic's Messages.

Their events carry a `type`, their usage is spelled otherwise, and it comes in other places:

- responses end with `response.completed` or `response.incomplete`, whose `response` states the usage: `input_tokens`
  (those from a cache among them) and `output_tokens`.
- messages end with `message_stop`. `message_start` and `message_delta` state the usage; `input_tokens` are those that
  were neither read from a cache nor written to one.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from daulat.errors import EngineRequestFailed
from daulat.pipeline.events import MAX_EVENT
from daulat.pipeline.usage import Usage

_LAST: Final = frozenset({"response.completed", "response.incomplete", "message_stop"})
_MARK: Final = re.compile(rb'"usage"\s*:|message_stop|response\.(?:completed|incomplete)')
_END: Final = re.compile(rb"\r?\n\r?\n")
_DATA: Final = re.compile(rb"^data:(.*)$", re.MULTILINE)

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Stated(msgspec.Struct):
    """A usage as either wire states it. What is absent stays as it was said before."""

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None


class _Holder(msgspec.Struct):
    usage: _Stated | None = None


class _Event(msgspec.Struct):
    type: str = ""
    usage: _Stated | None = None
    message: _Holder | None = None
    response: _Holder | None = None


_event: Final = msgspec.json.Decoder(_Event).decode
_answer: Final = msgspec.json.Decoder(_Holder).decode
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class TypedStream:
    """As `pipeline.events.EventStream`, for these wires: what may go on now, and the end, which waits for the log."""

    __slots__ = ("_rest", "_stated", "events", "final")

    def __init__(self) -> None:
        self.events = 0
        self.final: bytes | None = None
        self._rest = b""
        self._stated: _Stated | None = None

    @property
    def usage(self) -> Usage | None:
        """What the engine reported so far."""
        return None if self._stated is None else _plain(self._stated)

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the engine; return those that may go to the client now: whole events only.

        Raises:
            ValueError: one event is larger than 8 MiB.
        """
        if not self._rest and data.endswith(b"\n\n") and _MARK.search(data) is None:
            self.events += data.count(b"data:")
            return data
        data = self._rest + data
        passed: list[bytes] = []
        position = 0
        for end in _END.finditer(data):
            event = data[position : end.end()]
            position = end.end()
            if _MARK.search(event) is not None and self._is_last(event):
                self.final = event
                return b"".join(passed)  # whatever an engine says after its last word is not passed on
            self.events += b"data:" in event
            passed.append(event)
        self._rest = data[position:]
        if len(self._rest) > MAX_EVENT:
            raise ValueError("an event of the engine's stream is too large")
        return b"".join(passed)

    def _is_last(self, event: bytes) -> bool:
        """Whether this event ends the answer; its usage is noted."""
        try:
            found = _event(b"".join(_DATA.findall(event)))
        except _UNREADABLE:
            return False
        for holder in (found, found.message, found.response):
            if holder is not None and holder.usage is not None:
                self._stated = holder.usage if self._stated is None else _amended(self._stated, holder.usage)
        return found.type in _LAST


def of_answer(body: bytes) -> Usage | None:
    """The usage of a whole answer; None where it states none that can be read.

    Raises:
        EngineRequestFailed: the body is no JSON object, so it is no answer.
    """
    try:
        if not body.isascii():
            body.decode()
        try:
            stated = _answer(body).usage
        except msgspec.ValidationError:
            _object(body)  # what is wrong may be no more than the usage
            return None
    except _UNREADABLE as error:
        raise EngineRequestFailed(f"The engine's answer is no JSON object ({error}).", status=502) from None
    return None if stated is None else _plain(stated)


def _amended(old: _Stated, new: _Stated) -> _Stated:
    changes = {name: value for name in _Stated.__struct_fields__ if (value := getattr(new, name)) is not None}
    return msgspec.structs.replace(old, **changes)


def _plain(stated: _Stated) -> Usage:
    details = stated.input_tokens_details
    read, written = stated.cache_read_input_tokens or 0, stated.cache_creation_input_tokens or 0
    cached = details.cached_tokens or 0 if details is not None else read
    return Usage((stated.input_tokens or 0) + read + written, cached, stated.output_tokens or 0)

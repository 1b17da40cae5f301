"""A server-sent event stream on its way through: forwarded as it is, but for what must be found, hidden or held."""

from __future__ import annotations

import re
from typing import Final

from daulat.pipeline import enveloped, usage

MAX_EVENT: Final = 8 * 1024 * 1024
_DONE: Final = b"[DONE]"
_ERROR: Final = b'{"error"'  # no text: its quotes would be escaped
_END: Final = re.compile(rb"\n\r?\n")  # lines end in LF, from some engines in CRLF; a blank one ends an event
_LAST: Final = re.compile(rb"^data: ?\[DONE\][ \r]*$", re.MULTILINE)
_DATA: Final = re.compile(rb"^data:(.*)$", re.MULTILINE)


class EventStream:
    """Splits an engine's bytes into what may go on now and the end, which waits for the log.

    `usage` is what the engine reported; `events` how many events with data went through, for streams that end early.
    """

    __slots__ = ("_rest", "_show_usage", "events", "final", "usage")

    def __init__(self, *, show_usage: bool) -> None:
        self.usage: usage.Usage | None = None
        self.events = 0
        self.final: bytes | None = None  # `data: [DONE]`, once seen
        self._rest = b""
        self._show_usage = show_usage

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the engine; return those that may go to the client now: whole events only.

        Raises:
            ValueError: one event is larger than 8 MiB.
        """
        if (
            not self._rest
            and data.endswith(b"\n\n")
            and b'"usage":' not in data
            and _DONE not in data
            and _ERROR not in data
        ):
            self.events += data.count(b"data:")
            return data
        data = self._rest + data
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
        if end < 3:  # noqa: PLR2004  nothing found, or only blank lines
            if len(data) > MAX_EVENT:
                raise ValueError("an event of the engine's stream is too large")
            self._rest = data
            return b""
        self._rest = data[end:]
        return self._whole(data[:end])

    def _whole(self, data: bytes) -> bytes:
        passed: list[bytes] = []
        position = 0
        for end in _END.finditer(data):
            event = data[position : end.end()]
            position = end.end()
            if _DONE in event and _LAST.search(event):
                self.final = event
                break  # whatever an engine says after its last word is not passed on
            if b'"usage":' in event and self._usage_only(event):
                continue
            if _ERROR in event:
                event = enveloped.event(event)
            self.events += event.startswith(b"data:")
            passed.append(event)
        return b"".join(passed)

    def _usage_only(self, event: bytes) -> bool:
        """Note the usage an event carries; whether the event is to be hidden."""
        found, alone = usage.of_event(b"".join(_DATA.findall(event)))
        if found is not None:
            self.usage = found
        return alone and not self._show_usage

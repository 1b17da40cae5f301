"""A server-sent event stream on its way through: forwarded as it is, but for what must be found, hidden or held."""

from __future__ import annotations

from typing import Final

from daulat.pipeline import usage

DONE: Final = b"data: [DONE]"
MAX_EVENT: Final = 8 * 1024 * 1024


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
        if not self._rest and data.endswith(b"\n\n") and b'"usage":' not in data and DONE not in data:
            self.events += data.count(b"data:")
            return data
        data = self._rest + data
        end = data.rfind(b"\n\n")
        if end < 0:
            end = data.rfind(b"\r\n\r\n") + 2
            if end < 2:  # noqa: PLR2004  nothing found
                if len(data) > MAX_EVENT:
                    raise ValueError("an event of the engine's stream is too large")
                self._rest = data
                return b""
        end += 2
        self._rest = data[end:]
        return self._whole(data[:end])

    def _whole(self, data: bytes) -> bytes:
        passed: list[bytes] = []
        position = 0
        while position < len(data):
            end = data.find(b"\n\n", position)
            end = len(data) if end < 0 else end + 2
            event = data[position:end]
            position = end
            if event.startswith(DONE):
                self.final = event + data[position:]
                break
            if b'"usage":' in event and self._usage_only(event):
                continue
            self.events += event.startswith(b"data:")
            passed.append(event)
        return b"".join(passed)

    def _usage_only(self, event: bytes) -> bool:
        """Note the usage an event carries; whether the event is to be hidden."""
        if not event.startswith(b"data:"):
            return False
        found, alone = usage.of_event(event[5:])
        if found is not None:
            self.usage = found
        return alone and not self._show_usage

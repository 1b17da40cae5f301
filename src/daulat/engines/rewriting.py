"""What the rewriters of answers share: a whole answer is kept until its end, a stream is cut into its events."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final

UNREADABLE: Final = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""What reading an answer of another shape raises: it passes as it came."""

_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")


class Rewriting:
    """One answer's rewriter (`engines.dialect.Rewriter`), but for what becomes of a choice and of an event."""

    def __init__(self) -> None:
        self._rest = b""
        self._whole: list[bytes] = []

    def hold(self, data: bytes) -> bytes:
        self._whole.append(data)
        return b""

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        ends = [found.end() for found in _EVENT_END.finditer(data)]
        self._rest = data[ends[-1] :] if ends else data
        return b"".join([self.event(data[start:end]) for start, end in zip([0, *ends], ends, strict=False)])

    def finish(self) -> bytes:
        if self._whole:
            return self._rewritten(b"".join(self._whole))
        rest, self._rest = self._rest, b""
        return self.left() + rest

    def _rewritten(self, body: bytes) -> bytes:
        try:
            answer = json.loads(body)
            changed = [self.choice(choice) for choice in answer["choices"]]
        except UNREADABLE:
            return body
        return written(answer).encode() if any(changed) else body

    def choice(self, choice: dict[str, Any]) -> bool:
        """Change a choice of a whole answer in place; whether anything changed. Raises any of `UNREADABLE`."""
        raise NotImplementedError

    def event(self, event: bytes) -> bytes:
        """What becomes of an event of a stream, its end included; it may be kept back."""
        raise NotImplementedError

    def left(self) -> bytes:
        """What was kept back of a stream that has ended."""
        raise NotImplementedError


def called(name: str, arguments: str, index: int | None = None) -> dict[str, Any]:
    """OpenAI's object for a call, with an id of ours. `index`: its place in a stream."""
    made = {
        "id": f"call_{os.urandom(12).hex()}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    return made if index is None else {"index": index, **made}


def framed(value: dict[str, Any]) -> bytes:
    """An event of a stream."""
    return b"data: " + written(value).encode() + b"\n\n"


def written(value: Any) -> str:
    """JSON as short and readable as UTF-8 can carry it: half a surrogate pair must stay escaped."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text

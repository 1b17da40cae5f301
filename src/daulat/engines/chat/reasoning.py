"""One name for a model's reasoning: `reasoning_content`, as DeepSeek's API and llama.cpp call it.

vLLM (since 0.12) says `reasoning` in answers and takes both in histories; everybody else takes `reasoning_content`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

OURS: Final = "reasoning_content"
THEIRS: Final = "reasoning"
_OPEN, _CLOSE = "<think>", "</think>"
_NULL: Final = b"null"
_messages: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


def renamed(messages: bytes) -> bytes | None:
    """A history in which reasoning has one name; None where it is as it should be, or for the engine to refuse."""
    if b'"reasoning"' not in messages:
        return None
    try:
        found = _messages(messages)
    except (msgspec.DecodeError, RecursionError):
        return None
    for message in found:
        theirs = message.pop(THEIRS, None)
        if theirs is not None and bytes(message.get(OURS, _NULL)) == _NULL:
            message[OURS] = theirs
    return msgspec.json.encode(found)


def rename(said: dict[str, Any]) -> bool:
    """The same in an answer's message or delta, in place; whether anything changed. Never both names."""
    if THEIRS not in said:
        return False
    theirs = said.pop(THEIRS)
    if said.get(OURS) is None:
        said[OURS] = theirs
    return True


class Thought:
    """Splits off the thought that begins a text, where the engine left it there: a `<think>` block.

    Templates that write `<think>` themselves, at the end of the prompt (`opened`), leave only its end to the model.
    Where the engine tells no reasoning apart, such a text is reasoning up to `</think>`, or to where it was cut. If the
    model stops by itself without that end, it had not thought, and all of it is text: said again where it was streamed.
    """

    __slots__ = ("_buffer", "_opened", "_said", "_state")

    def __init__(self, *, opened: bool = False) -> None:
        self._buffer, self._state = "", "before"
        self._opened = opened  # until it is certain that this is a thought, or none
        self._said: list[str] = []  # as reasoning, without certainty

    @property
    def idle(self) -> bool:
        """Whether what comes can pass as it is."""
        return self._state == "after"

    def told(self) -> None:
        """The engine told reasoning apart, so its text is none, but for a whole block."""
        if self._state == "before":
            self._opened = False

    def feed(self, text: str, *, last: bool = False, stopped: bool = False) -> tuple[str, str]:
        """Take text; return what of it is reasoning, and what is not.

        `last`: nothing will come any more. `stopped`: because the model stopped by itself.
        """
        self._buffer += text
        if self._state == "before":
            start = self._buffer.lstrip()
            if start.startswith(_OPEN):
                self._state, self._buffer, self._opened = "inside", start[len(_OPEN) :], False
            elif last or not _OPEN.startswith(start):
                self._state = "inside" if self._opened else "after"
            else:
                return "", ""
        if self._state == "inside":
            return self._inside(last=last, stopped=stopped)
        text, self._buffer = self._buffer, ""
        return "", text

    def _inside(self, *, last: bool, stopped: bool) -> tuple[str, str]:
        thought, closed, rest = self._buffer.partition(_CLOSE)
        if closed:
            self._opened = False
            if not rest.strip() and not last:
                self._buffer = _CLOSE + rest  # the blank lines behind it belong to neither
                return thought, ""
            self._state, self._buffer = "after", ""
            return thought, rest.lstrip("\n")
        if stopped and self._opened:
            text = "".join([*self._said, self._buffer])
            self._state, self._buffer = "after", ""
            return "", text
        keep = 0 if last else max(n for n in range(len(_CLOSE)) if thought.endswith(_CLOSE[:n]))
        cut = len(thought) - keep
        self._buffer = thought[cut:]
        if self._opened:
            self._said.append(thought[:cut])
        return thought[:cut], ""

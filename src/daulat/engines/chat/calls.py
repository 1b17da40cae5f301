"""Tool calls as DeepSeek models write them, found in text that comes in pieces. Any split of a text gives the same.

- V3, R1: `<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, the arguments in a fenced JSON block, `<｜tool▁call▁end｜>`
- V3.1: `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>`
- V3.2, V4: `<｜DSML｜invoke name="N">`, for each argument `<｜DSML｜parameter name="P" string="true">`, its value
  and `</｜DSML｜parameter>`, or one JSON object, `</｜DSML｜invoke>`. V4.1: the same, a space before each tag's name

They stand in a section: `<｜tool▁calls▁begin｜>` to `<｜tool▁calls▁end｜>`, or DSML's `function_calls` (V3.2),
`tool_calls` (V4), ` calls` (V4.1). V4 also begins one as `toolcalls` or `tool`, or leaves a parameter's end out: vLLM's
parser has seen it. Sources: DeepSeek's chat templates, `encoding_dsv32.py` and `encoding_dsv4.py`; the parsers of vLLM
and SGLang. What turns out to be no call is text again, to the letter.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from daulat.engines.rewriting import written

_CALL, _SEP, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_SECTION, _SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_DSML: Final = {
    f"<｜DSML｜{space}{name}>": space
    for space, name in (("", "function_calls"), ("", "tool_calls"), (" ", "calls"), ("", "toolcalls"), ("", "tool"))
}
_DSML_END: Final = "</｜DSML｜tool_calls>"  # however it began
_OPENINGS: Final = (_SECTION, _CALL, *_DSML)
_INVOKE: Final = re.compile(r'<｜DSML｜ ?invoke\s+name="([^"\n]{1,256})"\s*>(.*)\Z', re.DOTALL)
_PARAMETER: Final = re.compile(r'<｜DSML｜ ?parameter\s+name="([^"\n]*)"(?:\s+string="(true|false)")?\s*>')
_PARAMETER_END: Final = re.compile(r"</｜DSML｜ ?parameter>|(?=<｜DSML｜ ?parameter\s+name=)|\Z")
_FENCE: Final = "```"
_LONGEST: Final = 1_048_576  # characters of one call
_MOST_FAILURES: Final = 64  # beginnings that were none: a text with more is not searched further


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `arguments` is JSON as the model wrote it, or made of its parameters."""

    name: str
    arguments: str


Piece = str | Call


class Calls:
    """One choice's text on its way. `found`: how many calls so far."""

    __slots__ = ("_begin", "_buffer", "_end", "_failures", "_opened", "_section_ends", "found")

    def __init__(self) -> None:
        self._buffer = ""
        self._opened = ""  # how the section began, until a call was found in it
        self._begin = self._end = ""  # a call's marks, while a section is open
        self._section_ends: tuple[str, ...] = ()
        self._failures = 0
        self.found = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is kept back."""
        return not self._buffer and not self._begin

    def feed(self, text: str) -> list[Piece]:
        """Take text; what is certain of it comes out, in order."""
        self._buffer += text
        pieces: list[Piece] = []
        while self._step(pieces):
            pass
        if len(self._buffer) > _LONGEST:
            pieces += self.finish()
        return pieces

    def finish(self) -> list[Piece]:
        """The text has ended: what is left of it."""
        pieces: list[Piece] = []
        rest = self._buffer.lstrip() if self._begin else ""
        call = self._read(rest, whole=False) if rest.startswith(self._begin or "?") else None
        if call is not None:
            self._take(call, len(self._buffer), pieces)
        elif self._opened or rest or not self._begin:
            self._say(self._opened + self._buffer, pieces)
        self._buffer = self._opened = self._begin = ""
        return pieces

    def _step(self, pieces: list[Piece]) -> bool:
        """One step; whether there may be another."""
        return self._inside(pieces) if self._begin else self._outside(pieces)

    def _outside(self, pieces: list[Piece]) -> bool:
        if self._failures > _MOST_FAILURES:
            self._say(self._buffer, pieces)
            self._buffer = ""
            return False
        found = [(at, opening) for opening in _OPENINGS if (at := self._buffer.find(opening)) >= 0]
        if not found:
            mark = self._buffer.rfind("<")
            may_open = mark >= 0 and any(opening.startswith(self._buffer[mark:]) for opening in _OPENINGS)
            end = len((self._buffer[:mark] if may_open else self._buffer).rstrip("\n"))
            self._say(self._buffer[:end], pieces)
            self._buffer = self._buffer[end:]
            return False
        at, opening = min(found)
        before = self._buffer[:at]
        self._say(before.rstrip("\n"), pieces)
        self._opened = before[len(before.rstrip("\n")) :] + (opening if opening != _CALL else "")
        self._buffer = self._buffer[at + (len(opening) if opening != _CALL else 0) :]
        if opening in _DSML:
            space = _DSML[opening]
            self._begin, self._end = f"<｜DSML｜{space}invoke", f"</｜DSML｜{space}invoke>"
            self._section_ends = (opening.replace("<", "</"), _DSML_END)
        else:
            self._begin, self._end, self._section_ends = _CALL, _CALL_END, (_SECTION_END,)
        return True

    def _inside(self, pieces: list[Piece]) -> bool:
        rest = self._buffer.lstrip()
        if not rest.startswith(self._begin):
            return self._between(rest, pieces)
        ends = [at for mark in (self._end, *self._section_ends, self._begin) if (at := rest.find(mark, 1)) >= 0]
        if not ends:
            return False
        end = min(ends)
        call = self._read(rest[:end], whole=True)
        if call is None:
            self._give_up(pieces)
            return True
        end += len(self._end) if rest.startswith(self._end, end) else 0
        self._take(call, len(self._buffer) - len(rest) + end, pieces)
        return True

    def _between(self, rest: str, pieces: list[Piece]) -> bool:
        """Not at a call: at the section's end, or before something that is not here yet, or it was no section."""
        end = next((end for end in self._section_ends if rest.startswith(end)), "")
        if end and not self._opened:
            self._buffer, self._begin = rest[len(end) :], ""
            return True
        if any(mark.startswith(rest) for mark in (self._begin, *self._section_ends)) and not end:
            return False
        self._give_up(pieces)
        return True

    def _take(self, call: Call, length: int, pieces: list[Piece]) -> None:
        pieces.append(call)
        self._buffer, self._opened = self._buffer[length:], ""
        self.found += 1

    def _give_up(self, pieces: list[Piece]) -> None:
        """It was no section: its beginning is text, and what follows is looked at anew."""
        self._failures += 1
        text, self._opened, self._begin = self._opened, "", ""
        if not text and self._buffer:  # one character on, so as not to find the same again
            at = max(1, len(self._buffer) - len(self._buffer.lstrip()) + 1)
            text, self._buffer = self._buffer[:at], self._buffer[at:]
        self._say(text, pieces)

    @staticmethod
    def _say(text: str, pieces: list[Piece]) -> None:
        if text and pieces and isinstance(pieces[-1], str):
            pieces[-1] += text
        elif text:
            pieces.append(text)

    def _read(self, text: str, *, whole: bool) -> Call | None:
        """A call from its beginning mark on, without its end; `whole`: that end has come."""
        if self._begin != _CALL:
            found = _INVOKE.match(text)
            return None if found is None or not whole else Call(found[1], _parameters(found[2]))
        head, sep, rest = text.removeprefix(_CALL).partition(_SEP)
        if not sep:
            return None
        line, _, block = rest.strip().partition("\n")
        block = block.strip()
        if not line.startswith("{") and block.startswith(_FENCE):
            head, rest = line, block.removeprefix(_FENCE).removeprefix("json").removesuffix(_FENCE)
        name, arguments = head.strip(), rest.strip() or "{}"
        if not name or (not whole and not _is_object(arguments)):
            return None
        return Call(name, arguments)


def _parameters(text: str) -> str:
    """The arguments of an invocation: its parameters, or the JSON object that stands in their place."""
    plain = text.strip()
    if plain.startswith("{") and _is_object(plain):
        return plain
    found: dict[str, Any] = {}
    begin = _PARAMETER.search(text)
    while begin is not None and (end := _PARAMETER_END.search(text, begin.end())) is not None:
        found[begin[1]] = _value(text[begin.end() : end.start()], begin[2])
        begin = _PARAMETER.search(text, end.end())
    return written(found)


def _value(text: str, string: str | None) -> Any:
    """`string`: "true" for a text as it stands; else it is JSON, or a text after all."""
    if string == "true":
        return text
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False

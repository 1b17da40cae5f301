"""Requests for several answers (`n`, or a list of prompts), asked one by one.

llama.cpp takes them whole, but tells the usage of one answer only, and hurries them into slots that it chooses itself.
Asked one by one, each waits for a slot like any request, finds its prefix there, and is counted to the token.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from daulat.engines.dialect import EngineRequest, Parts
from daulat.engines.llamacpp.slots import with_members
from daulat.errors import EngineDead, EngineRequestFailed, InvalidRequest

_SEVERAL: Final = frozenset({"chat.completions", "completions"})
MOST: Final = 128  # OpenAI's own limit of `n`
_DONE: Final = b"data: [DONE]"
_COUNTS: Final = ("prompt_tokens", "completion_tokens")


class _Asked(msgspec.Struct):
    n: Any = None
    n_cmpl: Any = None  # llama.cpp's own name, which wins
    seed: Any = None

    @property
    def times(self) -> int:
        """Answers to each prompt; 1 too for what the engine refuses. It takes 2.0 and true for numbers."""
        wanted = self.n if self.n_cmpl is None else self.n_cmpl
        return int(wanted) if isinstance(wanted, int | float) else 1


def split(request: EngineRequest) -> Parts | None:
    """The parts of a request, None where it asks for one answer or is for the engine to refuse.

    Raises:
        InvalidRequest: it asks for more than 128.
    """
    if request.action not in _SEVERAL:
        return None
    prompts = _prompts(request.raw("prompt"))
    asked = _asked(request.body)
    times = asked.times
    if len(prompts) * times > MOST:
        raise InvalidRequest(f"A request may ask for {MOST} answers at most.", param="n")
    if len(prompts) * times <= 1:
        return None
    requests = [
        _part(request, prompt, asked.seed, turn, leads=number == turn == 0)
        for number, prompt in enumerate(prompts)
        for turn in range(times)
    ]
    return Parts(tuple(requests), Merged(len(requests), times))


_asked: Final = msgspec.json.Decoder(_Asked).decode


def _prompts(raw: bytes | None) -> list[msgspec.Raw | None]:
    """Each prompt; [None] where there is but one: text, tokens, or llama.cpp's own mixture of both."""
    if raw is None or not raw.lstrip().startswith(b"["):
        return [None]
    items: list[msgspec.Raw] = msgspec.json.decode(raw, type=list[msgspec.Raw])
    if all(bytes(item).lstrip()[:1] in {b'"', b"["} for item in items):
        return list(items)
    return [None]


def _part(request: EngineRequest, prompt: msgspec.Raw | None, seed: Any, turn: int, *, leads: bool) -> EngineRequest:
    members = [b'"n":1,"n_cmpl":1']
    fields = request.fields
    if prompt is not None:
        members.append(b'"prompt":%b' % bytes(prompt))
        fields = {**fields, "prompt": prompt}
    if isinstance(seed, int) and seed >= 0 and turn:
        members.append(b'"seed":%d' % (seed + turn))  # the same seed would give the same answer
    body = with_members(request.body, b",".join(members))
    return EngineRequest(request.action, request.path, body, request.stream, fields, leads=leads)


class Merged:
    """`engines.dialect.Merger`. The prompt of `times` answers is stated once, as OpenAI does."""

    def __init__(self, count: int, times: int) -> None:
        self._times = times
        self._left = count
        self._bytes: list[list[bytes]] = [[] for _ in range(count)]
        self._rest = [b""] * count
        self._streamed = False
        self._ended = [False] * count
        self._usages: list[dict[str, Any]] = [{} for _ in range(count)]
        self._frame: dict[str, Any] = {}  # an event's members but for its choices
        self.overhead = 0

    def hold(self, part: int, data: bytes) -> bytes:
        self._bytes[part].append(data)
        return b""

    def feed(self, part: int, data: bytes) -> bytes:
        self._streamed = True
        *events, self._rest[part] = (self._rest[part] + data).split(b"\n\n")
        return b"".join([self._event(part, event + b"\n\n") for event in events])

    def finish(self, part: int) -> bytes:
        if self._streamed and not self._ended[part]:
            raise EngineDead("The engine ended its stream without finishing it.")
        self._left -= 1
        if self._left:
            return b""
        return self._last_events() if self._streamed else self._whole()

    def _event(self, part: int, event: bytes) -> bytes:
        if event.startswith(_DONE):
            self._ended[part] = True
            return b""
        try:
            value = json.loads(event.removeprefix(b"data:"))
            choices = value["choices"]
            self._usages[part] = value.pop("usage", None) or self._usages[part]
            value.pop("timings", None)
            for choice in choices:
                choice["index"] = part
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return event  # an error, a ping
        self._frame = self._frame or {key: member for key, member in value.items() if key != "choices"}
        return _framed({**value, "id": self._frame.get("id")}) if choices else b""

    def _last_events(self) -> bytes:
        usage = {**self._frame, "choices": [], "usage": self._usage()}
        return _framed(usage) + _DONE + b"\n\n"

    def _whole(self) -> bytes:
        try:
            answers = [json.loads(b"".join(part)) for part in self._bytes]
            choices = [{**answer["choices"][0], "index": number} for number, answer in enumerate(answers)]
            self._usages = [dict(answer["usage"]) for answer in answers]
            answers[0].pop("timings", None)
            whole = {**answers[0], "choices": choices, "usage": self._usage()}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise EngineRequestFailed("The engine's answers cannot be put into one.", status=502) from None
        return json.dumps(whole, separators=(",", ":")).encode()

    def _usage(self) -> dict[str, Any]:
        """What all parts used; the prompts of further answers to one prompt are overhead."""
        stated = dict.fromkeys(_COUNTS, 0)
        cached = 0
        for number, usage in enumerate(self._usages):
            prompt, completion = (int(usage.get(name) or 0) for name in _COUNTS)
            found = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
            stated["completion_tokens"] += completion
            if number % self._times:
                self.overhead += max(0, prompt - found)
            else:
                stated["prompt_tokens"] += prompt
                cached += found
        return {**stated, "total_tokens": sum(stated.values()), "prompt_tokens_details": {"cached_tokens": cached}}


def _framed(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"

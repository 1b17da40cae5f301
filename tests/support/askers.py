"""People who ask a running service again and again, and remember what became of every question."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from tests.support.service import LONG_SECONDS, Service


@dataclass(frozen=True)
class Answer:
    """What one question came to. `status` 0: no answer at all, and `text` says why."""

    stream: bool
    status: int
    text: str  # what was said
    error: str  # an error's message, in the body or in the middle of a stream
    whole: bool


@dataclass
class Askers:
    """So many threads, half of them taking streams. Used as a context; `answers` is complete afterwards.

    `pause`: seconds of each between an answer and the next question; what starts meanwhile needs the cores, too.
    """

    service: Service
    model: str
    count: int = 6
    tokens: int = 16
    pause: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask, args=(bool(number % 2),)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * LONG_SECONDS)
            assert not thread.is_alive(), "an answer that never ends"

    def more(self, number: int) -> None:
        """Until so many further questions were answered."""
        seen = len(self.answers)
        self.service.wait(lambda: len(self.answers) >= seen + number)

    def _ask(self, stream: bool) -> None:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "What is the capital of Malaysia?"}],
            "max_tokens": self.tokens,
            "ignore_eos": True,
            "stream": stream,
        }
        with self.service.client(LONG_SECONDS) as client:
            while not self._over.wait(self.pause):
                self.answers.append(_streamed(client, body) if stream else _whole(client, body))


def _whole(client: httpx.Client, body: dict[str, Any]) -> Answer:
    try:
        got = client.post("chat/completions", json=body)
    except httpx.HTTPError as error:
        return Answer(False, 0, "", repr(error), False)
    value = got.json()
    if got.status_code != 200:
        return Answer(False, got.status_code, "", value["error"]["message"], True)
    return Answer(False, 200, value["choices"][0]["message"]["content"], "", True)


def _streamed(client: httpx.Client, body: dict[str, Any]) -> Answer:
    said, error, whole, status = "", "", False, 0
    try:
        with client.stream("POST", "chat/completions", json=body) as got:
            status = got.status_code
            if status != 200:
                got.read()
                return Answer(True, status, "", got.json()["error"]["message"], True)
            for line in got.iter_lines():
                if line == "data: [DONE]":
                    whole = True
                elif line.startswith("data: "):
                    value = json.loads(line.removeprefix("data: "))
                    error = value["error"]["message"] if "error" in value else error
                    said += "".join(choice["delta"].get("content") or "" for choice in value.get("choices", ()))
    except httpx.HTTPError as problem:
        return Answer(True, status, said, repr(problem), False)
    return Answer(True, status, said, error, whole)

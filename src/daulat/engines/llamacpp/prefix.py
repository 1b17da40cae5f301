"""The part of a prompt that requests share: the leading system message and the tools."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

LEAST: Final = 1500  # bytes: below this, prefilling again costs less than the detour
_SEEN: Final = 256  # prefixes remembered as seen
_SYSTEM: Final = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class Shared:
    """A shareable prefix. `key` is how a remembered prompt begins that holds it."""

    key: bytes
    warm_up: bytes  # the body of a request that only reads it


def prompt_of(tools: bytes | None, messages: bytes | None, prompt: bytes | None) -> bytes:
    """What is remembered of a request, tools first as templates put them."""
    return (tools or b"") + (messages or prompt or b"")


def shared(tools: bytes | None, messages: bytes | None) -> Shared | None:
    """The prefix, where it is long enough to be worth sharing."""
    if messages is None or len(messages) + len(tools or b"") < LEAST:
        return None
    try:
        text = messages.decode()
        start = text.index("[") + 1
        start += len(text[start:]) - len(text[start:].lstrip())
        first, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None  # the engine will say what is wrong with it
    if not isinstance(first, dict) or first.get("role") not in _SYSTEM:
        return None
    head = (tools or b"") + text[:end].encode()
    if len(head) < LEAST:
        return None
    extra = b',"tools":' + tools if tools else b""
    body = b'{"messages":%b,{"role":"user","content":"."}]%b,"max_tokens":1,"stream":false}' % (
        text[:end].encode(),
        extra,
    )
    return Shared(head, body)


class Saves:
    """Which prefix stands in which file of the engine's folder: few names, used again and again: disk is bounded.

    Prefixes are known by their digest: a few hundred long system prompts would be too much to keep.
    """

    def __init__(self, worker: int, files: int) -> None:
        self._free = [f"prefix-{worker}-{number}" for number in range(files)]
        self._names: OrderedDict[bytes, str] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def seen(self, prefix: bytes) -> bool:
        """Whether it was asked for before; it has been from now on."""
        digest = _digest(prefix)
        known = digest in self._seen
        self._seen[digest] = None
        self._seen.move_to_end(digest)
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return known

    def name(self, prefix: bytes) -> str | None:
        """The file that holds it."""
        digest = _digest(prefix)
        if digest in self._names:
            self._names.move_to_end(digest)
        return self._names.get(digest)

    def reserve(self) -> str | None:
        """A name to save to: an unused one, or the least recently used prefix's. None: all are being written to."""
        if self._free:
            return self._free.pop()
        return self._names.popitem(last=False)[1] if self._names else None

    def keep(self, prefix: bytes, name: str) -> None:
        """It stands in that file from now on."""
        self.forget(prefix)
        self._names[_digest(prefix)] = name

    def forget(self, prefix: bytes) -> None:
        """The file turned out not to be usable."""
        if (name := self._names.pop(_digest(prefix), None)) is not None:
            self._free.append(name)

    def cancel(self, name: str) -> None:
        """Nothing was saved under a reserved name."""
        self._free.append(name)


def _digest(prefix: bytes) -> bytes:
    return hashlib.sha256(prefix).digest()

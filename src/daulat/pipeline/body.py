"""What the gateway reads of a request's body, once, and the few bytes it changes."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from daulat.errors import InvalidRequest

_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_ABSENT: Final = msgspec.Raw(b"")
_NULL: Final = frozenset({b"", b"null"})
_USAGE_ASKED: Final = b'"stream_options":{"include_usage":true},'


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Peek(msgspec.Struct):
    """The fields that matter here. Everything else in the body reaches the engine unread."""

    model: str
    stream: bool | None = None
    stream_options: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    tool_choice: msgspec.Raw = _ABSENT


_decode: Final = msgspec.json.Decoder(Peek).decode
_decode_options: Final = msgspec.json.Decoder(StreamOptions | None).decode
_NEEDS: Final = {"chat.completions": "messages", "completions": "prompt", "embeddings": "input"}


def peek(body: bytes, action: str, max_depth: int) -> Peek:
    """Read a body.

    Raises:
        InvalidRequest: not JSON, nested too deeply, or a field of the wrong type or missing; says which.
    """
    # Cheap and nearly always enough: a body with few brackets cannot be deep.
    if body.count(b"[") + body.count(b"{") > max_depth and _depth(body) > max_depth:
        raise InvalidRequest(f"The body is nested more than {max_depth} levels deep.")
    try:
        found = _decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The body has a wrong field: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    needed = _NEEDS[action]
    if bytes(getattr(found, needed)) in _NULL:
        raise InvalidRequest(f"The body has no '{needed}', which this endpoint needs.", param=needed)
    return found


def asks_for_usage(found: Peek) -> bool:
    """Whether the client itself asked for a stream's usage.

    Raises:
        InvalidRequest: `stream_options` is not an object.
    """
    if not bytes(found.stream_options):
        return False
    try:
        options = _decode_options(found.stream_options)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"'stream_options' is wrong: {error}.", param="stream_options") from None
    return options is not None and bool(options.include_usage)


def with_usage(body: bytes, found: Peek) -> bytes:
    """The body with `stream_options.include_usage` true, everything else as it came."""
    if not bytes(found.stream_options):
        start = body.index(b"{") + 1
        return b"".join((body[:start], _USAGE_ASKED, body[start:]))
    options: dict[str, Any] = msgspec.json.decode(found.stream_options) or {}
    options["include_usage"] = True
    # A key given twice means its last value to the usual parsers, so ours is put last.
    end = body.rindex(b"}")
    return b"".join((body[:end], b',"stream_options":', msgspec.json.encode(options), body[end:]))


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for match in _STRUCTURE.finditer(body):
        first = body[match.start()]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest

"""What the gateway reads of a request's body, once, and the few bytes it changes."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from itertools import accumulate
from typing import Final

import msgspec

from daulat.errors import InvalidRequest

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one up
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_LARGE: Final = 65_536
_MOST_NAMES: Final = 4096
_ABSENT: Final = msgspec.Raw(b"")
_NULL: Final = frozenset({b"", b"null"})
_TRUE: Final = msgspec.Raw(b"true")
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


class _Name:
    """One occurrence of a name in an object: no two are equal, so names given twice stay apart."""

    __slots__ = ("text",)

    def __init__(self, _type: type, text: str) -> None:
        self.text = text


_decode: Final = msgspec.json.Decoder(Peek).decode
_decode_options: Final = msgspec.json.Decoder(StreamOptions | None).decode
_decode_names: Final = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_Name).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_NEEDS: Final = {"chat.completions": "messages", "completions": "prompt", "embeddings": "input"}
_READ: Final = frozenset(Peek.__struct_fields__)


def peek(body: bytes, action: str, max_depth: int) -> Peek:
    """Read a body.

    Raises:
        InvalidRequest: not JSON in UTF-8, nested too deeply, or a field of the wrong type, missing, or given twice;
            says which.
    """
    try:
        if not body.isascii():
            body.decode()  # what is skipped below is not looked at so closely
        found = _decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The body has a wrong field: {error}.") from None
    except RecursionError:
        raise InvalidRequest(f"The body is nested more than {max_depth} levels deep.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    # Cheap and nearly always enough: a body with few brackets cannot be deep.
    if body.count(b"[") + body.count(b"{") > max_depth and _deeper(body, max_depth):
        raise InvalidRequest(f"The body is nested more than {max_depth} levels deep.")
    _once(body, _READ)
    needed = _NEEDS[action]
    if bytes(getattr(found, needed)) in _NULL:
        raise InvalidRequest(f"The body has no '{needed}', which this endpoint needs.", param=needed)
    return found


def asks_for_usage(found: Peek) -> bool:
    """Whether the client itself asked for a stream's usage.

    Raises:
        InvalidRequest: `stream_options` is not an object, or says it twice.
    """
    if bytes(found.stream_options) in _NULL:
        return False
    try:
        options = _decode_options(found.stream_options)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"'stream_options' is wrong: {error}.", param="stream_options") from None
    _once(bytes(found.stream_options), frozenset({"include_usage"}))
    return options is not None and bool(options.include_usage)


def with_usage(body: bytes, found: Peek) -> bytes:
    """The body with `stream_options.include_usage` true, every other value as it came."""
    if not bytes(found.stream_options):
        start = body.index(b"{") + 1
        return b"".join((body[:start], _USAGE_ASKED, body[start:]))
    members = _decode_members(body) or {}
    options = _decode_members(found.stream_options) or {}
    options["include_usage"] = _TRUE
    members["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    return msgspec.json.encode(members)


def _once(text: bytes, names: frozenset[str]) -> None:
    """Parsers differ in which of two values they take: what is read here and by the engine must be one thing.

    Raises:
        InvalidRequest: one of `names` is given more than once, however it is spelled; or there are far too many fields.
    """
    seen: set[str] = set()
    for name in (_decode_names if len(text) < _LARGE else _counting())(text):
        if name.text in seen:
            raise InvalidRequest(f"The field '{name.text}' is given more than once.", param=name.text)
        if name.text in names:
            seen.add(name.text)


def _counting() -> Callable[[bytes], dict[_Name, msgspec.Raw]]:
    """As `_decode_names`, for bodies that have room for a million names."""
    left = _MOST_NAMES

    def made(type_: type, text: str) -> _Name:
        nonlocal left
        left -= 1
        if left < 0:
            raise InvalidRequest(f"The body has more than {_MOST_NAMES} fields.")
        return _Name(type_, text)

    return msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=made).decode


def _deeper(body: bytes, levels: int) -> bool:
    """Whether valid JSON is nested more deeply."""
    steps = array("b", _STRING.sub(b"", body).translate(_STEPS, _NO_BRACKETS))
    return max(accumulate(steps), default=0) > levels

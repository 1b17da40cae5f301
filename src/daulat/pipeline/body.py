"""What the gateway reads of a request's body, once, and the few bytes it changes."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from itertools import accumulate
from typing import Final
from zlib import crc32

import msgspec

from daulat.errors import InvalidRequest
from daulat.pipeline.actions import NEEDS

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one up
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_LARGE: Final = 65_536
_MOST_NAMES: Final = 4096
_BYTES_A_TOKEN: Final = 4
_USUAL: Final = 512  # tokens of an answer whose length the request does not bound
_LONGEST: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_LEAST_PREFIX: Final = 1500  # bytes: below this, reading a prompt again costs less than waiting for a warm replica
_ABSENT: Final = msgspec.Raw(b"")
_NULL: Final = frozenset({b"", b"null"})
_TRUE: Final = msgspec.Raw(b"true")
_USAGE_ASKED: Final = b'"stream_options":{"include_usage":true},'


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Peek(msgspec.Struct):
    """What is read of a body. All its members, as they came, are in `members`."""

    members: dict[str, msgspec.Raw]
    model: str
    stream: bool


class _Typed(msgspec.Struct):
    """The fields whose type matters here, for words on what is wrong with one."""

    model: str
    stream: bool | None = None


class _Name:
    """One occurrence of a name in an object: no two are equal, so names given twice stay apart."""

    __slots__ = ("text",)

    def __init__(self, _type: type, text: str) -> None:
        self.text = text


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_typed: Final = msgspec.json.Decoder(_Typed).decode
_decode_options: Final = msgspec.json.Decoder(StreamOptions | None).decode
_decode_names: Final = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_Name).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_decode_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_READ: Final = frozenset(
    {"model", "stream", "stream_options", "messages", "prompt", "input", "system", "instructions"}
    | {"tools", "tool_choice", "thinking", "reasoning", "reasoning_effort", "chat_template_kwargs"}
)
_BOOLEANS: Final = {b"true": True, b"false": False, b"null": False}


def peek(body: bytes, action: str, max_depth: int) -> Peek:
    """Read a body.

    Raises:
        InvalidRequest: not JSON in UTF-8, nested too deeply, or a field of the wrong type, missing, or given twice;
            says which.
    """
    try:
        if not body.isascii():
            body.decode()  # what is skipped below is not looked at so closely
        members = _decode(body)
        model = _decode_text(members.get("model", _ABSENT))
        stream = _BOOLEANS[bytes(members["stream"])] if "stream" in members else False
    except RecursionError:
        raise InvalidRequest(f"The body is nested more than {max_depth} levels deep.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        raise _wrong(body) from None
    # Cheap and nearly always enough: a body with few brackets cannot be deep.
    if _more_brackets(body, max_depth) and _deeper(body, max_depth):
        raise InvalidRequest(f"The body is nested more than {max_depth} levels deep.")
    if _encode(members) != body or len(members) > _MOST_NAMES:  # else it has no name twice: as most clients write it
        _once(body, _READ)
    needed = NEEDS[action]
    value = members.get(needed)
    if value is None and action == "tokenize":
        value = members.get("messages")
    if value is None or (len(value) == len(b"null") and bytes(value) == b"null"):
        raise InvalidRequest(f"The body has no '{needed}', which this endpoint needs.", param=needed)
    return Peek(members, model, stream)


def expected(found: Peek, size: int, *, generates: bool) -> tuple[int, int]:
    """Tokens of the prompt and of the answer, as far as can be told without reading the one or making the other.

    The prompt: a token each four bytes of the body (`size`). The answer: as many as are asked for at most, else 512.
    """
    prompt = -(-size // _BYTES_A_TOKEN)
    if not generates:
        return prompt, 0
    members, most = found.members, 0
    for name in _LONGEST:
        if name in members and (most := _number(members[name])):
            break
    answers = _number(members["n"]) if "n" in members else 1
    return prompt, (most or _USUAL) * (answers or 1)


def _number(value: msgspec.Raw) -> int:
    """A whole number of a body; 0 for anything else, which is for the engine to refuse."""
    text = bytes(value)
    return int(text) if text.isdigit() and len(text) < 10 else 0  # noqa: PLR2004  more is no number of tokens


def prefix(found: Peek) -> int:
    """A number that prompts which begin alike share: of the tools and the first message. 0: too short to matter."""
    tools, messages = found.members.get("tools", _ABSENT), found.members.get("messages")
    if messages is None:
        prompt = found.members.get("prompt", _ABSENT)
        return crc32(memoryview(prompt)[:_LEAST_PREFIX]) if len(prompt) >= _LEAST_PREFIX else 0
    if len(messages) + len(tools) < _LEAST_PREFIX:
        return 0
    try:
        first = _decode_items(messages)[0]
    except (msgspec.DecodeError, IndexError):
        return 0  # the engine will say what is wrong with it
    return crc32(memoryview(first), crc32(memoryview(tools)))


def _wrong(body: bytes) -> InvalidRequest:
    """What is wrong with a body that could not be read, in words."""
    try:
        _decode_typed(body)
    except msgspec.ValidationError as error:
        return InvalidRequest(f"The body has a wrong field: {error}.")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return InvalidRequest(f"The body is not valid JSON: {error}.")
    return InvalidRequest("The body is not valid JSON in UTF-8.")


def _more_brackets(body: bytes, limit: int) -> bool:
    """Whether there are more than `limit`; looking for the next is much quicker than counting a large body's."""
    for bracket in (b"{", b"["):
        at = body.find(bracket)
        while at >= 0:
            limit -= 1
            if limit < 0:
                return True
            at = body.find(bracket, at + 1)
    return False


def asks_for_usage(found: Peek) -> bool:
    """Whether the client itself asked for a stream's usage.

    Raises:
        InvalidRequest: `stream_options` is not an object, or says it twice.
    """
    said = found.members.get("stream_options", _ABSENT)
    if bytes(said) in _NULL:
        return False
    try:
        options = _decode_options(said)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"'stream_options' is wrong: {error}.", param="stream_options") from None
    _once(bytes(said), frozenset({"include_usage"}))
    return options is not None and bool(options.include_usage)


def with_usage(body: bytes, found: Peek) -> bytes:
    """The body with `stream_options.include_usage` true, every other value as it came."""
    said = found.members.get("stream_options")
    if said is None:
        start = body.index(b"{") + 1
        return b"".join((body[:start], _USAGE_ASKED, body[start:]))
    options = _decode_members(said) or {}
    options["include_usage"] = _TRUE
    return msgspec.json.encode({**found.members, "stream_options": msgspec.Raw(msgspec.json.encode(options))})


def _once(text: bytes, names: frozenset[str]) -> None:
    """Parsers differ in which of two values they take: what is read here and by the engine must be one thing.

    Raises:
        InvalidRequest: one of `names` is given more than once, however it is spelled; or there are far too many fields.
    """
    found = [name.text for name in (_decode_names if len(text) < _LARGE else _counting())(text)]
    if len(set(found)) == len(found):
        return
    for name in names:
        if found.count(name) > 1:
            raise InvalidRequest(f"The field '{name}' is given more than once.", param=name)


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

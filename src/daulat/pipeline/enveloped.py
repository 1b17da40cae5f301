"""Errors as engines say them, put into OpenAI's envelope: `message`, `type`, `param` and `code`, texts or null."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

_DATA: Final = re.compile(rb"^data:(.*)$", re.MULTILINE)
_REFUSED: Final = "invalid_request_error"
_BROKE: Final = "engine_error"


class _Error(msgspec.Struct):
    message: str
    type: Any = msgspec.UNSET
    param: Any = msgspec.UNSET
    code: Any = msgspec.UNSET


class _Envelope(msgspec.Struct):
    error: _Error


_decode: Final = msgspec.json.Decoder(_Envelope).decode


def whole(body: bytes, usual: str = _REFUSED) -> bytes:
    """An engine's error in all four fields; as it came, where it has them. `usual`: the type of one that names none.

    Empty where it says nothing that clients could read.
    """
    try:
        if not body.isascii():
            body.decode()  # JSON is UTF-8 (RFC 8259 section 8.1), also where it is skipped
        error = _decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
    if not error.message:
        return b""
    if isinstance(error.type, str) and _named(error.param) and _named(error.code):
        return body
    said = {
        "message": error.message,
        "type": error.type if isinstance(error.type, str) else usual,
        "param": error.param if isinstance(error.param, str) else None,
        "code": error.code if isinstance(error.code, str) else None,  # some engines repeat the status here
    }
    return msgspec.json.encode({"error": said})


def event(said: bytes) -> bytes:
    """The same for an event of a stream; one that is no error passes as it came."""
    data = b"".join(_DATA.findall(said))
    error = whole(data, _BROKE)
    if not error or error == data:
        return said
    others = [line for line in said.splitlines() if line and not line.startswith(b"data:")]
    return b"\n".join([*others, b"data: " + error]) + b"\n\n"


def _named(value: Any) -> bool:
    return value is None or isinstance(value, str)

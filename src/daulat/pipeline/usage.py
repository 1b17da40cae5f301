"""Finding `usage` in an answer without reading the rest of it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daulat.errors import EngineRequestFailed


class Usage(msgspec.Struct):
    """Tokens as the log counts them; `prompt_tokens` includes `cached_tokens`."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # what is no count is not counted


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = 0


class _Usage(msgspec.Struct):
    prompt_tokens: _Count | None = 0
    completion_tokens: _Count | None = 0
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class _Chunk(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[msgspec.Raw] | None = None


class _Error(msgspec.Struct):
    message: str


class _Envelope(msgspec.Struct):
    error: _Error


_error: Final = msgspec.json.Decoder(_Envelope).decode
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_answer: Final = msgspec.json.Decoder(_Answer).decode
_chunk: Final = msgspec.json.Decoder(_Chunk).decode


def of_answer(body: bytes) -> Usage | None:
    """The usage of a whole JSON answer; None where it states none that can be read.

    Raises:
        EngineRequestFailed: the body is no JSON object, so it is no answer.
    """
    try:
        if not body.isascii():
            body.decode()  # JSON is UTF-8 (RFC 8259 section 8.1), also where it is skipped
        try:
            found = _answer(body).usage
        except msgspec.ValidationError:
            _object(body)  # what is wrong may be no more than the usage
            return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineRequestFailed(f"The engine's answer is no JSON object ({error}).", status=502) from None
    return None if found is None else _plain(found)


def error_message(body: bytes) -> str:
    """What an error envelope says, OpenAI's or Anthropic's; "" where a body is none that clients could read."""
    try:
        body.decode()
        return _error(body).error.message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def of_event(data: bytes) -> tuple[Usage | None, bool]:
    """The usage of one stream event's JSON, and whether the event carries nothing else."""
    try:
        found = _chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, False
    if found.usage is None:
        return None, False
    return _plain(found.usage), not found.choices


def _plain(found: _Usage) -> Usage:
    details = found.prompt_tokens_details
    cached = details.cached_tokens if details is not None else 0
    return Usage(found.prompt_tokens or 0, cached or 0, found.completion_tokens or 0)

"""Counting a prompt's tokens with llama.cpp, asked and answered as vLLM's `/tokenize` is.

llama.cpp tokenises text only, so messages are first put into the model's template by the engine itself.
"""

from __future__ import annotations

import json
from typing import Any, Final

from daulat.engines.dialect import EngineRequest, Prepared
from daulat.engines.llamacpp.refusals import explain
from daulat.engines.port import Fetch
from daulat.errors import EngineRequestFailed, InvalidRequest

_OK: Final = 200
_SERVER_ERRORS: Final = 500
_RENDERED: Final = ("messages", "tools", "tool_choice", "chat_template_kwargs", "reasoning_effort")


def nothing() -> None:
    """Counting holds nothing that were to be given back."""


async def prepare(request: EngineRequest, fetch: Fetch) -> Prepared:
    """The text whose tokens are asked for, as it would stand before the model.

    Raises:
        InvalidRequest: the prompt is no text, or the template does not take the messages.
        EngineError: the engine failed.
    """
    messages = request.raw("messages")
    if messages is not None:
        text = await _rendered(request, fetch)
    else:
        text = json.loads(request.raw("prompt") or b"null")
        if not isinstance(text, str):
            raise InvalidRequest("The prompt whose tokens are to be counted must be a text.", param="prompt")
    special = request.raw("add_special_tokens") != b"false"
    body = json.dumps({"content": text, "add_special": special, "parse_special": True}).encode()
    return Prepared(body, nothing, Counted(), explain=explain)


async def _rendered(request: EngineRequest, fetch: Fetch) -> str:
    members = [b'"%b":%b' % (name.encode(), raw) for name in _RENDERED if (raw := request.raw(name)) is not None]
    status, answer = await fetch("POST", "/apply-template", b"{%b}" % b",".join(members))
    try:
        said = json.loads(answer)
        if status == _OK:
            return str(said["prompt"])
        words = str(said["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        words = f"status {status}"
    if status < _SERVER_ERRORS:
        raise InvalidRequest(f"The engine cannot render these messages: {words}", param="messages")
    raise EngineRequestFailed(f"The engine cannot render messages: {words}", status=status)


class Counted:
    """One answer's rewriter: `{"tokens": [...]}` becomes `{"count": n, "tokens": [...]}`."""

    def __init__(self) -> None:
        self._whole: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        return data  # never a stream

    def hold(self, data: bytes) -> bytes:
        self._whole.append(data)
        return b""

    def finish(self) -> bytes:
        body = b"".join(self._whole)
        try:
            found: list[Any] = json.loads(body)["tokens"]
            return json.dumps({"count": len(found), "tokens": found}, separators=(",", ":")).encode()
        except (ValueError, KeyError, TypeError, RecursionError):
            return body  # an error

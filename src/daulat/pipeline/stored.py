"""Stored completions: what `store: true` asks for, and what is kept of a request and its answer.

OpenAI's shapes: https://platform.openai.com/docs/api-reference/chat. Pure, over bytes that were sent or received.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from daulat.core.principal import Principal
from daulat.errors import InvalidRequest, PermissionDenied, Unavailable

_MOST_PAIRS, _MOST_KEY, _MOST_VALUE = 16, 64, 512
_TOLD: Final = (  # of the request, in the stored object
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "tools", "tool_choice", "response_format",
)  # fmt: skip


def asked(members: Mapping[str, msgspec.Raw]) -> bool:
    """Whether a request is to be kept.

    Raises:
        InvalidRequest: `store` is no boolean, or `metadata` is not what can be kept with it.
    """
    said = bytes(members.get("store", b"null"))
    if said in {b"null", b"false"}:
        return False
    if said != b"true":
        raise InvalidRequest("'store' is true or false.", param="store")
    metadata(_decoded(members.get("metadata")))
    return True


def begin(members: Mapping[str, msgspec.Raw], shortage: str, principal: Principal) -> list[bytes] | None:
    """Where an answer that is to be kept is collected; None for one that is not.

    Raises:
        InvalidRequest: as `asked`; Unavailable: it is to be kept, and cannot be now; PermissionDenied: as `opened`.
    """
    if not asked(members):
        return None
    opened(principal)
    if shortage:
        raise Unavailable(f"'store' is asked for, and nothing can be stored now: {shortage}.", code="vault_unavailable")
    return []


def opened(principal: Principal) -> Principal:
    """Whoever may get at what is kept of theirs with this key.

    Raises:
        PermissionDenied: the key is another's doing: who has signed in once makes their own.
    """
    if not principal.opens_vault:
        raise PermissionDenied(
            "A key that another made for you opens no vault: make one of your own at /me.", code="key_not_own"
        )
    return principal


def metadata(value: Any) -> dict[str, str]:
    """What may be said of a stored object.

    Raises:
        InvalidRequest: it is something else; says what it may be.
    """
    if value is None:
        return {}
    words = (
        f"'metadata' is an object of at most {_MOST_PAIRS} texts: names of at most {_MOST_KEY} characters, values of "
        f"at most {_MOST_VALUE}."
    )
    if not isinstance(value, dict) or len(value) > _MOST_PAIRS:
        raise InvalidRequest(words, param="metadata")
    for name, text in value.items():
        if not isinstance(text, str) or len(name) > _MOST_KEY or len(text) > _MOST_VALUE:
            raise InvalidRequest(words, param="metadata")
    return value


def completion(request: bytes, answer: bytes, *, stream: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The stored object, `metadata` in it, and the request's messages, of a request that was answered well.

    Raises:
        ValueError: the answer is none of a chat completion.
    """
    asked_for = json.loads(request)
    answered = _assembled(answer) if stream else json.loads(answer)
    if not isinstance(answered, dict) or not isinstance(answered.get("id"), str) or not answered.get("choices"):
        raise ValueError("the answer is no chat completion")
    told = {name: asked_for.get(name) for name in _TOLD}
    said = {**answered, "object": "chat.completion", **told, "metadata": metadata(asked_for.get("metadata"))}
    messages = [_message(answered["id"], number, each) for number, each in enumerate(asked_for["messages"])]
    return said, messages


def _message(id_: str, number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    others = {name: value for name, value in message.items() if name not in {"role", "content", "name"}}
    text = None if parts is not None else content
    head = {"id": f"{id_}-{number}", "role": message.get("role"), "content": text, "name": message.get("name")}
    return {**head, "content_parts": parts, **others}


def _decoded(raw: msgspec.Raw | None) -> Any:
    if raw is None:
        return None
    try:
        return json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise InvalidRequest("'metadata' is not valid JSON.", param="metadata") from None


def _assembled(answer: bytes) -> dict[str, Any]:
    """The completion that a stream's events amount to."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in _events(answer):
        for name in ("id", "created", "model", "system_fingerprint", "service_tier", "usage"):
            if event.get(name) is not None:
                whole[name] = event[name]
        for part in event.get("choices") or ():
            number = part.get("index", 0)
            choice = choices.setdefault(number, {"index": number, "message": {"role": "assistant"}, "logprobs": None})
            _add(choice["message"], part.get("delta") or {})
            if part.get("finish_reason") is not None:
                choice["finish_reason"] = part["finish_reason"]
            if part.get("logprobs"):
                choice["logprobs"] = _joined(choice["logprobs"], part["logprobs"])
    for choice in choices.values():
        choice["message"].setdefault("content", None)
    return {**whole, "choices": [choices[number] for number in sorted(choices)]}


def _events(answer: bytes) -> Iterator[dict[str, Any]]:
    for line in answer.split(b"\n"):
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            event = json.loads(data)
            if isinstance(event, dict):
                yield event


def _add(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for call in value or ():
                _add_call(calls, call)
        elif isinstance(value, str) and name != "role":
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            message[name] = value


def _add_call(calls: list[dict[str, Any]], call: Mapping[str, Any]) -> None:
    number = call.get("index", len(calls))
    while len(calls) <= min(number, 127):
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    held, function = calls[min(number, 127)], call.get("function") or {}
    held["id"] = call.get("id") or held["id"]
    for name in ("name", "arguments"):
        held["function"][name] += function.get(name) or ""


def _joined(held: dict[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    before = held or {}
    return {name: [*(before.get(name) or ()), *(value or ())] for name, value in more.items()}

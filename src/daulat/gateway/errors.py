"""The one table from our errors to the wire: HTTP status, and OpenAI's error envelope."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from daulat import errors

STATUS: Final[Mapping[type[errors.DaulatError], tuple[int, str]]] = {
    errors.InvalidRequest: (400, "invalid_request_error"),
    errors.Unauthenticated: (401, "authentication_error"),
    errors.PermissionDenied: (403, "permission_error"),
    errors.NotFound: (404, "not_found_error"),
    errors.Conflict: (409, "conflict_error"),
    errors.Overloaded: (429, "rate_limit_error"),
    errors.EngineRequestFailed: (502, "engine_error"),
    errors.EngineDead: (502, "engine_error"),
    errors.EngineTimeout: (504, "timeout_error"),
    errors.EngineError: (502, "engine_error"),
    errors.VerificationFailed: (500, "integrity_error"),  # what is somebody's own does not open: they are told
    errors.Unavailable: (503, "service_unavailable_error"),
}
_UNEXPECTED: Final = (500, "server_error")
_ANTHROPIC: Final[Mapping[int, str]] = {  # https://docs.anthropic.com/en/api/errors
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# Refusals of the wire itself carry their status as their code's meaning; they never leave this room.
_BY_CODE: Final[Mapping[str, int]] = {
    "method_not_allowed": 405,
    "too_many_connections": 503,
    "request_timeout": 408,
    "body_too_large": 413,
    "target_too_long": 414,
    "unsupported_media_type": 415,
    "precondition_failed": 412,
    "expectation_failed": 417,
    "unprocessable": 422,
    "idempotency_key_reused": 422,
    "precondition_required": 428,
    "headers_too_large": 431,
    "version_not_supported": 505,
    "not_implemented": 501,
}
_SERVER_ERRORS: Final = 500
REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def status_of(error: errors.DaulatError) -> int:
    """The HTTP status of an error."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    return _row(error)[0]


def envelope(error: errors.DaulatError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`. A defect of ours says nothing about itself."""
    status, type_ = _row(error)
    known = (status, type_) != _UNEXPECTED
    message = error.message if known else "Something went wrong here. The operator's log has the details."
    param = error.param if isinstance(error, errors.InvalidRequest) else None
    code = error.code if known else "internal_error"
    body = {"error": {"message": message, "type": type_, "param": param, "code": code}}
    return json.dumps(body, ensure_ascii=False).encode()


def anthropic_envelope(error: errors.DaulatError) -> bytes:
    """`{"type": "error", "error": {"type", "message"}}`, of Anthropic's Messages, and our code beside it."""
    status, ours = status_of(error), json.loads(envelope(error))["error"]
    usual = "invalid_request_error" if status < _SERVER_ERRORS else "api_error"
    said = {"type": _ANTHROPIC.get(status, usual), "message": ours["message"], "code": ours["code"]}
    return json.dumps({"type": "error", "error": said}, ensure_ascii=False).encode()


def headers_for(error: errors.DaulatError) -> list[tuple[bytes, bytes]]:
    """What goes with the status: `Retry-After`, `WWW-Authenticate`."""
    if isinstance(error, errors.Overloaded):
        return [(b"retry-after", str(max(1, math.ceil(error.retry_after))).encode())]
    if isinstance(error, errors.Unavailable):
        return [(b"retry-after", b"5")]
    if isinstance(error, errors.Unauthenticated):
        return [(b"www-authenticate", b'Bearer realm="daulat"')]
    return []


def _row(error: errors.DaulatError) -> tuple[int, str]:
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return _UNEXPECTED

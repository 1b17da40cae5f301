"""Every error Daulat raises on purpose.

    DaulatError
    ├── InvalidRequest            the caller sent something wrong; the message says what would be right
    ├── Unauthenticated           no credential, or one that is not known
    ├── PermissionDenied          known, but a rule (named in `policies`) refuses
    ├── NotFound
    ├── Conflict                  the state has moved on since the caller looked
    ├── Overloaded                try again after `retry_after` seconds
    ├── Unavailable               nothing may serve now (no lease, no replica, disk full): fail closed
    ├── EngineError
    │   ├── EngineRequestFailed   the engine answered with an error
    │   ├── EngineTimeout         the engine did not answer in time
    │   └── EngineDead            the engine's process or socket is gone
    ├── IntegrityError            never retried; the room that sees one stops
    │   ├── VerificationFailed    a signature, hash, proof or reference does not hold
    │   ├── SplitView             two checkpoints of one log contradict each other
    │   └── SealBroken            durable state was changed, lost or could not be made durable
    └── ConfigError               a setting, charter or policy is wrong; `location` says where

Rooms know no HTTP status; `gateway/errors.py` holds the one table that maps these to the wire.
Errors carry strings and ids only, so that they can be logged and crossed between processes.
"""

from __future__ import annotations

from typing import Final

_MOST_CHARACTERS: Final = 1000


def shortened(words: str) -> str:
    """Words that may repeat what somebody else has written, at a length that people read."""
    return words if len(words) <= _MOST_CHARACTERS else f"{words[:_MOST_CHARACTERS]} ..."


class DaulatError(Exception):
    """Base of all. `code` is stable and machine-readable; `retryable` says whether trying again can help."""

    code = "internal_error"
    retryable = False

    def __init__(self, message: str, *, code: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable


class InvalidRequest(DaulatError):
    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param


class Unauthenticated(DaulatError):
    code = "invalid_api_key"


class PermissionDenied(DaulatError):
    code = "permission_denied"

    def __init__(self, message: str, *, policies: tuple[str, ...] = (), code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.policies = policies


class NotFound(DaulatError):
    code = "not_found"


class Conflict(DaulatError):
    code = "conflict"


class Overloaded(DaulatError):
    code = "rate_limit_exceeded"
    retryable = True

    def __init__(self, message: str, *, retry_after: float, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Unavailable(DaulatError):
    code = "unavailable"
    retryable = True


class EngineError(DaulatError):
    code = "engine_error"
    retryable = True


class EngineRequestFailed(EngineError):
    code = "engine_request_failed"

    def __init__(self, message: str, *, status: int, body: bytes = b"", code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.body = body


class EngineTimeout(EngineError):
    code = "engine_timeout"


class EngineDead(EngineError):
    code = "engine_dead"


class IntegrityError(DaulatError):
    code = "integrity_error"


class VerificationFailed(IntegrityError):
    """Its words repeat what a stranger has written, so they are cut short."""

    code = "verification_failed"

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class SplitView(IntegrityError):
    code = "split_view"


class SealBroken(IntegrityError):
    code = "seal_broken"


class ConfigError(DaulatError):
    code = "config_error"

    def __init__(self, message: str, *, location: str = "") -> None:
        super().__init__(shortened(f"{location}: {message}" if location else message))
        self.location = location

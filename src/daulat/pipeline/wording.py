"""How refusals, and strings that are not ours, are put into records and answers."""

from __future__ import annotations

import hashlib
import json
from typing import Final

from daulat.core.entries import MAX_CLIENT_STRING
from daulat.errors import DaulatError, InvalidRequest, NotFound, Overloaded, PermissionDenied, Unavailable

_SHOWN: Final = 500  # bytes of an engine's own words
_RULES: Final = {  # the names under which an entry shows that the gateway itself refused
    InvalidRequest: "gateway.invalid_request",
    NotFound: "gateway.model",
    PermissionDenied: "gateway.network",
    Overloaded: "gateway.overloaded",
    Unavailable: "gateway.lease",
}


def rule(error: DaulatError) -> str:
    """The rule that an entry names where no policy decided."""
    return next((name for kind, name in _RULES.items() if isinstance(error, kind)), "gateway.error")


def refusal(status: int, answer: bytes) -> str:
    """What to say of an engine's refusal that is not in OpenAI's envelope."""
    return f"The engine refused the request with status {status}: {answer[:_SHOWN].decode(errors='replace')}"


def capped(text: str) -> str:
    """A client's string as JSON, or its hash when it is long."""
    raw = text.encode(errors="surrogatepass")
    if len(raw) > MAX_CLIENT_STRING:
        return f'"sha256:{hashlib.sha256(raw).hexdigest()}"'
    return json.dumps(text, ensure_ascii=False)

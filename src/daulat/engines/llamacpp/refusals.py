"""What llama.cpp's errors mean, where its status or code misleads: a prompt or an input that is too long."""

from __future__ import annotations

import json
import re
from typing import Final

from daulat.errors import DaulatError, InvalidRequest

_TOO_LARGE: Final = re.compile(r"input \((\d+) tokens\) is (?:too large to process|larger than the max context size)")
_NUMBERS: Final = re.compile(r"\d{1,12}")


def explain(_status: int, body: bytes) -> DaulatError | None:
    """See `engines.dialect.Explain`. A prompt beyond the context is 400 `context_length_exceeded`, as OpenAI says it;
    llama.cpp says 400 with a type of its own, and of an embedding's input it says 500."""
    try:
        said = json.loads(body)["error"]
        message, kind = str(said["message"]), said.get("type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if kind != "exceed_context_size_error" and _TOO_LARGE.search(message) is None:
        return None
    numbers = [int(number) for number in _NUMBERS.findall(message)]
    given = f"{numbers[0]} tokens" if numbers else "more tokens"
    limit = f" of {numbers[-1]} tokens" if len(numbers) > 1 else ""
    return InvalidRequest(
        f"The input is {given}, beyond this model's context{limit} here. Shorten it.", code="context_length_exceeded"
    )

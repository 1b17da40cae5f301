"""What starting an engine takes and what a running one tells, whichever engine it is. Pure."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from daulat.errors import EngineError

Fetch = Callable[[str, str, bytes], Awaitable[tuple[int, bytes]]]
"""`fetch(method, path, body) -> (status, body)` to one engine. Raises EngineError."""

LONGEST_DEFAULT_CONTEXT: Final = 8192
_COUNTERS: Final[Mapping[str, str]] = {
    "prompt_tokens": "llamacpp:prompt_tokens_total",
    "cached_prompt_tokens": "llamacpp:prompt_tokens_cached_total",
    "completion_tokens": "llamacpp:tokens_predicted_total",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How one engine is started. Paths are those inside its sandbox; sizes in tokens."""

    model: str
    name: str  # what clients call the model; its path never leaves the sandbox
    socket: str
    scratch: str
    slots: int
    context: int  # of one slot
    threads: int
    embeds: bool
    uid: int | None  # the uid the program takes before it reads the model

    def arguments(self) -> dict[str, Any]:
        """The JSON object that `processes/engine.py` is given."""
        return asdict(self)

    def parameters(self) -> dict[str, Any]:
        """What stands in `replica.started/v1`: what shapes answers, no paths."""
        return {
            "slots": self.slots,
            "context": self.context,
            "threads": self.threads,
            "kv_cache": "f16",  # beside flash attention, q8_0 reads prompts 1.4 times slower (docs/adr/0008)
            "flash_attention": True,
        }


@dataclass(frozen=True, slots=True)
class Counters:
    """The engine's own, since its start. `prompt_tokens` excludes those found in its cache."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def threads_for(cores: int, wanted: int) -> int:
    """Compute threads: what was asked for, else one core is left to the gateway."""
    return wanted or max(1, cores - 1)


def context_for(wanted: int, trained: int) -> int:
    """Tokens of one slot: what was asked for, else the model's own up to 8192; never beyond what it was trained on."""
    limit = trained or LONGEST_DEFAULT_CONTEXT
    return min(wanted or LONGEST_DEFAULT_CONTEXT, limit)


def counters(metrics: bytes) -> Counters:
    """Read them from llama.cpp's `/metrics` (Prometheus text).

    Raises:
        EngineError: a counter is missing or is no number.
    """
    text = metrics.decode(errors="replace")
    values = {}
    for field, name in _COUNTERS.items():
        found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE)
        try:
            values[field] = int(float(found[1])) if found is not None else -1
        except ValueError:
            values[field] = -1
        if values[field] < 0:
            raise EngineError(f"the engine's metrics lack {name}")
    return Counters(**values)

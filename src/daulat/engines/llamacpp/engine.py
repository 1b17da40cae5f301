"""llama.cpp as an engine: Daulat's own program starts it (`processes/engine.py`), a model file and a socket are all."""

from __future__ import annotations

import json
from typing import Any, Final

from daulat.engines.llamacpp.asking import LlamaCppAsker
from daulat.engines.port import Command, Engine, Launch, MetricNames

PROGRAM: Final = "/daulat/engine.py"  # inside the sandbox


def command(launch: Launch) -> Command:
    """`processes/engine.py` takes its parameters as one JSON argument, and its uid by itself."""
    return Command((launch.python, "-I", "-S", PROGRAM, json.dumps(launch.as_dict())))


def parameters(launch: Launch) -> dict[str, Any]:
    return {
        "slots": launch.slots,
        "context": launch.context,
        "threads": launch.threads,
        "kv_cache": "f16",  # beside flash attention, q8_0 reads prompts 1.4 times slower (docs/adr/0008)
        "flash_attention": True,
    }


# Names as of `server-context.cpp`'s metrics in the release that `xllamacpp` carries.
LLAMACPP: Final = Engine(
    name="llama.cpp",
    dialect="llama.cpp",
    metrics=MetricNames(
        prompt="llamacpp:prompt_tokens_total",
        cached="llamacpp:prompt_tokens_cached_total",
        completion="llamacpp:tokens_predicted_total",
        running="llamacpp:requests_processing",
        waiting="llamacpp:requests_deferred",
    ),
    parameters=parameters,
    command=command,
    asker=LlamaCppAsker,
)

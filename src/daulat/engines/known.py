"""Every engine that Daulat knows, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from daulat.engines.external import EXTERNAL
from daulat.engines.llamacpp.engine import LLAMACPP
from daulat.engines.mindie import MINDIE
from daulat.engines.port import Engine
from daulat.engines.sglang import SGLANG
from daulat.engines.vllm.engine import VLLM, VLLM_ASCEND
from daulat.errors import ConfigError

ENGINES: Final[Mapping[str, Engine]] = MappingProxyType(
    {engine.name: engine for engine in (LLAMACPP, VLLM, VLLM_ASCEND, SGLANG, MINDIE, EXTERNAL)}
)


def named(name: str) -> Engine:
    """Raises:
    ConfigError: no engine is called so; names those that are.
    """
    if name not in ENGINES:
        raise ConfigError(f"no engine is called {name!r}; known are {', '.join(ENGINES)}", location="--engine")
    return ENGINES[name]

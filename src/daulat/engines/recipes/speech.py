"""What an engine is told, so that it speaks as a model of the catalogue does: its tokenizer, its parsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from daulat.catalog.models import ModelSpec
from daulat.engines.recipes import sglang, vllm
from daulat.engines.recipes.recipe import flags

_FLAGS: Final[Mapping[str, Callable[[ModelSpec], tuple[tuple[str, object], ...]]]] = {
    "vllm": vllm.parsers,
    "vllm-ascend": vllm.parsers,
    "sglang": sglang.parsers,
}


def spoken(engine: str, model: ModelSpec | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's options (`engines.options`) with the flags that this model needs, but for those that are given."""
    given: Sequence[str] = options.get("arguments", ())
    named = {argument.partition("=")[0] for argument in given}
    wanted = _FLAGS[engine](model) if model is not None and engine in _FLAGS else ()
    ours = flags(*((name, value) for name, value in wanted if name not in named))
    return {**options, "arguments": [*ours, *given]} if ours else dict(options)

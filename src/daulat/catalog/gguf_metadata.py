"""A model's numbers out of a GGUF file's header, for models that the catalogue does not hold.

Source: the GGUF specification (ggml, docs/gguf.md), standardised keys, and llama.cpp's keys for DeepSeek's attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daulat.catalog.counting import parts
from daulat.catalog.models import ModelSpec, Weights
from daulat.catalog.precision import Precision
from daulat.catalog.shape import Experts, GroupedQuery, Latent, Shape
from daulat.errors import ConfigError

MOST: Final = 2**31
_APART: Final = 0.02  # share by which the weights counted and the tensors may differ
_SUPPORTED: Final = {"llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "deepseek2", "mistral", "phi3", "smollm3"}


def spec(
    metadata: Mapping[str, object], *, vocabulary: int, elements: int, size: int, tied: bool, name: str, location: str
) -> ModelSpec:
    """The model that a header describes. `elements`: all weights; `size`: the file's bytes; `tied`: no own output.

    Raises:
        ConfigError: a number is missing or cannot be, or the architecture's layers are not known here.
    """
    keys = _Keys(metadata, location)
    if keys.architecture not in _SUPPORTED:
        known = ", ".join(sorted(_SUPPORTED))
        raise ConfigError(f"architecture {keys.architecture!r} is not planned for; known: {known}", location=location)
    try:
        shape = _shape(keys, vocabulary, tied=tied, location=location)
    except ValueError as error:
        raise ConfigError(str(error), location=location) from None
    bits = size * 8 / max(elements, 1)
    counted = parts(shape).total
    apart = abs(counted - elements) / max(elements, 1)
    measured = Precision("as in the file", bits, bits, bits, bits, f"{bits:.2f} bits a weight in the mean")
    return ModelSpec(
        id=name,
        title=name,
        family=keys.architecture,
        architecture=keys.architecture,
        shape=shape,
        aliases=(),
        licence="",
        context=keys.count("context_length", default=0),
        native=measured.name,
        parameters=None,
        weights={measured.name: Weights(checkpoint="", source=location)},
        thinking=None,
        template=None,
        parsers={},
        source=location,
        confidence="read from the file"
        if apart <= _APART
        else f"read from the file, {apart:.0%} apart from its tensors",
        measured=measured,
    )


class _Keys:
    """Bounded look-ups below the architecture's name."""

    def __init__(self, metadata: Mapping[str, object], location: str) -> None:
        self._metadata, self._location = metadata, location
        self.architecture = str(metadata.get("general.architecture", ""))

    def count(self, key: str, default: int | None = None) -> int:
        value = self._metadata.get(f"{self.architecture}.{key}")
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST:
            said = "missing, or differs by layer" if value is None else repr(value)
            raise ConfigError(f"{self.architecture}.{key} is {said}", location=self._location)
        return value


def _shape(keys: _Keys, vocabulary: int, *, tied: bool, location: str) -> Shape:
    layers, hidden = keys.count("block_count"), keys.count("embedding_length")
    experts = _experts(keys, location)
    dense = keys.count("leading_dense_block_count", 0) if experts else layers
    mtp = keys.count("nextn_predict_layers", 0)
    latent = bool(keys.count("attention.kv_lora_rank", 0))
    return Shape(
        layers=layers - mtp,  # llama.cpp counts them among its blocks
        hidden=hidden,
        vocabulary=keys.count("vocab_size", vocabulary),
        source=location,
        dense_layers=dense - (0 if experts else mtp),
        dense_hidden=keys.count("feed_forward_length", 0) if dense else 0,
        mtp_layers=mtp,
        tied=tied,
        latent=_latent(keys, location) if latent else None,
        grouped=None if latent else _grouped(keys, hidden, location),
        experts=experts,
    )


def _experts(keys: _Keys, location: str) -> Experts | None:
    routed = keys.count("expert_count", 0)
    if not routed:
        return None
    hidden = keys.count("expert_feed_forward_length", keys.count("feed_forward_length", 0))
    shared = keys.count("expert_shared_count", 0)
    return Experts(
        routed=routed,
        active=keys.count("expert_used_count"),
        shared=shared,
        hidden=hidden,
        shared_hidden=keys.count("expert_shared_feed_forward_length", shared * hidden),
        source=location,
    )


def _latent(keys: _Keys, location: str) -> Latent:
    rope = keys.count("rope.dimension_count")
    key = keys.count("attention.key_length_mla", keys.count("attention.key_length"))
    if key < rope:
        raise ConfigError(f"attention.key_length_mla is {key}, below its positional part {rope}", location=location)
    return Latent(
        heads=keys.count("attention.head_count"),
        query_rank=keys.count("attention.q_lora_rank", 0),
        kv_rank=keys.count("attention.kv_lora_rank"),
        nope=key - rope,
        rope=rope,
        value=keys.count("attention.value_length_mla", keys.count("attention.value_length")),
        source=location,
    )


def _grouped(keys: _Keys, hidden: int, location: str) -> GroupedQuery:
    heads = keys.count("attention.head_count")
    if not heads:
        raise ConfigError("attention.head_count is 0", location=location)
    return GroupedQuery(
        heads=heads,
        kv_heads=keys.count("attention.head_count_kv", heads),
        head=keys.count("attention.key_length", hidden // heads),
        source=location,
        bias=keys.architecture.startswith("qwen2"),
    )

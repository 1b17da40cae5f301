"""A model's numbers out of its `config.json`: for models the catalogue does not hold, and to check those it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from daulat.catalog.models import ModelSpec, Weights
from daulat.catalog.shape import Compressed, Experts, GroupedQuery, Indexer, Latent, Linear, Shape
from daulat.errors import ConfigError

MOST_BYTES: Final = 8 * 1024 * 1024  # quantisation tables make some of these long
MOST: Final = 2**31
# Families whose formulas are checked against their published counts.
CHECKED: Final = frozenset(
    {
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "qwen3_5_text",
        "qwen3_5_moe_text",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v4",
        "deepseek_ref",
        "kimi_k2",
        "glm_moe_dsa",
        "minimax_m2",
        "gpt_oss",
        "glm4_moe",
        "llama4_text",
        "gemma3_text",
        "gemma4_text",
        "qwen3_next",
        "phi3",
    }
)
# Keys that make layers differ from each other, and the values at which they do not.
_EVEN: Final[Mapping[str, tuple[object, ...]]] = {
    "interleave_moe_layer_step": (None, 1),
    "num_kv_shared_layers": (None, 0),
    "hidden_size_per_layer_input": (None, 0),
    "moe_layer_freq": (None, 1),
    "decoder_sparse_step": (None, 1),
    "mlp_only_layers": (None, []),
    "hybrid_layer_pattern": (None,),
    "hybrid_override_pattern": (None,),
    "block_configs": (None,),
    "linear_attn_config": (None,),
    "sparse_attention_config": (None,),
}
_RECKONED: Final = {("llama4_text", "interleave_moe_layer_step")}  # keys of `_EVEN` that a family's formulas know
_LAYERS: Final = {"full_attention", "sliding_attention", "linear_attention", "deepseek_sparse_attention"}
_QUANTISED: Final = {"fp8": "fp8", "mxfp4": "mxfp4", "awq": "int4", "gptq": "int4", "compressed-tensors": "w4a16"}


def read(text: str, *, name: str, location: str) -> ModelSpec:
    """The model that a `config.json` describes; `location` names the file in errors.

    Raises:
        ConfigError: it is not JSON, not a model's configuration, or a number in it cannot be.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"is longer than {MOST_BYTES} characters", location=location)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON: {error}", location=location) from None
    if not isinstance(whole, dict):
        raise ConfigError("is no JSON object", location=location)
    return spec(whole, name=name, location=location)


def spec(whole: Mapping[str, Any], *, name: str, location: str) -> ModelSpec:
    """The same, from the parsed object. Vision parts are not counted.

    Raises:
        ConfigError: it is no model's configuration, or a number in it cannot be.
    """
    inner = whole.get("text_config")
    numbers = _Numbers(inner if isinstance(inner, dict) else whole, location)
    classes = whole.get("architectures")
    if not isinstance(classes, list) or not classes or not isinstance(classes[0], str):
        raise ConfigError("architectures is missing: this is no model's config.json", location=location)
    numbers.check_even()
    native = _native(whole, numbers)
    try:
        shape = _shape(numbers, location)
    except ValueError as error:
        raise ConfigError(str(error), location=location) from None
    return ModelSpec(
        id=name,
        title=name,
        family=numbers.family,
        architecture=classes[0],
        shape=shape,
        aliases=(),
        licence="",
        context=numbers.count("max_position_embeddings"),
        native=native,
        parameters=None,
        weights={native: Weights(checkpoint="", source=location)},
        thinking=None,
        template=None,
        parsers={},
        source=location,
        confidence="read from the file"
        + ("" if numbers.family in CHECKED else ", by formulas not checked for its family"),
    )


class _Numbers:
    """Bounded look-ups; a key that is null counts as absent."""

    def __init__(self, values: Mapping[str, Any], location: str) -> None:
        self.values, self._location = values, location

    @property
    def family(self) -> str:
        return str(self.values.get("model_type", ""))[:64]

    def check_even(self) -> None:
        """No layer may differ from the others in a way that is not reckoned with."""
        for key, even in _EVEN.items():
            if self.values.get(key) not in even and (self.family, key) not in _RECKONED:
                said = "its layers differ in a way that is not planned for, and a guess would be wrong"
                raise ConfigError(f"{key} is {self.values[key]!r:.80}: {said}", location=self._location)
        odd = sorted(set(self.names("layer_types")) - _LAYERS)
        if odd:
            raise ConfigError(f"layer_types has {odd!r:.80}, known are {sorted(_LAYERS)}", location=self._location)

    def count(self, *keys: str, default: int | None = None) -> int:
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST:
                raise ConfigError(f"{key} is {value!r}, expected a whole number below 2**31", location=self._location)
            return value
        if default is None:
            raise ConfigError(f"{keys[0]} is missing", location=self._location)
        return default

    def names(self, key: str) -> list[str]:
        value = self.values.get(key)
        return [str(item) for item in value] if isinstance(value, list) else []

    def yes(self, key: str) -> bool:
        return self.values.get(key) is True


def _native(whole: Mapping[str, Any], numbers: _Numbers) -> str:
    quantised = whole.get("quantization_config") or numbers.values.get("quantization_config")
    if not isinstance(quantised, dict):
        return "fp16" if (whole.get("torch_dtype") or whole.get("dtype")) == "float16" else "bf16"
    if numbers.values.get("expert_dtype") == "fp4":
        return "fp4"
    method = str(quantised.get("quant_method", ""))
    if "nvfp4" in json.dumps(quantised).lower():
        return "nvfp4"
    return _QUANTISED.get(method, "fp8")


def _shape(numbers: _Numbers, location: str) -> Shape:
    layers = numbers.count("num_hidden_layers")
    experts = _experts(numbers, location)
    dense = _dense(numbers, layers) if experts else layers
    heads = numbers.count("num_attention_heads")
    grouped = latent = compressed = None
    mtp = numbers.count("num_nextn_predict_layers", "mtp_num_hidden_layers", default=0)
    if "compress_ratios" in numbers.values:
        compressed = _compressed(numbers, heads, location)
        mtp = max(len(compressed.ratios) - layers, 0)
    elif numbers.values.get("kv_lora_rank"):
        latent = _latent(numbers, heads, location)
    else:
        grouped = _grouped(numbers, heads, location)
    return Shape(
        layers=layers,
        hidden=numbers.count("hidden_size"),
        vocabulary=numbers.count("vocab_size"),
        source=location,
        dense_layers=dense,
        dense_hidden=numbers.count("intermediate_size_mlp", "intermediate_size", default=0) if dense else 0,
        mtp_layers=mtp,
        tied=numbers.yes("tie_word_embeddings"),
        streams=numbers.count("hc_mult", default=1),
        grouped=grouped,
        latent=latent,
        compressed=compressed,
        linear=_linear(numbers, location),
        experts=experts,
    )


def _dense(numbers: _Numbers, layers: int) -> int:
    """How many layers of a mixture of experts have none: the first ones, or of Llama 4 all but each `step`-th."""
    step = numbers.count("interleave_moe_layer_step", default=1)
    return numbers.count("first_k_dense_replace", default=0) + layers - layers // max(step, 1)


def _experts(numbers: _Numbers, location: str) -> Experts | None:
    routed = numbers.count("n_routed_experts", "num_experts", "num_local_experts", default=0)
    if not routed:
        return None
    hidden = numbers.count("moe_intermediate_size", "intermediate_size")
    llama4 = numbers.family == "llama4_text"
    shared = numbers.count("n_shared_experts", default=1 if llama4 else 0)
    if numbers.yes("enable_moe_block"):  # Gemma 4 has its dense MLP beside the experts, in every layer
        shared_hidden = numbers.count("intermediate_size")
    else:
        shared_hidden = numbers.count("shared_expert_intermediate_size", default=shared * hidden)
    return Experts(
        routed=routed,
        active=numbers.count("num_experts_per_tok", "experts_per_token", "top_k_experts"),
        shared=shared or int(shared_hidden > 0),
        hidden=hidden,
        shared_hidden=shared_hidden,
        source=location,
        hashed_layers=numbers.count("num_hash_layers", default=0),
    )


def _indexer(numbers: _Numbers, location: str) -> Indexer | None:
    if not numbers.values.get("index_n_heads"):
        return None
    return Indexer(
        heads=numbers.count("index_n_heads"),
        head=numbers.count("index_head_dim"),
        top=numbers.count("index_topk"),
        source=location,
        layers=numbers.names("indexer_types").count("full"),
    )


def _latent(numbers: _Numbers, heads: int, location: str) -> Latent:
    return Latent(
        heads=heads,
        query_rank=numbers.count("q_lora_rank", default=0),
        kv_rank=numbers.count("kv_lora_rank"),
        nope=numbers.count("qk_nope_head_dim"),
        rope=numbers.count("qk_rope_head_dim"),
        value=numbers.count("v_head_dim"),
        source=location,
        indexer=_indexer(numbers, location),
    )


def _compressed(numbers: _Numbers, heads: int, location: str) -> Compressed:
    ratios, indexer = numbers.values["compress_ratios"], _indexer(numbers, location)
    if not isinstance(ratios, list) or not all(type(item) is int and 0 <= item < MOST for item in ratios):
        raise ConfigError(f"compress_ratios is {ratios!r:.80}, expected a list of whole numbers", location=location)
    if indexer is None:
        raise ConfigError("compress_ratios stands there without index_n_heads", location=location)
    return Compressed(
        heads=heads,
        head=numbers.count("head_dim"),
        rope=numbers.count("qk_rope_head_dim"),
        query_rank=numbers.count("q_lora_rank"),
        output_rank=numbers.count("o_lora_rank"),
        output_groups=numbers.count("o_groups"),
        window=numbers.count("sliding_window"),
        ratios=tuple(ratios),
        indexer=indexer,
        source=location,
    )


def _grouped(numbers: _Numbers, heads: int, location: str) -> GroupedQuery:
    if not heads:
        raise ConfigError("num_attention_heads is 0", location=location)
    kinds = numbers.names("layer_types")
    biased = numbers.yes("attention_bias") or numbers.values.get("model_type") == "qwen2"
    if pattern := numbers.count("sliding_window_pattern", default=0):  # Gemma 3: each so-many-th layer sees everything
        layers = numbers.count("num_hidden_layers")
        kinds = kinds or ["sliding_attention"] * (layers - layers // pattern)
    sliding = kinds.count("sliding_attention")
    full = None
    if numbers.values.get("num_global_key_value_heads"):
        full = GroupedQuery(
            heads=heads,
            kv_heads=numbers.count("num_global_key_value_heads"),
            head=numbers.count("global_head_dim"),
            source=location,
            keys_are_values=numbers.yes("attention_k_eq_v"),
        )
    return GroupedQuery(
        heads=heads,
        kv_heads=numbers.count("num_key_value_heads", default=heads),
        head=numbers.count("head_dim", default=numbers.count("hidden_size") // heads),
        source=location,
        bias=biased,
        output_gate=numbers.yes("attn_output_gate") or numbers.family == "qwen3_next",
        window=numbers.count("sliding_window", default=0) if sliding else 0,
        sliding_layers=sliding,
        full=full,
    )


def _linear(numbers: _Numbers, location: str) -> Linear | None:
    layers = numbers.names("layer_types").count("linear_attention")
    if interval := numbers.count("full_attention_interval", default=0) if not numbers.names("layer_types") else 0:
        layers = numbers.count("num_hidden_layers") - numbers.count("num_hidden_layers") // interval
    if not layers:
        return None
    return Linear(
        layers=layers,
        key_heads=numbers.count("linear_num_key_heads"),
        value_heads=numbers.count("linear_num_value_heads"),
        key=numbers.count("linear_key_head_dim"),
        value=numbers.count("linear_value_head_dim"),
        convolution=numbers.count("linear_conv_kernel_dim"),
        source=location,
    )

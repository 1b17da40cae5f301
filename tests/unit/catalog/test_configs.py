"""config.json and GGUF headers become the numbers the catalogue would hold, or a plain refusal."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import facts

from daulat.catalog import config_json, gguf_metadata
from daulat.catalog.counting import parts
from daulat.catalog.models import ModelSpec, find
from daulat.catalog.shape import Shape
from daulat.errors import ConfigError

# Written here in the form of published files: DeepSeek-V3's, a small dense one, and a hybrid of linear attention.
DEEPSEEK: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "first_k_dense_replace": 3,
    "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip
DENSE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
    "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2, "vocab_size": 10,
    "max_position_embeddings": 64, "tie_word_embeddings": True, "torch_dtype": "float16",
}  # fmt: skip
HYBRID: dict[str, Any] = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "text_config": {
        **DENSE, "model_type": "qwen3_5_text", "head_dim": 4, "attn_output_gate": True,
        "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 1, "linear_num_value_heads": 2,
        "linear_key_head_dim": 4, "linear_value_head_dim": 4, "linear_conv_kernel_dim": 4,
    },
}  # fmt: skip
V4: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "expert_dtype": "fp4", "hc_mult": 4,
    "head_dim": 512, "hidden_size": 4096, "index_head_dim": 128, "index_n_heads": 64, "index_topk": 512,
    "max_position_embeddings": 1048576, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_attention_heads": 64, "num_experts_per_tok": 6, "num_hidden_layers": 3, "num_hash_layers": 1,
    "num_key_value_heads": 1, "num_nextn_predict_layers": 1, "o_groups": 8, "o_lora_rank": 1024, "q_lora_rank": 1024,
    "qk_rope_head_dim": 64, "sliding_window": 128, "vocab_size": 129280, "compress_ratios": [0, 4, 128, 0],
    "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip


# What neighbours' files say, in their form: every number that the shape needs.
LLAMA4: dict[str, Any] = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "text_config": {
        "model_type": "llama4_text", "attention_chunk_size": 8192, "head_dim": 128, "hidden_size": 5120,
        "interleave_moe_layer_step": 2, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "max_position_embeddings": 1048576, "num_attention_heads": 40, "num_experts_per_tok": 1,
        "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 128, "vocab_size": 202048,
    },
}  # fmt: skip
GEMMA3: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 256, "hidden_size": 1152,
    "intermediate_size": 6912, "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26,
    "num_key_value_heads": 1, "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144,
    "tie_word_embeddings": True,
}  # fmt: skip
GEMMA4: dict[str, Any] = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "text_config": {
        "model_type": "gemma4_text", "attention_k_eq_v": True, "enable_moe_block": True, "global_head_dim": 512,
        "head_dim": 256, "hidden_size": 2816, "hidden_size_per_layer_input": 0, "intermediate_size": 2112,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5, "max_position_embeddings": 262144,
        "moe_intermediate_size": 704, "num_attention_heads": 16, "num_experts": 128, "num_global_key_value_heads": 2,
        "num_hidden_layers": 30, "num_key_value_heads": 8, "num_kv_shared_layers": 0, "sliding_window": 1024,
        "tie_word_embeddings": True, "top_k_experts": 8, "vocab_size": 262144,
    },
}  # fmt: skip
GLM4: dict[str, Any] = {
    "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "attention_bias": True,
    "first_k_dense_replace": 1, "head_dim": 128, "hidden_size": 4096, "intermediate_size": 10944,
    "max_position_embeddings": 131072, "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 1,
    "num_attention_heads": 96, "num_experts_per_tok": 8, "num_hidden_layers": 46, "num_key_value_heads": 8,
    "num_nextn_predict_layers": 1, "vocab_size": 151552,
}  # fmt: skip
NEXT: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "decoder_sparse_step": 1,
    "full_attention_interval": 4, "head_dim": 256, "hidden_size": 2048, "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [],
    "moe_intermediate_size": 512, "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10,
    "num_hidden_layers": 48, "num_key_value_heads": 2, "shared_expert_intermediate_size": 512, "vocab_size": 151936,
    "num_nextn_predict_layers": 1,
}  # fmt: skip


def read(config: dict[str, Any]) -> ModelSpec:
    return config_json.read(json.dumps(config), name="m", location="config.json")


def unsourced(shape: Shape) -> dict[str, Any]:
    """A shape's numbers without where they come from."""

    def strip(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: strip(item) for key, item in value.items() if key != "source"}

    stripped: dict[str, Any] = strip(dataclasses.asdict(shape))
    return stripped


def test_deepseeks_config_gives_the_catalogues_shape() -> None:
    spec = read(DEEPSEEK)
    assert unsourced(spec.shape) == unsourced(find("deepseek-v3").shape)
    assert (spec.native, spec.context, spec.architecture) == ("fp8", 163840, "DeepseekV3ForCausalLM")
    assert spec.confidence == "read from the file"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA4, "llama-4-maverick"),
        (GEMMA3, "gemma-3-1b"),
        (GEMMA4, "gemma-4-26b-a4b"),
        (GLM4, "glm-4.5-air"),
        (NEXT, "qwen3-next-80b-a3b"),
    ],
)
def test_neighbours_configs_give_the_catalogues_shapes(config: dict[str, Any], name: str) -> None:
    spec = read(config)
    assert unsourced(spec.shape) == unsourced(find(name).shape)
    assert (spec.context, spec.confidence) == (find(name).context, "read from the file")


@pytest.mark.parametrize("change", [{"num_kv_shared_layers": 20}, {"hidden_size_per_layer_input": 256}])
def test_layers_that_share_caches_or_have_inputs_of_their_own_are_not_guessed_at(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="its layers differ in a way that is not planned for"):
        read({**GEMMA4, "text_config": {**GEMMA4["text_config"], **change}})


def test_a_dense_config_has_its_heads_width_from_the_hidden_size() -> None:
    spec = read(DENSE)
    assert spec.shape.grouped is not None
    assert (spec.shape.grouped.head, spec.shape.tied, spec.native) == (4, True, "fp16")
    assert parts(spec.shape).total == 80 + 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16 + 16) + 8


def test_a_config_within_a_multimodal_one_is_found_with_its_linear_layers() -> None:
    shape = read(HYBRID).shape
    assert shape.linear is not None
    assert shape.linear.layers == 1
    assert shape.linear.state_elements() == (2 * 4 * 4, (2 * 4 + 8) * 3)


def test_compressed_attention_is_read_with_its_ratios() -> None:
    spec = read(V4)
    assert spec.shape.compressed is not None
    assert spec.shape.compressed.ratios == (0, 4, 128, 0)
    assert (spec.native, spec.shape.streams, spec.shape.mtp_layers) == ("fp4", 4, 1)


@pytest.mark.parametrize(
    ("quantised", "native"),
    [
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "compressed-tensors"}, "w4a16"),
    ],
)
def test_the_published_precision_is_recognised(quantised: dict[str, Any], native: str) -> None:
    assert read({**DEEPSEEK, "quantization_config": quantised}).native == native


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": None}, "this is no model's config.json"),
        ({"hidden_size": None}, "config.json: hidden_size is missing"),
        ({"hidden_size": "7168"}, "hidden_size is '7168', expected a whole number"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"hidden_size": 2**40}, r"expected a whole number below 2\*\*31"),
        ({"num_experts_per_tok": 500}, "500 of 256 experts"),
        ({"interleave_moe_layer_step": 2}, "layers differ in a way that is not planned for"),
        ({"moe_layer_freq": [0, 1]}, "layers differ"),
        ({"linear_attn_config": {"full_attn_layers": [4]}}, "layers differ"),
        ({"layer_types": ["mamba"]}, r"layer_types has \['mamba'\]"),
    ],
)
def test_a_config_that_cannot_be_is_refused_never_guessed_at(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read({**DEEPSEEK, **change})


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 100_000, '{"architectures": []}'])
def test_text_that_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: "):
        config_json.read(text, name="m", location="config.json")


def test_a_family_whose_formula_is_not_checked_says_so() -> None:
    assert "not checked" in read({**DENSE, "model_type": "novel"}).confidence


odd = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([DEEPSEEK, DENSE, V4]), st.data())
def test_whatever_stands_in_a_config_it_is_read_or_refused(config: dict[str, Any], data: st.DataObject) -> None:
    changed = dict(config)
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=4)):
        changed[key] = data.draw(odd)
    try:
        spec = config_json.spec(changed, name="m", location="x")
    except ConfigError:
        return
    assert parts(spec.shape).total > 0


# The keys of a GGUF header: DeepSeek's as llama.cpp writes them, and a dense one.
GGUF_DEEPSEEK: dict[str, Any] = {
    "general.architecture": "deepseek2", "deepseek2.block_count": 4, "deepseek2.embedding_length": 256,
    "deepseek2.feed_forward_length": 512, "deepseek2.attention.head_count": 8, "deepseek2.attention.head_count_kv": 1,
    "deepseek2.attention.kv_lora_rank": 64, "deepseek2.attention.q_lora_rank": 96,
    "deepseek2.attention.key_length": 96, "deepseek2.attention.key_length_mla": 64,
    "deepseek2.attention.value_length": 64, "deepseek2.attention.value_length_mla": 32,
    "deepseek2.rope.dimension_count": 32, "deepseek2.context_length": 2048, "deepseek2.expert_count": 16,
    "deepseek2.expert_used_count": 4, "deepseek2.expert_shared_count": 1,
    "deepseek2.expert_feed_forward_length": 128, "deepseek2.leading_dense_block_count": 1,
}  # fmt: skip
GGUF_DENSE: dict[str, Any] = {
    "general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 8,
    "llama.feed_forward_length": 16, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1,
    "llama.context_length": 64,
}  # fmt: skip


def header(metadata: dict[str, Any], elements: int = 1000, size: int = 1125) -> ModelSpec:
    return gguf_metadata.spec(
        metadata, vocabulary=10, elements=elements, size=size, tied=True, name="m", location="m.gguf"
    )


def test_a_gguf_header_of_deepseek_has_its_latent_attention_and_experts() -> None:
    shape = header(GGUF_DEEPSEEK).shape
    assert shape.latent is not None
    assert shape.experts is not None
    assert (shape.latent.nope, shape.latent.rope, shape.latent.value, shape.latent.kv_rank) == (32, 32, 32, 64)
    assert (shape.dense_layers, shape.moe_layers, shape.experts.routed, shape.vocabulary) == (1, 3, 16, 10)


def test_a_gguf_file_keeps_the_precision_its_bytes_have() -> None:
    elements = parts(header(GGUF_DENSE).shape).total
    spec = header(GGUF_DENSE, elements, elements * 9 // 8)
    assert spec.measured is not None
    assert spec.measured.experts == pytest.approx(9, abs=0.02)
    assert spec.confidence == "read from the file"
    assert "apart from its tensors" in header(GGUF_DENSE, elements * 2).confidence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"general.architecture": "mamba"}, "'mamba' is not planned for; known: deepseek2, llama"),
        ({"llama.attention.head_count": None}, "llama.attention.head_count is missing, or differs by layer"),
        ({"llama.attention.head_count": 0}, "head_count is 0"),
        ({"llama.attention.head_count": 3, "llama.attention.head_count_kv": 2}, "cannot share"),
        ({"llama.block_count": "2"}, "llama.block_count is '2'"),
        ({"llama.block_count": 2**40}, "llama.block_count is"),
    ],
)
def test_a_gguf_header_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    changed = {key: value for key, value in {**GGUF_DENSE, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        header(changed)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([GGUF_DEEPSEEK, GGUF_DENSE]), st.data())
def test_whatever_stands_in_a_gguf_header_it_is_read_or_refused(keys: dict[str, Any], data: st.DataObject) -> None:
    changed = dict(keys)
    for key in data.draw(st.lists(st.sampled_from(sorted(keys)), min_size=1, max_size=4)):
        changed[key] = data.draw(odd)
    try:
        header(changed)
    except ConfigError:
        return


# Published files, where they are at hand: file, and the model whose shape it must give field by field.
FILES = {
    "deepseek-ai--DeepSeek-R1_config.json": "deepseek-r1",
    "deepseek-ai--DeepSeek-V3_config.json": "deepseek-v3",
    "deepseek-ai--DeepSeek-V3.2_config.json": "deepseek-v3.2",
    "deepseek-ai--DeepSeek-V4-Flash_config.json": "deepseek-v4-flash",
    "deepseek-ai--DeepSeek-V4-Pro_config.json": "deepseek-v4-pro",
    "nvidia--DeepSeek-V3.1-NVFP4_config.json": "deepseek-v3.1",
    "nvidia--DeepSeek-V3.2-NVFP4_config.json": "deepseek-v3.2",
    "nvidia--DeepSeek-V4-Flash-NVFP4_config.json": "deepseek-v4-flash",
    "nvidia--DeepSeek-V4-Pro-NVFP4_config.json": "deepseek-v4-pro",
    "sgl-project--DeepSeek-V4-Flash-FP8_config.json": "deepseek-v4-flash",
    "sgl-project--DeepSeek-V4-Pro-FP8_config.json": "deepseek-v4-pro",
    "meta-llama--Meta-Llama-3.1-8B_config.json": "llama-3.1-8b",
    "meta-llama--Meta-Llama-3.1-70B_config.json": "deepseek-r1-distill-llama-70b",
    "nvidia--Llama-3.1-70B-Instruct-FP8_config.json": "llama-3.1-70b",
}


@pytest.mark.parametrize("name", FILES)
def test_the_catalogue_agrees_with_the_published_file_field_by_field(name: str) -> None:
    path = facts.folder(f"model-configs/{name}")
    spec, ours = config_json.read(path.read_text(), name=name, location=name), find(FILES[name])
    assert unsourced(spec.shape) == unsourced(ours.shape)
    assert spec.context == ours.context
    assert spec.architecture == ours.architecture
    if name.startswith("deepseek-ai"):
        assert spec.native == ours.native


def test_every_published_file_at_hand_is_compared() -> None:
    files = facts.folder("model-configs").glob("*--*_config.json")
    there = {path.name for path in files if "hf_quant" not in path.name}
    assert there - set(FILES) == set()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("config_16B.json", "deepseek-v2-lite"),
        ("config_236B.json", "deepseek-v2"),
        ("config_671B.json", "deepseek-v3"),
        ("config_v3.1.json", "deepseek-v3.1"),
        ("config_671B_v3.2.json", "deepseek-v3.2"),
    ],
)
def test_the_catalogue_agrees_with_deepseeks_own_inference_code(name: str, model: str) -> None:
    numbers = json.loads(facts.folder(f"model-configs/{name}").read_text())
    shape = find(model).shape
    latent, experts = shape.latent, shape.experts
    assert latent is not None
    assert experts is not None
    ours = {
        "vocab_size": shape.vocabulary, "dim": shape.hidden, "inter_dim": shape.dense_hidden,
        "moe_inter_dim": experts.hidden, "n_layers": shape.layers, "n_dense_layers": shape.dense_layers,
        "n_heads": latent.heads, "n_routed_experts": experts.routed, "n_shared_experts": experts.shared,
        "n_activated_experts": experts.active, "q_lora_rank": latent.query_rank, "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.nope, "qk_rope_head_dim": latent.rope, "v_head_dim": latent.value,
    }  # fmt: skip
    if latent.indexer:
        ours |= {"index_n_heads": latent.indexer.heads, "index_head_dim": latent.indexer.head}
        ours |= {"index_topk": latent.indexer.top}
    assert {key: numbers[key] for key in ours} == ours
    assert experts.shared_hidden == experts.shared * experts.hidden

"""Write a DeepSeek-V3 of Hugging Face's layout as GGUF, `deepseek2` or `deepseek32`, with the `gguf` package.

The mapping is that of llama.cpp's `convert_hf_to_gguf.py` (`DeepseekV2Model`): the experts of a layer are stacked, and
`kv_b_proj` is split into its halves, that of the keys transposed, so that attention runs in the latent space with one
KV head (MLA). Weights are float16, which holds these bfloat16 values; norms, routers and biases are float32.

DeepSeek-V3.2 is V3 with an indexer that chooses which tokens are attended to. Ours is not trained, and chooses as many
as the context has room for: so all of them, whatever their scores, and the model must answer as it does without.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from safetensors.torch import load_file

PRETOKENISER: Final = "deepseek-v3"
_ATTENTION: Final = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output",
}
_PARTS: Final = ("gate", "up", "down")
_INDEXER_HEADS: Final = 4
_INDEXER_WIDTH: Final = 128  # of one head: DeepSeek-V3.2's own


def write(folder: Path, destination: Path, name: str, *, sparse: bool = False) -> None:
    """`folder` holds config.json, tokenizer.json, tokenizer_config.json and model.safetensors. `sparse`: as V3.2."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(destination, "deepseek32" if sparse else "deepseek2")
    _parameters(writer, config, name)
    _tokenizer(writer, folder, config["vocab_size"])
    weights = {key: value.float().numpy() for key, value in load_file(folder / "model.safetensors").items()}
    tensors = _tensors(weights, config)
    if sparse:
        writer.add_indexer_head_count(_INDEXER_HEADS)
        writer.add_indexer_key_length(_INDEXER_WIDTH)
        writer.add_indexer_top_k(config["max_position_embeddings"])
        tensors |= _indexers(config)
    for tensor, array in tensors.items():
        narrow = array.ndim > 1 and "ffn_gate_inp" not in tensor
        writer.add_tensor(tensor, np.ascontiguousarray(array, dtype=np.float16 if narrow else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _parameters(writer: gguf.GGUFWriter, config: dict[str, Any], name: str) -> None:
    rope, latent = config["qk_rope_head_dim"], config["kv_lora_rank"]
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_organization("Daulat's own tests")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(rope)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1)  # the latent, shared by all heads
    writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(latent)
    writer.add_key_length(latent + rope)
    writer.add_value_length(latent)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_group_count(config["n_group"])
    writer.add_expert_group_used_count(config["topk_group"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    held = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for text, number in held["model"]["vocab"].items():
        tokens[number], kinds[number] = text, gguf.TokenType.NORMAL
    for added in held["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRETOKENISER)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = held["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(settings["chat_template"])


def _tensors(weights: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    found = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    for number in range(config["num_hidden_layers"]):
        own = {key: weights[f"model.layers.{number}.{key}.weight"] for key in _ATTENTION}
        block = {f"{_ATTENTION[key]}.weight": array for key, array in own.items()}
        block |= _latent(weights[f"model.layers.{number}.self_attn.kv_b_proj.weight"], config)
        mlp = f"model.layers.{number}.mlp"
        if number < config["first_k_dense_replace"]:
            block |= {f"ffn_{part}.weight": weights[f"{mlp}.{part}_proj.weight"] for part in _PARTS}
        else:
            block |= _experts(weights, mlp, config["n_routed_experts"])
        found |= {f"blk.{number}.{tensor}": array for tensor, array in block.items()}
    return found


def _latent(kv_b: Any, config: dict[str, Any]) -> dict[str, Any]:
    heads, latent = config["num_attention_heads"], config["kv_lora_rank"]
    keys, values = config["qk_nope_head_dim"], config["v_head_dim"]
    both = kv_b.reshape(heads, keys + values, latent)
    return {"attn_k_b.weight": both[:, :keys].transpose(0, 2, 1), "attn_v_b.weight": both[:, keys:]}


def _experts(weights: dict[str, Any], mlp: str, count: int) -> dict[str, Any]:
    block = {
        "ffn_gate_inp.weight": weights[f"{mlp}.gate.weight"],
        "exp_probs_b.bias": weights[f"{mlp}.gate.e_score_correction_bias"],
    }
    for part in _PARTS:
        each = [weights[f"{mlp}.experts.{expert}.{part}_proj.weight"] for expert in range(count)]
        block[f"ffn_{part}_exps.weight"] = np.stack(each)
        block[f"ffn_{part}_shexp.weight"] = weights[f"{mlp}.shared_experts.{part}_proj.weight"]
    return block


def _indexers(config: dict[str, Any]) -> dict[str, Any]:
    """Seeded weights of an indexer in each layer."""
    seeded, found = np.random.default_rng(7), {}
    hidden, wide = config["hidden_size"], _INDEXER_HEADS * _INDEXER_WIDTH
    shapes = {
        "proj": (_INDEXER_HEADS, hidden),
        "attn_k": (_INDEXER_WIDTH, hidden),
        "attn_q_b": (wide, config["q_lora_rank"]),
    }
    for number in range(config["num_hidden_layers"]):
        block = f"blk.{number}.indexer"
        found |= {f"{block}.{name}.weight": seeded.normal(0, 0.02, shape) for name, shape in shapes.items()}
        found |= {f"{block}.k_norm.weight": np.ones(_INDEXER_WIDTH), f"{block}.k_norm.bias": np.zeros(_INDEXER_WIDTH)}
    return found

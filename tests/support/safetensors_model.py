"""A GGUF llama in the form that vLLM reads: safetensors, `config.json`, `tokenizer.json`, the chat template.

Weights are dequantised to float32. llama.cpp's converter interleaves the halves of the rows of Q and K of each head,
which is undone here (`LlamaModel.permute` in its `convert_hf_to_gguf.py`). safetensors is an 8-byte length, a JSON
header and the tensors' bytes (huggingface.co/docs/safetensors); the tokenizer is byte-level BPE from the GGUF's tokens
and merges.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

CONTROL: Final = 3  # GGUF's token type of special tokens
_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(source: Path, folder: Path) -> Path:
    """Write the model of a GGUF file into `folder`, which is returned."""
    import gguf  # noqa: PLC0415  with numpy it takes a while to load

    reader = gguf.GGUFReader(source)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_name(tensor.name): _array(tensor, keys) for tensor in reader.tensors}
    _write_tensors(folder / "model.safetensors", tensors)
    _write_json(folder / "config.json", _config(keys, tied="lm_head.weight" not in tensors))
    _write_json(folder / "tokenizer.json", tokenizer(keys))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(keys))
    (folder / "chat_template.jinja").write_text(keys["tokenizer.chat_template"])
    return folder


def _name(gguf_name: str) -> str:
    parts = gguf_name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
    return f"{_OUTSIDE[parts[0]]}.{parts[1]}"


def _array(tensor: Any, keys: dict[str, Any]) -> Any:
    import gguf  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    values = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(tensor.name.split(".")[-2])
    if heads is None:
        return values
    count, (rows, columns) = keys[f"llama.attention.{heads}"], values.shape
    return values.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        end = offset + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            stream.write(array.tobytes())


def _config(keys: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(keys["tokenizer.ggml.tokens"]),
        "hidden_size": keys["llama.embedding_length"],
        "intermediate_size": keys["llama.feed_forward_length"],
        "num_hidden_layers": keys["llama.block_count"],
        "num_attention_heads": keys["llama.attention.head_count"],
        "num_key_value_heads": keys["llama.attention.head_count_kv"],
        "max_position_embeddings": keys["llama.context_length"],
        "rms_norm_eps": keys["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": keys["llama.rope.freq_base"],
        "bos_token_id": keys["tokenizer.ggml.bos_token_id"],
        "eos_token_id": keys["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "dtype": "float32",
    }


def tokenizer(keys: dict[str, Any]) -> dict[str, Any]:
    """`tokenizer.json` of the `tokenizers` library: each digit apart, then byte-level BPE, as SmolLM does it."""
    tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    special = [
        {"id": index, "content": token, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == CONTROL
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in keys["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(keys: dict[str, Any]) -> dict[str, Any]:
    tokens = keys["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[keys["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[keys["tokenizer.ggml.eos_token_id"]],
        "model_max_length": keys["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n")

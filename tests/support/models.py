"""Real models with a difference, made from the starter model: another template, or pooled to embed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# A template that knows of reasoning, as DeepSeek's and Qwen's do; llama.cpp learns from it where reasoning stands.
REASONING = """{%- for message in messages -%}
{%- if message.role == "assistant" and message.reasoning_content -%}
{{ "<|im_start|>assistant\\n<think>\\n" + message.reasoning_content + "\\n</think>\\n\\n" }}
{{- message.content + "<|im_end|>\\n" }}
{%- else -%}
{{ "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>\\n" }}
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\\n" }}{%- endif -%}
"""


def variant(source: Path, destination: Path, name: str, *, template: str = "", embeds: bool = False) -> Path:
    """The same weights under another name, with another chat template or mean pooling."""
    import gguf  # noqa: PLC0415  with numpy it takes a while to load

    reader = gguf.GGUFReader(source)
    writer: Any = gguf.GGUFWriter(destination, "llama")
    changed = {"general.name": name, **({"tokenizer.chat_template": template} if template else {})}
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, changed.get(field.name, field.contents()), kind, sub_type=inner)
    if embeds:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return destination

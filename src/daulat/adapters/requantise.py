"""Re-quantise a model's Q4_1 weights with the `gguf` package: llama.cpp reads prompts faster in Q8_0 or Q4_0."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from daulat.errors import ConfigError

SLOW: Final = "Q4_1"
TARGETS: Final = ("q8_0", "q4_0")
_INTERNAL: Final = "GGUF."  # keys the reader makes up itself


def recipe(target: str) -> str:
    """What stands in the log beside the digest of the model this was made from."""
    return f"{SLOW} weights to {target.upper()} with gguf {version('gguf')}"


def requantise(source: Path, destination: Path, target: str, progress: Callable[[str, int, int], None]) -> int:
    """Write `destination`: the same model with its Q4_1 tensors in `target`. Returns how many there were.

    Raises:
        ConfigError: there is nothing to do.
    """
    import gguf  # noqa: PLC0415  with numpy it takes 200 ms to load, and only this needs it
    from gguf import quants  # noqa: PLC0415

    kind = gguf.GGMLQuantizationType[target.upper()]
    reader = gguf.GGUFReader(source)
    slow = gguf.GGMLQuantizationType[SLOW]
    changed = sum(tensor.tensor_type == slow for tensor in reader.tensors)
    if not changed:
        raise ConfigError(f"no weights are in {SLOW}: there is nothing to optimise", location=str(source))
    writer = gguf.GGUFWriter(destination, str(reader.fields["general.architecture"].contents()))
    _copy_keys(gguf, reader, writer, target)
    for done, tensor in enumerate(reader.tensors):
        if tensor.tensor_type == slow:
            data = quants.quantize(quants.dequantize(tensor.data, slow), kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        progress("optimise", done + 1, len(reader.tensors))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return changed


def _copy_keys(gguf: Any, reader: Any, writer: Any, target: str) -> None:
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith(_INTERNAL):
            continue
        if field.name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{target.upper()}"])
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)

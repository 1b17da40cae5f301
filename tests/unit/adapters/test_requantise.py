"""Re-quantising changes the Q4_1 weights and nothing else, and says what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants

from daulat import registry
from daulat.adapters.requantise import recipe, requantise
from daulat.errors import ConfigError

Q4_1 = gguf.GGMLQuantizationType.Q4_1
WEIGHTS = np.linspace(-1, 1, 64 * 32, dtype=np.float32).reshape(32, 64)
KEYS: dict[str, Any] = {"general.name": "A Model", "llama.context_length": 2048, "x.list": ["a", "b"], "x.float": 0.5}


def write(path: Path, kind: Any = Q4_1) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "A Model")
    writer.add_uint32("llama.context_length", 2048)
    writer.add_array("x.list", ["a", "b"])
    writer.add_float32("x.float", 0.5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_tensor("weight", quants.quantize(WEIGHTS, kind), raw_dtype=kind)
    writer.add_tensor("norm", WEIGHTS[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("target", "error"), [("q8_0", 0.005), ("q4_0", 0.15)])
def test_slow_weights_become_fast_ones_and_all_else_stays(tmp_path: Path, target: str, error: float) -> None:
    source, made = write(tmp_path / "a.gguf"), tmp_path / "b.gguf"
    seen: list[tuple[str, int, int]] = []
    assert requantise(source, made, target, lambda *progress: seen.append(progress)) == 1
    assert seen == [("optimise", 1, 2), ("optimise", 2, 2)]
    before, after = (gguf.GGUFReader(path) for path in (source, made))
    weight, norm = after.tensors
    assert weight.tensor_type == gguf.GGMLQuantizationType[target.upper()]
    were = quants.dequantize(before.tensors[0].data, Q4_1)
    assert np.abs(quants.dequantize(weight.data, weight.tensor_type) - were).max() < error
    assert (norm.data == WEIGHTS[0]).all()
    for name, value in KEYS.items():
        assert after.fields[name].contents() == value
    assert after.fields["general.file_type"].contents() == gguf.LlamaFileType[f"MOSTLY_{target.upper()}"]
    assert registry.facts(made).quantisation == target.upper()
    assert registry.facts(made).name == registry.facts(source).name
    assert target.upper() in recipe(target)


def test_a_model_without_slow_weights_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "a.gguf", gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(ConfigError, match="nothing to optimise"):
        requantise(source, tmp_path / "b.gguf", "q8_0", lambda *_: None)
    assert not (tmp_path / "b.gguf").exists()

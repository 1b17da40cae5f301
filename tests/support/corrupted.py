"""Models that load and answer, and answer wrongly: the same file with some weights spoilt, as on faulty silicon."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

SEED: Final = 7


def scaled(source: Path, destination: Path, tensor: str, factor: float) -> Path:
    """Multiply all weights of the tensors whose name ends with `tensor`; Q4_1, F16 or F32."""
    import gguf  # noqa: PLC0415  with numpy it takes a while to load
    import numpy as np  # noqa: PLC0415

    def spoil(found: Any) -> Any:
        if found.tensor_type == gguf.GGMLQuantizationType.Q4_1:  # blocks of 20 bytes: two float16 factors, 32 nibbles
            blocks = found.data.copy().reshape(-1, 20)
            blocks[:, :4] = (blocks[:, :4].copy().view(np.float16) * np.float16(factor)).view(np.uint8)
            return blocks.reshape(found.data.shape)
        return found.data * np.asarray(factor, dtype=found.data.dtype)

    return _rewritten(source, destination, tensor, spoil)


def permuted(source: Path, destination: Path, tensor: str) -> Path:
    """Shuffle the rows of the tensors whose name ends with `tensor`: every weight is there, none in its place."""
    import numpy as np  # noqa: PLC0415

    order = np.random.default_rng(SEED)
    return _rewritten(source, destination, tensor, lambda found: order.permutation(found.data, axis=-2))


def _rewritten(source: Path, destination: Path, tensor: str, spoil: Any) -> Path:
    """Everything as it is but for the bytes of those tensors, in place."""
    import gguf  # noqa: PLC0415

    reader = gguf.GGUFReader(source)
    whole = bytearray(source.read_bytes())
    spoilt = [found for found in reader.tensors if found.name.endswith(tensor)]
    assert spoilt, f"no tensor is named {tensor}"
    for found in spoilt:
        data = spoil(found).tobytes()
        assert len(data) == found.n_bytes
        whole[found.data_offset : found.data_offset + found.n_bytes] = data
    destination.write_bytes(whole)
    return destination

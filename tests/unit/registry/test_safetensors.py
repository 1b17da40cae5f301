"""The bounded safetensors reader."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.model_folders import header, safetensors

from daulat.registry import safetensors as reader
from daulat.registry.gguf import BadModel

GOOD = safetensors({"a": ("F32", (2, 3)), "b": ("BF16", ()), "c": ("I8", (0, 7))}, metadata={"format": "pt"})


def read(data: bytes) -> reader.Header:
    return reader.read(io.BytesIO(data), len(data))


def tensor(kind: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": offsets}


def test_tensors_and_metadata_are_read() -> None:
    found = read(GOOD)
    assert found.metadata == {"format": "pt"}
    assert {(item.name, item.shape, item.type, item.elements) for item in found.tensors} == {
        ("a", (2, 3), "F32", 6),
        ("b", (), "BF16", 1),
        ("c", (0, 7), "I8", 0),
    }
    assert read(header({})).tensors == ()
    padded = (10).to_bytes(8, "little") + b"{}        "  # writers pad the header to whole words
    assert read(padded).tensors == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes"),
        (b"\x80\x04" + bytes(100), "cut short|no safetensors"),  # a pickle
        (b"PK\x03\x04" + bytes(100), "no safetensors|cut short"),
        ((2**63).to_bytes(8, "little") + b"{}", "over 33554432"),
        ((100).to_bytes(8, "little") + b"{}", "cut short"),
        ((2).to_bytes(8, "little") + b"[]", "does not begin with {"),
        ((2).to_bytes(8, "little") + b" {", "does not begin with {"),
        (header({"a": tensor()}), "cut short"),
        (header({"a": tensor()}) + bytes(9), "belong to none"),
        (header({"a": tensor(), "b": tensor(offsets=(4, 12))}) + bytes(12), "overlaps"),
        (header({"a": tensor(), "b": tensor(offsets=(12, 20))}) + bytes(20), "hole"),
        (header({"a": tensor(offsets=(8, 16))}) + bytes(16), "hole"),
        (header({"a": tensor(shape=(3,))}) + bytes(8), "do not take 8 bytes"),
        (header({"a": tensor(shape=(2**40, 2**40))}) + bytes(8), "do not take"),
        (header({"a": tensor(shape=(-1, -2))}) + bytes(8), "no shape"),
        (header({"a": tensor(shape=(2.0,))}) + bytes(8), "no shape"),
        (header({"a": tensor(shape=(True, 2))}) + bytes(8), "no shape"),
        (header({"a": tensor(shape=[1] * 9)}) + bytes(8), "no shape"),
        (header({"a": tensor(offsets=(8, 0))}) + bytes(8), "no data_offsets"),
        (header({"a": tensor(offsets=(0, 8, 8))}) + bytes(8), "no data_offsets"),
        (header({"a": tensor(kind="PICKLE")}) + bytes(8), "known are BOOL"),
        (header({"a": {**tensor(), "more": 1}}) + bytes(8), "not just dtype"),
        (header({"a": []}), "not just dtype"),
        (header({"": tensor()}) + bytes(8), "is empty"),
        (header({"a\n": tensor()}) + bytes(8), "holds a control"),
        (header({"a" * 513: tensor()}) + bytes(8), "over 512"),
        (header({}, metadata={"a": 1}), "no object of strings"),
        (header({}, metadata={"a": "x" * 1_100_000}), "over 1048576"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(BadModel, match=said):
        read(data)


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":2}', '{"a":NaN}', '{"a":' + "[" * 40 + "]" * 40 + "}", "{" + "[" * 100_000, '{"a":"\\ud800"}', "{"],
)
def test_a_header_that_two_readers_could_take_for_two_things_is_refused(text: str) -> None:
    with pytest.raises(BadModel):
        read(len(text).to_bytes(8, "little") + text.encode())


def test_every_truncation_is_noticed() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(BadModel):
            read(GOOD[:end])


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=12), st.booleans())
def test_no_bytes_make_the_reader_fail_otherwise(at: int, junk: bytes, cut: bool) -> None:
    data = GOOD[:at] + junk + (b"" if cut else GOOD[at + len(junk) :])
    with suppress(BadModel):
        read(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_TENSORS = st.dictionaries(
    st.text(max_size=8),
    _JSON
    | st.fixed_dictionaries({"dtype": st.sampled_from([*reader.DTYPES, "X"]), "shape": _JSON, "data_offsets": _JSON}),
    max_size=5,
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(_TENSORS, st.integers(0, 64))
def test_no_header_makes_the_reader_fail_otherwise(tensors: dict[str, Any], behind: int) -> None:
    text = json.dumps(tensors).encode()
    with suppress(BadModel):
        found = read(len(text).to_bytes(8, "little") + text + bytes(behind))
        bits = sum(item.elements * reader.DTYPES[item.type] for item in found.tensors)
        assert bits == behind * 8, "what is accepted accounts for every byte"

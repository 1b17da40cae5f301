"""Which files may be a model, and what is said of the others."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import model_folders

from daulat.registry import layout
from daulat.registry.gguf import BadModel

GOOD = list(model_folders.contents())


def test_a_folder_is_its_files_without_hidden_ones() -> None:
    found = layout.choose([*GOOD, ".gitattributes", ".cache/huggingface/x.lock"])
    assert found.format == "safetensors"
    assert set(found.kept) == set(GOOD)
    assert found.left_out == (".cache/huggingface/x.lock", ".gitattributes")


def test_an_archive_may_hold_its_model_in_a_folder() -> None:
    found = layout.choose([f"DeepSeek-V3.1/{name}" for name in GOOD])
    assert set(found.kept.values()) == set(GOOD)


def test_a_wheels_own_code_is_of_no_concern() -> None:
    names = ["pack/__init__.py", "pack/m.gguf", "pack-1.dist-info/METADATA", "pack-1.dist-info/RECORD"]
    found = layout.choose(names, packaging=True)
    assert found.kept == {"pack/m.gguf": "m.gguf"}
    assert layout.single(found)
    with pytest.raises(BadModel, match="--without-code"):
        layout.choose(names[:2])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("pytorch_model.bin", "pytorch_model.bin: .*pickle.*safetensors"),
        ("original/consolidated.00.pth", "pickle"),
        ("model.PT", "pickle"),
        ("last.ckpt", "pickle"),
        ("optimizer.pkl", "pickle"),
        ("weights.npz", "pickle"),
        ("modeling_deepseek.py", "modeling_deepseek.py: is code.*--without-code"),
        ("inference/kernel.cu", "is code"),
        ("libcustom.so", "is a program"),
        ("install.sh", "is a program"),
        ("tf_model.h5", "not served here"),
        ("model.onnx", "not served here"),
        ("weights.xyz", "none of the files"),
        ("run", "none of the files"),
        ("../outside.json", "named from inside"),
        ("/etc/passwd.json", "named from inside"),
        ("a//b.json", "named from inside"),
        ("a\\b.json", "backslash"),
        ("line\nfeed.json", "control"),
        ("x" * 600 + ".json", "over 512"),
        ("model.gguf", "two models"),
        ("other/config.json", "none"),
    ],
)
def test_what_is_no_part_of_a_model_is_refused_with_what_would_be_right(more: str, said: str) -> None:
    if said == "none":
        assert "other/config.json" in layout.choose([*GOOD, more]).kept
        return
    with pytest.raises(BadModel, match=f"(?s){said}"):
        layout.choose([*GOOD, more])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no weights"),
        (["config.json"], "no weights"),
        (["model.safetensors"], "no config.json"),
        (["config.json", "model-00001-of-00003.safetensors"], "of 3 parts 2 are missing \\(2, 3\\)"),
        (["m-00001-of-00002.gguf"], "of 2 parts 1 are missing"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m.gguf"], "2 GGUF models"),
        (["a.gguf", "b.gguf"], "2 GGUF models.*a.gguf"),
        (["a/config.json", "a/m.safetensors", "b/config.json", "b/m.safetensors"], "more than one model"),
    ],
)
def test_incomplete_and_several_models_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(BadModel, match=said):
        layout.choose(names)


def test_a_split_gguf_is_all_its_parts() -> None:
    names = list(model_folders.split_gguf())
    found = layout.choose([*names, "README.md"])
    assert list(found.kept) == names
    assert found.left_out == ("README.md",)
    assert not layout.single(found)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.lists(
        st.text(alphabet="ab./\\-0123456789\x00é", max_size=12).map(lambda text: text + ".safetensors"), max_size=6
    )
)
def test_no_names_make_it_fail_otherwise_or_let_a_path_out(names: list[str]) -> None:
    with suppress(BadModel):
        found = layout.choose([*names, "config.json"])
        for kept in found.kept.values():
            assert ".." not in kept.split("/")
            assert not kept.startswith("/")

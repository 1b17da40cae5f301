"""Layouts: what is possible, and what is preferred."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daulat.catalog.accelerators import accelerators, hardware
from daulat.catalog.models import find, models
from daulat.planner import layout
from daulat.planner.layout import Layout, candidates, forbidden, redundant_experts

DEEPSEEK, QWEN, FLASH = (find(name).shape for name in ("deepseek-v3", "qwen3-32b", "deepseek-v4-flash"))


def test_a_layout_takes_its_product_of_devices_and_says_itself_shortly() -> None:
    wide = layout.layout(DEEPSEEK, tensor=8, data=2)
    assert (wide.devices, wide.experts, str(wide)) == (16, 16, "TP8 DP2 EP16")
    assert str(layout.layout(QWEN, tensor=4, pipeline=2)) == "TP4 PP2"
    assert str(Layout(1, 1)) == "one device"


@pytest.mark.parametrize(
    ("name", "tensor", "pipeline", "on", "said"),
    [
        ("deepseek-r1", 3, 1, "a3", "128 attention heads cannot be divided among 3"),
        ("deepseek-r1-distill-qwen-7b", 8, 1, "8xH100", "28 attention heads cannot be divided among 8"),
        ("llama-3.2-3b", 12, 1, "16xH100", "8 key-value heads cannot be divided among 12"),
        ("deepseek-v4-flash", 16, 1, "a3", "8 output groups cannot be divided among 16"),
        ("qwen3.5-27b", 24, 1, "gb200-nvl72", "16 heads of linear attention cannot be divided among 24"),
        ("deepseek-r1", 16, 1, "a2", "leaves the 8 that a fast link joins"),
        ("smollm2-135m-instruct", 1, 64, "a3", "30 layers cannot be divided among 64"),
    ],
)
def test_a_layout_that_cannot_be_is_forbidden_in_words(
    name: str, tensor: int, pipeline: int, on: str, said: str
) -> None:
    shape = find(name).shape
    assert said in forbidden(shape, layout.layout(shape, tensor=tensor, pipeline=pipeline), hardware(on))


def test_only_a_latent_cache_is_divided_and_evenly() -> None:
    wide = layout.layout(DEEPSEEK, tensor=8)
    divided = layout.with_divided_cache(DEEPSEEK, wide)
    assert (divided.context, str(divided), divided.devices) == (8, "TP8 EP8 DCP8", 8)
    assert not forbidden(DEEPSEEK, divided, hardware("8xH200"))
    assert layout.with_divided_cache(QWEN, layout.layout(QWEN, tensor=8)).context == 1
    assert "can be divided among 3" in forbidden(DEEPSEEK, Layout(8, 1, 1, 8, 3), hardware("8xH200"))
    assert "can be divided among 8" in forbidden(QWEN, Layout(8, 1, 1, 1, 8), hardware("8xH200"))


def test_key_value_heads_may_be_repeated_but_not_cut() -> None:
    two = find("qwen3.5-397b-a17b").shape  # two key-value heads
    for tensor in (1, 2, 4, 16):
        assert not forbidden(two, layout.layout(two, tensor=tensor), hardware("a3"))


def test_tensor_parallelism_may_span_the_trays_of_a_rack_but_not_nodes_behind_a_network() -> None:
    wanted = layout.layout(DEEPSEEK, tensor=8)
    assert not forbidden(DEEPSEEK, wanted, hardware("gb200-nvl72"))
    assert forbidden(DEEPSEEK, wanted, hardware("4xH100"))


def test_experts_that_cannot_be_divided_are_copied() -> None:
    assert redundant_experts(DEEPSEEK, layout.layout(DEEPSEEK, tensor=1, data=16)) == 0
    assert redundant_experts(DEEPSEEK, layout.layout(DEEPSEEK, tensor=1, data=144)) == 32  # as DeepSeek runs them
    assert redundant_experts(DEEPSEEK, layout.layout(DEEPSEEK, tensor=1, data=320)) == 64
    assert redundant_experts(QWEN, layout.layout(QWEN, tensor=4)) == 0


def test_latent_attention_gets_sixteen_heads_a_device() -> None:
    assert [str(item) for item in candidates(DEEPSEEK, hardware("a3"), 640)][:2] == ["TP8 DP2 EP16", "TP16 EP16"]
    assert str(candidates(FLASH, hardware("a3"), 280)[0]) == "TP4 DP4 EP16"


@pytest.mark.parametrize(("gib", "tensor"), [(1, 1), (15, 1), (17, 2), (61, 4), (131, 8), (1000, 8)])
def test_a_dense_model_is_cut_until_its_weights_take_a_quarter(gib: float, tensor: int) -> None:
    assert candidates(QWEN, hardware("910B3x8"), gib)[0].tensor == tensor


@given(st.sampled_from(sorted(models())), st.sampled_from(sorted(accelerators().nodes)), st.integers(1, 6))
def test_every_candidate_uses_all_devices_and_is_not_forbidden(name: str, node: str, nodes: int) -> None:
    shape, where = find(name).shape, hardware(node).with_nodes(nodes)
    found = candidates(shape, where, 100)
    assert found, "one device of each rank alone is always possible"
    for item in found:
        assert item.devices == where.total
        assert not forbidden(shape, item, where)
        assert shape.attention.heads % item.tensor == 0

"""The account of one device's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daulat.catalog.accelerators import accelerators, hardware
from daulat.catalog.counting import mtp_parts, parts
from daulat.catalog.models import find, models
from daulat.catalog.precision import PRECISIONS
from daulat.planner import layout, memory
from daulat.planner.fit import Wish, account
from daulat.planner.memory import GIB

DEEPSEEK = find("deepseek-v3").shape
BF16 = PRECISIONS["bf16"]


def of(items: tuple[memory.Item, ...]) -> float:
    return sum(item.bytes for item in items)


def test_on_one_device_the_weights_are_all_weights() -> None:
    for spec in models().values():
        alone = of(memory.weights(spec.shape, BF16, layout.layout(spec.shape, tensor=1)))
        assert alone == pytest.approx(2 * (parts(spec.shape).total + mtp_parts(spec.shape).total)), spec.id
        assert alone == pytest.approx(memory.whole(spec.shape, BF16))


@given(st.sampled_from(sorted(models())), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_over_all_devices_nothing_is_lost(name: str, tensor: int, data: int) -> None:
    shape = find(name).shape
    each = of(memory.weights(shape, BF16, layout.layout(shape, tensor=tensor, data=data)))
    assert each * tensor * data >= memory.whole(shape, BF16) * 0.999


def test_experts_are_spread_over_all_and_attention_over_tensor_parallel_devices_only() -> None:
    def item(name: str, tensor: int, data: int) -> float:
        items = memory.weights(DEEPSEEK, BF16, layout.layout(DEEPSEEK, tensor=tensor, data=data))
        return next(found.bytes for found in items if found.name == name)

    assert item("routed experts", 8, 2) == item("routed experts", 1, 16) == item("routed experts", 1, 1) / 16
    assert item("attention", 8, 2) == item("attention", 8, 1) < item("attention", 1, 16)
    assert item("routers and norms (16 bits)", 8, 2) == item("routers and norms (16 bits)", 1, 1)


def test_the_fullest_stage_of_a_pipeline_has_the_odd_layer_and_one_end() -> None:
    shape = find("llama-3.1-405b").shape  # 126 layers
    whole = of(memory.weights(shape, BF16, layout.layout(shape, tensor=8)))
    half = of(memory.weights(shape, BF16, layout.layout(shape, tensor=8, pipeline=2)))
    assert half == pytest.approx(whole / 2, rel=0.001)
    quarter = of(memory.weights(shape, BF16, layout.layout(shape, tensor=8, pipeline=4)))
    assert quarter > whole / 4  # 32 of 126 layers


def test_a_latent_cache_is_whole_on_every_tensor_parallel_device_and_heads_are_divided() -> None:
    one, eight = (layout.layout(DEEPSEEK, tensor=tensor) for tensor in (1, 8))
    assert memory.kv(DEEPSEEK, "bf16", one) == memory.kv(DEEPSEEK, "bf16", eight)
    llama = find("llama-3.1-70b").shape  # 8 key-value heads
    one, eight, sixteen = (layout.layout(llama, tensor=tensor) for tensor in (1, 8, 16))
    assert memory.kv(llama, "bf16", one).token == 8 * memory.kv(llama, "bf16", eight).token
    assert memory.kv(llama, "bf16", eight) == memory.kv(llama, "bf16", sixteen), "the ninth device repeats a head"


def test_windows_and_states_cost_a_sequence_not_a_token() -> None:
    gpt = find("gpt-oss-120b").shape  # 18 of 36 layers see 128 tokens; 8 heads of 64
    cost = memory.kv(gpt, "bf16", layout.layout(gpt, tensor=1))
    assert cost.token == 18 * 2 * 8 * 64 * 2
    assert cost.sequence == 18 * 128 * 2 * 8 * 64 * 2
    assert cost.of(1000) == 1000 * cost.token + cost.sequence
    qwen = find("qwen3.5-27b").shape  # 16 of 64 layers keep keys; 4 heads of 256; one more layer for MTP
    cost = memory.kv(qwen, "bf16", layout.layout(qwen, tensor=1), drafts=False)
    assert cost.token == 16 * 2 * 4 * 256 * 2
    assert cost.sequence == 48 * (48 * 128 * 128 * 4 + (2 * 16 * 128 + 48 * 128) * 3 * 2)


def test_eight_bits_keep_scales_and_the_positional_part() -> None:
    one = layout.layout(DEEPSEEK, tensor=1)
    assert memory.kv(DEEPSEEK, "fp8", one, drafts=False).token == 61 * (512 + 4 * 4 + 64 * 2)
    assert memory.kv(DEEPSEEK, "int8", one) == memory.kv(DEEPSEEK, "fp8", one)


def test_drafting_layers_have_a_cache_of_their_own() -> None:
    one = layout.layout(DEEPSEEK, tensor=1)
    assert memory.kv(DEEPSEEK, "bf16", one).token == 62 * 1152


def test_activations_grow_with_the_step_and_shrink_with_tensor_parallelism() -> None:
    one, eight = (layout.layout(DEEPSEEK, tensor=tensor) for tensor in (1, 8))
    small = memory.activations(DEEPSEEK, one, batched=256, sequences=0)
    assert memory.activations(DEEPSEEK, one, batched=512, sequences=0) == 2 * small
    assert memory.activations(DEEPSEEK, eight, batched=256, sequences=0) < small
    logits = memory.activations(DEEPSEEK, one, batched=256, sequences=64) - small
    assert logits == pytest.approx(2 * 64 * 129_280 * 4)


def test_hccl_takes_twice_its_buffer_for_every_communicator() -> None:
    a3 = accelerators().chips["910c"]

    def buffers(tensor: int, data: int, name: str = "deepseek-v3") -> float:
        shape = find(name).shape
        items = memory.runtime(a3, shape, layout.layout(shape, tensor=tensor, data=data))
        return sum(item.bytes for item in items if item.name == "HCCL buffers") / 2**20

    assert buffers(1, 1) == 0
    assert buffers(4, 1, "qwen3-32b") == 400
    assert buffers(8, 2) == 2 * 400 + 2048


def test_a_cpu_needs_no_graphs_and_no_buffers() -> None:
    cpu = accelerators().chips["cpu"]
    items = memory.runtime(cpu, DEEPSEEK, layout.layout(DEEPSEEK, tensor=1))
    assert [item.name for item in items] == ["process and libraries"]
    assert of(items) < GIB


# What engines said after loading, in GiB a device, and where. MTP layers were loaded where `drafts` says so.
MEASURED = [
    # vllm-ascend issue 2191, two Atlas 800 A2: "Loading model weights took 44.1591 GB"
    ("deepseek-v3", "w8a8", 4, 4, False, 44.16),
    # vLLM issue 13061, two GPUs: "Loading model weights took 13.9476 GB"
    ("deepseek-r1-distill-qwen-14b", "bf16", 2, 1, False, 13.95),
    # vLLM's recipe of Qwen3.8-27B, two GPUs, with its vision tower, which is not counted here: 14.28 GiB
    ("qwen3.8-27b", "fp8", 2, 1, True, 14.28),
]


@pytest.mark.parametrize(("name", "precision", "tensor", "data", "drafts", "gib"), MEASURED)
def test_weights_reckoned_are_what_engines_measured(
    name: str, precision: str, tensor: int, data: int, drafts: bool, gib: float
) -> None:
    shape = find(name).shape if drafts else replace(find(name).shape, mtp_layers=0)
    items = memory.weights(shape, PRECISIONS[precision], layout.layout(shape, tensor=tensor, data=data))
    assert of(items) / GIB == pytest.approx(gib, rel=0.03)


def test_the_cache_reckoned_is_near_what_an_engine_measured() -> None:
    """vLLM's recipe of Kimi-K2-Thinking on 8 x H200: 715,072 tokens, and eight times that with DCP8."""
    model, where = find("kimi-k2-thinking"), hardware("8xH200")
    whole = layout.layout(model.shape, tensor=8)
    one = account(model, where, "w4a16", "bf16", whole, Wish())
    assert one.tokens == pytest.approx(715_072, rel=0.1)
    divided = account(model, where, "w4a16", "bf16", layout.with_divided_cache(model.shape, whole), Wish())
    assert divided.tokens == pytest.approx(8 * one.tokens, rel=0.001)

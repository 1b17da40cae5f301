"""The planner's answer: precision, room, context, reasons, advice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.catalog.accelerators import accelerators, hardware
from daulat.catalog.models import find, models
from daulat.errors import ConfigError
from daulat.planner import layout
from daulat.planner.fit import LEAST_CONTEXT, TIGHT, USUAL, Fit, Plan, Wish, fit, precisions
from daulat.planner.memory import GIB


def plan(found: Fit) -> Plan:
    assert found.plan is not None
    return found.plan


@pytest.mark.parametrize(
    ("model", "chip", "first"),
    [
        ("deepseek-v3.1", "h200", ("fp8",)),
        ("deepseek-v3.1", "910c", ("w8a8", "w4a8", "bf16")),
        ("deepseek-v3.1", "b200", ("fp8", "nvfp4", "bf16")),
        ("deepseek-v4-flash", "910b3", ("w8a8",)),
        ("qwen3-32b", "h100", ("bf16", "fp8", "w8a8", "int4")),
        ("qwen3-32b", "310p", ("w8a8", "fp16")),
        ("gpt-oss-120b", "910b3", ("bf16",)),
        ("llama-3.1-8b", "cpu", ("bf16", "q8_0", "q4_k_m")),
    ],
)
def test_the_native_precision_comes_first_then_narrower_published_ones(
    model: str, chip: str, first: tuple[str, ...]
) -> None:
    assert precisions(find(model), accelerators().chips[chip])[: len(first)] == first


def test_the_account_adds_up() -> None:
    found = fit(find("deepseek-r1"), hardware("a3"))
    one = plan(found)
    assert one.used + one.room == pytest.approx(one.budget) == pytest.approx((64 - 3.04) * USUAL * GIB)
    assert one.tokens == int(one.room / one.cost.token) * 2  # two data-parallel ranks
    assert one.concurrency == int(one.room / one.cost.of(32_768)) * 2
    assert found.precision is not None
    assert (found.precision.name, found.kv, one.context) == ("w8a8", "bf16", 32_768)
    assert {item.name for item in one.items} >= {"attention", "routed experts", "activations", "HCCL buffers"}


def test_a_context_wished_for_is_held_or_refused_with_what_could_be() -> None:
    assert plan(fit(find("deepseek-r1"), hardware("a3"), Wish(context=131_072))).longest >= 131_072
    short = fit(find("deepseek-r1-distill-qwen-32b"), hardware("1xH100"), Wish("bf16", context=131_072))
    assert not short.fits
    assert "are left for the KV cache: one sequence of 131072 tokens needs" in short.reasons[0]
    advice = " ".join(short.advice)
    assert "on the same hardware it fits with a context of up to" in advice
    assert "1 whole node of 8 x H100 would hold it in bf16" in advice


def test_without_a_wish_the_context_is_what_fits_and_the_answer_says_so() -> None:
    found = fit(find("deepseek-r1-distill-qwen-7b"), hardware("cpu:17GiB"), Wish("bf16"))
    assert found.fits
    assert LEAST_CONTEXT <= plan(found).context < 32_768
    assert any("the context is shortened to" in note for note in found.notes)


def test_what_needs_more_than_the_usual_share_is_called_tight() -> None:
    found = fit(find("deepseek-v3.2"), hardware("8xH20"))
    assert found.fits
    assert plan(found).utilisation == TIGHT
    assert found.notes[0].startswith("tight: ")


def test_advice_names_the_smallest_number_of_nodes_that_would_do() -> None:
    found = fit(find("deepseek-r1"), hardware("a2"))
    assert any(item.startswith("2 nodes of Atlas 800 A2") for item in found.advice)
    assert fit(find("deepseek-r1"), hardware("a2").with_nodes(2)).fits
    other = fit(find("deepseek-r1"), hardware("a3"), Wish("bf16"))
    assert any("on the same hardware it fits in w8a8" in item for item in other.advice)


def test_a_layout_of_ones_own_is_used_or_refused() -> None:
    model, where = find("deepseek-r1"), hardware("a3")
    own = layout.layout(model.shape, tensor=4, data=4)
    assert plan(fit(model, where, Wish(layout=own))).layout == own
    with pytest.raises(ConfigError, match="layout TP8 EP8 takes 8 devices, the hardware has 16"):
        fit(model, where, Wish(layout=layout.layout(model.shape, tensor=8)))
    uneven = fit(
        find("deepseek-v4-flash"), where, Wish(layout=layout.layout(find("deepseek-v4-flash").shape, tensor=16))
    )
    assert uneven.reasons == ("8 output groups cannot be divided among 16 tensor-parallel devices",)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish("fp7"), "unknown precision 'fp7'; known are bf16"),
        (Wish(kv="fp7"), "unknown precision 'fp7' of the KV cache"),
        (Wish(context=200_000), "DeepSeek-R1 has a context of at most 163840 tokens, not 200000"),
        (Wish(context=-1), "can be planned"),
        (Wish(context=2**40), "can be planned"),
    ],
)
def test_a_wish_that_cannot_be_is_an_error(wish: Wish, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fit(find("deepseek-r1"), hardware("a3"), wish)


def test_a_narrower_cache_holds_more() -> None:
    model, where = find("deepseek-v3"), hardware("8xH200")
    assert plan(fit(model, where, Wish(kv="fp8"))).tokens > 1.6 * plan(fit(model, where)).tokens


def test_copied_experts_and_unpublished_weights_are_told() -> None:
    rack = fit(find("deepseek-r1"), hardware("gb200-nvl72"))
    assert any("32 copies of experts are added, so that 72 devices" in note for note in rack.notes)
    widened = fit(find("gpt-oss-120b"), hardware("a2"))
    assert any("no published checkpoint in bf16" in note for note in widened.notes)
    recalled = fit(find("deepseek-r1-distill-qwen-1.5b"), hardware("1xH100"))
    assert any("recalled" in note for note in recalled.notes)


def test_a_latent_cache_too_large_for_one_device_is_divided_among_them() -> None:
    found = fit(find("glm-5.2"), hardware("a3").with_nodes(2), Wish("w4a8", context=1_024_000))
    assert found.fits
    assert plan(found).layout.context == plan(found).layout.tensor > 1
    assert any("decode context parallelism" in note for note in found.notes)
    # Heads are divided already: that a long context is too much for grouped-query attention stays so.
    assert not fit(find("llama-3.1-70b"), hardware("2xH100"), Wish("bf16", context=131_072)).fits


def test_a_cache_calibrated_with_the_checkpoint_is_planned_for() -> None:
    assert fit(find("glm-5.2"), hardware("a3").with_nodes(2), Wish("w8a8")).kv == "int8"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(models())),
    st.sampled_from(["a2", "a3", "310Px8", "8xH100", "4xB200", "gb200-nvl72", "cpu:64GiB", "1xH20", "8xMI300X"]),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from(["", "bf16", "w8a8", "fp8"]),
    st.sampled_from([0, 1, 4096, 30_000]),
)
def test_every_answer_is_whole_and_true_to_itself(
    model: str, on: str, nodes: int, precision: str, context: int
) -> None:
    spec, where = find(model), hardware(on).with_nodes(nodes)
    found = fit(spec, where, Wish(precision, min(context, spec.context)))
    assert found.fits != bool(found.reasons)
    if not found.fits:
        return
    for one in (plan(found), *found.others):
        assert one.layout.devices == where.total
        assert one.room > 0
        assert one.concurrency >= 1
        assert one.longest >= one.context > 0
        assert one.used + one.cost.of(one.context) <= where.chip.memory * TIGHT * GIB
    assert found.precision is not None
    assert found.precision.name in where.chip.precisions
    # What fits on a device still fits where each has more memory.
    roomier = replace(where, chip=replace(where.chip, memory=where.chip.memory * 1.5))
    assert fit(spec, roomier, Wish(precision, min(context, spec.context))).fits

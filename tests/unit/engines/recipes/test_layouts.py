"""Layouts by rule: from shares of memory, without any catalogue's number."""

from __future__ import annotations

import pytest
from tests.support import recipes

from daulat.engines.recipes import layout
from daulat.errors import ConfigError


def weighing(experts: float, attention: float) -> object:
    """Memory shares of weights: experts over all devices, attention over the tensor-parallel ones."""
    return lambda tp, devices: experts / devices + attention / tp


def found(model: str, nodes: int, share: object, context: int = 4096, **wishes: object) -> list[tuple[str, int, int]]:
    request = recipes.request(model, "a3", nodes, share, context=context, **wishes)
    return [(group.role, group.dp, group.tp) for group in layout.groups(request, context=context)]


def test_decode_takes_the_narrowest_attention_that_leaves_room_for_the_cache() -> None:
    apart = {"goal": "disaggregated"}
    assert found("deepseek-r1", 4, weighing(10, 0.2), **apart)[-1] == ("decode", 32, 1)
    assert found("deepseek-r1", 4, weighing(10, 0.4), **apart)[-1] == ("decode", 16, 2)
    assert found("deepseek-r1", 4, weighing(10, 0.9), **apart)[-1] == ("decode", 8, 4)
    assert found("deepseek-r1", 2, weighing(10, 0.4), **apart)[-1] == ("decode", 2, 8)


def test_sparse_attention_decodes_over_four_devices_and_reads_long_prompts_over_the_node() -> None:
    apart, light = {"goal": "disaggregated"}, weighing(10, 0.1)
    assert found("deepseek-v3.2", 4, light, context=64_000, **apart) == [("prefill", 2, 16), ("decode", 8, 4)]
    assert found("deepseek-v3.2", 4, light, context=8_000, **apart) == [("prefill", 4, 8), ("decode", 8, 4)]


def test_prefill_nodes_with_latent_attention_are_engines_of_their_own_where_one_node_holds_the_weights() -> None:
    apart = {"goal": "disaggregated"}
    assert found("deepseek-r1", 4, weighing(10, 0.1), **apart)[:-1] == [("prefill", 2, 8), ("prefill", 2, 8)]
    assert found("deepseek-r1", 4, weighing(15, 0.1), **apart)[:-1] == [("prefill", 4, 8)]


def test_light_weights_are_served_by_more_and_narrower_ranks() -> None:
    assert found("deepseek-v4-flash", 1, weighing(4, 0.1)) == [("mixed", 4, 4)]
    assert found("deepseek-v4-flash", 1, weighing(9, 0.1)) == [("mixed", 1, 16)]
    assert found("qwen3-235b-a22b", 1, weighing(4, 0.1)) == [("mixed", 4, 4)]
    assert found("qwen3-235b-a22b", 1, weighing(9, 0.1)) == [("mixed", 2, 8)]


def test_latency_takes_the_whole_node_and_a_long_context_shares_out_the_cache() -> None:
    assert found("deepseek-r1", 1, weighing(10, 0.1), goal="latency") == [("mixed", 1, 16)]
    request = recipes.request("deepseek-v3.2", "a3", 1, weighing(10, 0.1), goal="long-context")
    (group,) = layout.groups(request, context=100_000)
    assert (group.tp, group.dp, group.dcp) == (16, 1, 16)


def test_a_long_context_is_disaggregated_only_where_half_the_nodes_hold_the_weights() -> None:
    assert len(found("deepseek-v3.2", 2, weighing(10, 0.1), context=163_840, goal="long-context")) == 2
    assert len(found("deepseek-v3.2", 2, weighing(20, 0.1), context=163_840, goal="long-context")) == 1


def test_a_dense_model_takes_as_few_devices_as_are_fast_and_its_heads_allow() -> None:
    assert found("qwen3-32b", 1, lambda tp, devices: 0.2 / tp) == [("mixed", 1, 1)]
    assert found("qwen3-32b", 1, lambda tp, devices: 0.6 / tp) == [("mixed", 1, 4)]
    with pytest.raises(ConfigError, match="is dense"):
        found("qwen3-32b", 2, lambda tp, devices: 0.2 / tp, goal="disaggregated")


def test_what_does_not_fit_is_refused_with_how_far_it_is_from_fitting() -> None:
    with pytest.raises(ConfigError, match=r"on the 16 devices that serve: its weights take 125% of the memory"):
        found("deepseek-r1", 1, weighing(19, 0.5))
    with pytest.raises(ConfigError, match="at least 2 nodes"):
        found("deepseek-r1", 1, weighing(10, 0.1), goal="disaggregated")


def test_as_many_nodes_read_prompts_as_was_asked_for_and_some_are_left_to_decode() -> None:
    apart, share = {"goal": "disaggregated"}, weighing(10, 0.1)
    request = recipes.request("deepseek-r1", "a3", 4, share, prefill_nodes=1, **apart)
    assert [group.nodes for group in layout.groups(request, context=4096)] == [(0,), (1, 2, 3)]
    for wrong, words in ((4, "leave none to decode"), (0, "at least 1")):
        with pytest.raises(ConfigError, match=words):
            found("deepseek-r1", 4, share, prefill_nodes=wrong, **apart)


def test_a_given_layout_is_taken_if_it_can_be() -> None:
    light = weighing(10, 0.1)
    assert found("deepseek-r1", 1, light, layout=(4, 4)) == [("mixed", 4, 4)]
    for wrong, words in (((32, 1), "16"), ((8, 5), "5 times 8"), ((8, 3), "spread evenly")):
        with pytest.raises(ConfigError, match=words):
            found("deepseek-r1", 2, light, layout=wrong)


def test_half_as_many_heads_make_sparse_attention_wide_on_one_node_and_narrow_over_several() -> None:
    light, apart = weighing(10, 0.5), {"goal": "disaggregated"}
    assert found("glm-5.1", 1, light) == [("mixed", 1, 16)]
    assert found("glm-5.1", 2, light) == [("mixed", 8, 4)]
    assert found("glm-5.1", 2, weighing(18, 0.6)) == [("mixed", 4, 8)]
    assert found("glm-5.1", 2, light, tpot=20) == [("mixed", 2, 16)]
    assert found("glm-5.1", 4, light, context=130_000, **apart) == [("prefill", 4, 8), ("decode", 8, 4)]
    assert found("glm-5.1", 4, weighing(10, 0.3), context=16_000, tpot=50, **apart)[-1] == ("decode", 32, 1)
    assert found("glm-5.1", 4, weighing(10, 0.3), context=16_000, tpot=20, **apart)[-1] == ("decode", 8, 4)


def test_half_a_million_tokens_of_sparse_attention_share_the_cache_of_a_sequence_on_both_sides() -> None:
    request = recipes.request("glm-5.2", "a3", 4, weighing(10, 0.5), goal="disaggregated")
    groups = layout.groups(request, context=1_000_000)
    assert [(group.tp, group.dp, group.dcp) for group in groups] == [(8, 4, 8), (8, 4, 8)]


def test_a_quarter_of_a_million_tokens_of_latent_attention_take_the_node_for_every_role() -> None:
    light = weighing(8, 0.1)
    assert found("kimi-k2.6", 1, light, context=262_144) == [("mixed", 1, 16)]
    assert found("kimi-k2.6", 1, light, context=131_072) == [("mixed", 2, 8)]
    apart = found("kimi-k2.6", 2, light, context=262_144, goal="disaggregated")
    assert apart == [("prefill", 1, 16), ("decode", 1, 16)]


def test_experts_that_few_devices_hold_are_served_by_those_without_data_parallelism() -> None:
    assert found("qwen3-30b-a3b", 1, weighing(0.4, 0.1)) == [("mixed", 1, 2)]
    assert found("qwen3-30b-a3b", 1, weighing(1.6, 0.1)) == [("mixed", 1, 4)]
    assert found("qwen3.5-397b-a17b", 1, weighing(6, 0.1)) == [("mixed", 1, 16)]
    assert found("deepseek-v2-lite", 1, weighing(0.4, 0.1)) == [("mixed", 1, 2)]


def test_grouped_attention_is_as_wide_as_it_has_key_value_heads() -> None:
    light, apart = weighing(4, 0.1), {"goal": "disaggregated"}
    assert found("minimax-m2.7", 1, light) == [("mixed", 2, 8)]
    assert found("qwen3-235b-a22b", 1, light) == [("mixed", 4, 4)]
    assert found("qwen3-235b-a22b", 2, light, **apart) == [("prefill", 2, 8), ("decode", 4, 4)]
    assert found("qwen3-235b-a22b", 3, light, **apart)[-1] == ("decode", 32, 1)
    assert found("minimax-m2.7", 3, light, tpot=50, **apart)[-1] == ("decode", 16, 2)
    assert found("minimax-m2.7", 3, light, tpot=20, **apart)[-1] == ("decode", 8, 4)
    assert found("minimax-m2.7", 3, light, context=190_000, **apart)[-1] == ("decode", 4, 8)
    assert found("qwen3.5-397b-a17b", 2, light, **apart) == [("prefill", 8, 2), ("decode", 8, 2)]

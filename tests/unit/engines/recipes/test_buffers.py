"""HCCL's buffers and captured graphs follow the number of answers at once."""

from __future__ import annotations

import json

from tests.support.recipes import recipe, value

from daulat.catalog import models
from daulat.engines.recipes import buffers
from daulat.engines.recipes.recipe import Group, Process, Recipe

R1 = models.find("deepseek-r1")
WIDE = Group("decode", (0, 1), 1, 32, ep=32)


def decode(found: Recipe) -> Process:
    return next(process for process in found.processes if process.role in ("decode", "mixed"))


def test_the_demand_is_that_of_the_dispatchs_page() -> None:
    # 8 local experts x 160 tokens x 32 devices x 14848 bytes, and 9 x 160 x 14336 kept: twice, in MB
    exact = 2 * (8 * 160 * 32 * 14848 + 9 * 160 * 14336) / 2**20
    assert 1199 <= exact <= 1200
    assert buffers.needed(R1, WIDE, 160, fused=False) == 1200


def test_tensor_parallel_devices_share_a_ranks_tokens_and_the_most_of_them_bounds_the_demand() -> None:
    half = Group("decode", (0, 1), 2, 16, ep=32)
    assert buffers.needed(R1, half, 320, fused=False) == buffers.needed(R1, WIDE, 160, fused=False)
    most = buffers.needed(R1, WIDE, buffers.MOST_TOKENS, fused=False)
    assert buffers.needed(R1, WIDE, 100_000, fused=False) == most


def test_nothing_is_needed_where_no_token_leaves_its_device() -> None:
    assert buffers.needed(R1, Group("prefill", (0,), 8, 2, ep=16), 4096, fused=False) == 0
    assert buffers.needed(models.find("qwen3-32b"), Group("mixed", (0,), 4, 1), 80, fused=False) == 0
    assert buffers.needed(R1, WIDE, 160, fused=True) == 30


def test_more_answers_at_once_get_larger_buffers_and_fewer_keep_those_of_the_public_run() -> None:
    apart = {"goal": "disaggregated"}
    usual = decode(recipe("deepseek-r1", "a3", 4, **apart)).environment["HCCL_BUFFSIZE"]
    many = decode(recipe("deepseek-r1", "a3", 4, concurrency=32 * 200, **apart)).environment["HCCL_BUFFSIZE"]
    few = decode(recipe("deepseek-r1", "a3", 4, concurrency=32, **apart)).environment["HCCL_BUFFSIZE"]
    assert (usual, few) == ("1200", "1200")
    assert int(many) == buffers.needed(R1, WIDE, 400, fused=False) > 1200


def test_graphs_are_captured_up_to_the_batch_that_was_asked_for() -> None:
    def sizes(concurrency: int | None) -> list[int]:
        argv = decode(recipe("qwen3-32b", "a3", precision="w8a8", concurrency=concurrency)).argv
        found: list[int] = json.loads(value(argv, "--compilation-config"))["cudagraph_capture_sizes"]
        return found

    assert max(sizes(None)) == 80
    assert 200 - 16 <= max(sizes(200)) <= 200
    assert max(sizes(8)) == 8
    assert len(sizes(200)) <= len(sizes(None))

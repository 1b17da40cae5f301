"""Recipes for a model and hardware by name, with a site that the tests know."""

from __future__ import annotations

from typing import Any

from daulat.catalog import accelerators, models
from daulat.engines.recipes.recipe import Group, Recipe, Request, Room, Site, Workload
from daulat.pipeline import recipes

# Of every kind that there is: engines, precisions, goals, one node and several. Model, node, nodes, wishes.
ASKED: list[tuple[str, str, int, dict[str, Any]]] = [
    ("deepseek-r1", "a3", 1, {}),
    ("deepseek-v3.2", "a3", 2, {}),
    ("deepseek-v3.2", "a3", 1, {"goal": "long-context"}),
    ("deepseek-v3.1", "a3", 4, {"goal": "disaggregated", "rebalance": True}),
    ("deepseek-v4-pro", "a3", 4, {"goal": "disaggregated"}),
    ("deepseek-v4-flash", "a2", 1, {}),
    ("qwen3-32b", "300i-duo", 1, {"precision": "w8a8"}),
    ("qwen3.6-27b", "300i-duo", 1, {"precision": "w8a8"}),
    ("glm-5.2", "a3", 2, {"precision": "w8a8"}),
    ("glm-5.2", "a3", 4, {"precision": "w4a8", "goal": "disaggregated", "context": 1_000_000}),
    ("kimi-k2.6", "a3", 1, {"precision": "w4a8", "drafter": ("dflash", "/models/drafter")}),
    ("qwen3.5-397b-a17b", "a3", 2, {"precision": "w4a8", "goal": "disaggregated"}),
    ("minimax-m2.7", "a3", 2, {"precision": "w8a8", "goal": "disaggregated"}),
    ("deepseek-v4-flash", "a3", 2, {"goal": "disaggregated", "kv_pool": "memcache", "layerwise": True}),
    ("deepseek-r1", "8xH200", 1, {}),
    ("deepseek-v4-pro", "hgx-b200", 2, {}),
    ("deepseek-v4-flash", "hgx-h200", 2, {"goal": "disaggregated"}),
    ("deepseek-v3.2", "hgx-b200", 1, {"precision": "nvfp4"}),
    ("deepseek-r1-distill-qwen-7b", "cpu:64GiB", 1, {"engine": "vllm"}),
    ("deepseek-v4-flash", "hgx-b200", 1, {"engine": "sglang"}),
    ("deepseek-v4-pro", "hgx-b200", 2, {"engine": "sglang", "goal": "disaggregated"}),
    ("deepseek-v3.2", "a3", 2, {"engine": "sglang", "precision": "w8a8"}),
]


def site(nodes: int = 1, **other: Any) -> Site:
    addresses = ("127.0.0.1",) if nodes == 1 else tuple(f"10.0.0.{index + 1}" for index in range(nodes))
    return Site(**{"weights": "/models/weights", "name": "model", "addresses": addresses} | other)


def recipe(
    model: str,
    on: str,
    nodes: int = 1,
    *,
    engine: str | None = None,
    precision: str | None = None,
    where: Site | None = None,
    **wishes: Any,
) -> Recipe:
    hardware = accelerators.hardware(on)
    hardware = hardware.with_nodes(nodes) if nodes > 1 else hardware
    return recipes.recipe(
        models.find(model),
        hardware,
        workload=Workload(**wishes),
        site=where or site(nodes),
        engine=engine,
        precision=precision,
    )


def request(model: str, on: str, nodes: int, share: Any, precision: str = "w8a8", **wishes: Any) -> Request:
    """A request whose weights take `share(tp, devices)` of each device; where that is above 0.92, nothing has room."""

    def room(group: Group, context: int) -> Room:
        taken = share(group.tp, group.devices)
        return Room(taken <= 0.92, 2**24 if taken <= 0.92 else 0, 0, f"its weights take {taken:.0%} of the memory")

    hardware = accelerators.hardware(on).with_nodes(nodes)
    return Request(models.find(model), hardware, precision, Workload(**wishes), site(nodes), share, room)


def layouts(found: Recipe) -> list[tuple[str, int, int]]:
    """Each group's role, data-parallel and tensor-parallel size."""
    return [(group.role, group.dp, group.tp) for group in found.groups]


def value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]

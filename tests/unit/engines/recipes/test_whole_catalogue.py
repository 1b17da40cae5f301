"""Every model of the catalogue, every engine and goal, on many nodes: a recipe that holds together, or a refusal."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from tests.support.recipes import recipe

from daulat.catalog import models
from daulat.engines.recipes import choose, render
from daulat.engines.recipes.recipe import GOALS, Group, Process, Recipe
from daulat.errors import ConfigError

WHERE = [("a3", 1), ("a3", 4), ("a2", 2), ("300i-duo", 1), ("8xH200", 1), ("hgx-b200", 2), ("cpu:64GiB", 1)]
JSON_FLAGS = ("--additional-config", "--compilation-config", "--speculative-config", "--kv-transfer-config")


def holds_together(found: Recipe) -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for process in found.processes:
        assert all(isinstance(word, str) and word for word in process.argv)
        assert all(isinstance(value, str) for value in process.environment.values())
        flags = [word for word in process.argv if word.startswith("--") and word not in ("--prefill", "--decode")]
        assert max(Counter(flags).values(), default=1) == 1, flags
        for flag in JSON_FLAGS:
            if flag in process.argv:
                assert isinstance(json.loads(process.argv[process.argv.index(flag) + 1]), dict)
        taken.update((process.node, port) for port in process.ports)
    assert max(taken.values(), default=1) == 1, "two processes of a node listen on one port"
    assert len({process.name for process in found.processes}) == len(found.processes)
    served = [process for process in found.processes if process.role != "proxy" and process.devices]
    for node in {process.node for process in served}:
        devices = [device for process in served if process.node == node for device in process.devices]
        assert len(set(devices)) == len(devices), "a device is given to two processes"
    for group in found.groups:
        assert group.devices % len(group.nodes) == 0
    json.dumps(render.as_json(found))
    assert render.shell(found)


def keeps_to_vllm_ascends_own_checks(process: Process, group: Group) -> None:
    """What `_check_ascend_config` and the guides refuse or ignore, so that no recipe asks for it."""
    argv = process.argv
    values = {flag: json.loads(argv[argv.index(flag) + 1]) for flag in JSON_FLAGS if flag in argv}
    additional = values.get("--additional-config", {})
    role = values.get("--kv-transfer-config", {}).get("kv_role")
    assert not additional.get("recompute_scheduler_enable") or role == "kv_consumer"
    assert "VLLM_ASCEND_BALANCE_SCHEDULING" not in process.environment or role is None
    assert not additional.get("enable_shared_expert_dp") or group.ep > 1
    assert group.tp % group.dcp == 0
    assert "--enforce-eager" not in argv or "--compilation-config" not in argv
    fused = process.environment.get("VLLM_ASCEND_ENABLE_FUSED_MC2", "0") != "0"
    assert not fused or (group.ep <= 64 and "eplb_config" not in additional)
    if "finegrained_tp_config" in additional:
        assert group.dp % additional["finegrained_tp_config"]["lmhead_tensor_parallel_size"] == 0


@pytest.mark.parametrize("rebalance", [False, True])
def test_vllm_ascends_own_checks_would_pass(rebalance: bool) -> None:
    seen: set[str] = set()
    for model in models.models():
        for on, nodes in [*WHERE[:4], ("a3", 8), ("a3", 16)]:
            for goal in GOALS:
                try:
                    found = recipe(model, on, nodes, engine="vllm-ascend", goal=goal, rebalance=rebalance)
                except ConfigError:
                    continue
                for process in found.processes:
                    for group in found.groups:
                        if process.role == group.role and process.node in group.nodes:
                            keeps_to_vllm_ascends_own_checks(process, group)
                            seen.add(group.role)
    assert seen == {"mixed", "prefill", "decode"}


@pytest.mark.parametrize("engine", choose.ENGINES)
def test_a_recipe_holds_together_or_is_refused_in_words(engine: str) -> None:
    made: Counter[str] = Counter()
    for model in models.models():
        for on, nodes in WHERE:
            for goal in GOALS:
                wishes: dict[str, Any] = {"goal": goal, "concurrency": 37} if nodes == 1 else {"goal": goal}
                try:
                    found = recipe(model, on, nodes, engine=engine, **wishes)
                except ConfigError:
                    continue
                holds_together(found)
                made[on] += 1
    assert made.total() > 20

"""MindIE with prefill and decode apart: the file that its deployment script reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.recipes import layouts, recipe

from daulat.engines.recipes import render
from daulat.engines.recipes.recipe import Recipe
from daulat.errors import ConfigError


def files(found: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    config, variables = (json.loads(file.text) for file in found.files)
    return config, variables


def model(config: dict[str, Any], role: str) -> dict[str, Any]:
    (found,) = config[f"mindie_server_{role}_config"]["BackendConfig"]["ModelDeployConfig"]["ModelConfig"]
    return dict(found)


def test_four_a3_nodes_have_prefill_instances_of_a_node_and_a_decode_rank_for_each_device() -> None:
    found = recipe("deepseek-r1", "a3", 4, engine="mindie", goal="disaggregated")
    assert layouts(found) == [("prefill", 2, 8), ("prefill", 2, 8), ("decode", 32, 1)]
    config, variables = files(found)
    deployed = config["deploy_config"]
    pods = [deployed[f"{role}_instances_num"] * deployed[f"single_{role}_instance_pod_num"] for role in "pd"]
    assert pods == [2, 2]
    assert (deployed["p_pod_npu_num"], deployed["hardware_type"]) == (16, "800I_A3")
    assert (deployed["prefill_distribute_enable"], deployed["decode_distribute_enable"]) == (0, 1)
    reading, writing = model(config, "prefill"), model(config, "decode")
    assert [reading[key] for key in ("dp", "tp", "moe_ep", "worldSize")] == [2, 8, 16, 16]
    assert [writing[key] for key in ("dp", "tp", "moe_ep", "worldSize")] == [32, 1, 32, 1]
    assert json.loads(reading["plugin_params"]) == {"plugin_type": "mtp", "num_speculative_tokens": 1}
    assert config["mindie_server_decode_config"]["ServerConfig"]["distDPServerEnabled"] is True
    assert variables["mindie_common_env"]["DIST_PD_DISAGGREGATION"] == 1
    assert variables["mindie_server_decode_env"]["MINDIE_ENABLE_DP_DISTRIBUTED"] == 1


def test_decode_ranks_of_several_devices_are_no_processes_of_their_own() -> None:
    config, variables = files(recipe("deepseek-r1", "a3", 2, engine="mindie", goal="disaggregated"))
    assert config["deploy_config"]["decode_distribute_enable"] == 0
    assert model(config, "decode")["worldSize"] == 16
    assert config["mindie_server_decode_config"]["ServerConfig"]["distDPServerEnabled"] is False
    assert variables["mindie_server_decode_env"]["MINDIE_ENABLE_DP_DISTRIBUTED"] == 0


def test_tls_is_on_and_no_code_of_the_checkpoint_runs() -> None:
    config, _ = files(recipe("deepseek-v3.1", "a3", 4, engine="mindie", goal="disaggregated"))
    tls = config["deploy_config"]["tls_config"]
    assert [name for name, value in tls.items() if name.endswith("_enable") and value is not True] == []
    assert not any(model(config, role)["trustRemoteCode"] for role in ("prefill", "decode"))


def test_a_printed_recipe_writes_the_files_where_the_script_looks_for_them() -> None:
    found = recipe("deepseek-r1", "a3", 4, engine="mindie", goal="disaggregated")
    printed = render.shell(found)
    config, _ = files(found)
    assert "install -D -m 640 /dev/stdin ./user_config.json" in printed
    assert f"/dev/stdin {config['deploy_config']['mindie_env_path']}" in printed
    assert "python3 deploy_ac_job.py" in printed
    with pytest.raises(ConfigError, match="not run from an image here"):
        render.container(found)


@pytest.mark.parametrize(
    ("name", "precision", "said"),
    [("deepseek-v3.2", "w8a8", "not DeepSeek-V3.2 in w8a8"), ("deepseek-v3.1", "w4a8", "in w4a8; take --engine")],
)
def test_what_there_is_no_example_for_is_refused(name: str, precision: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(name, "a3", 4, engine="mindie", precision=precision, goal="disaggregated")

"""A pool of KV cache beside a launch, as vLLM-Ascend's guide has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.recipes import recipe, value

from daulat.engines.recipes import render
from daulat.engines.recipes.recipe import Process, Recipe
from daulat.errors import ConfigError


def transfer(process: Process) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value(process.argv, "--kv-transfer-config"))
    return found


def of(found: Recipe, role: str) -> Process:
    return next(process for process in found.processes if process.role == role)


def test_on_one_node_the_engine_saves_and_loads_by_itself() -> None:
    found = recipe("deepseek-v3.2", "a3", kv_pool="mooncake")
    engine = of(found, "mixed")
    assert transfer(engine) == {
        "kv_connector": "AscendStoreConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"backend": "mooncake", "lookup_rpc_port": "0"},
    }
    assert engine.environment["PYTHONHASHSEED"] == "0"
    (file,) = found.files
    assert engine.environment["MOONCAKE_CONFIG_PATH"] == file.path
    read = json.loads(file.text)
    assert (read["protocol"], read["global_segment_size"]) == ("ascend", "10GB")
    service = of(found, "pool")
    assert read["master_server_address"] == f"127.0.0.1:{service.ports[0]}"
    assert value(service.argv, "--port") == str(service.ports[0])


def test_between_prefill_and_decode_the_pool_stands_beside_the_transfer() -> None:
    found = recipe("deepseek-v4-flash", "a3", 2, goal="disaggregated", kv_pool="memcache", layerwise=True)
    apart = recipe("deepseek-v4-flash", "a3", 2, goal="disaggregated")
    for role, kv_role in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
        said = transfer(of(found, role))
        assert (said["kv_connector"], said["kv_role"]) == ("MultiConnector", kv_role)
        between, store = said["kv_connector_extra_config"]["connectors"]
        assert between == transfer(of(apart, role))
        assert store["kv_connector"] == "AscendStoreConnector"
        assert store["kv_connector_extra_config"].get("use_layerwise", False) is (role == "prefill")


def test_memcache_reads_one_address_everywhere_and_the_protocol_of_the_generation() -> None:
    found = recipe("deepseek-r1", "a2", 2, kv_pool="memcache", kv_pool_gib=40)
    local, service = found.files
    assert (local.node, service.node) == (None, 0)
    assert "protocol = device_rdma" in local.text
    assert "dram.size = 40GB" in local.text
    assert "protocol = device_sdma" in recipe("deepseek-r1", "a3", kv_pool="memcache").files[0].text
    for text in (local.text, service.text):
        assert "ock.mmc.meta_service_url = tcp://10.0.0.1:5000" in text
        assert "config_store_url = tcp://10.0.0.1:6000" in text
    assert of(found, "mixed").environment["HCCL_INTRA_ROCE_ENABLE"] == "1"


def test_the_service_gets_its_file_and_no_devices_in_its_container() -> None:
    printed = render.container(recipe("deepseek-r1", "a3", kv_pool="memcache"))
    service = printed.partition("--name kv-pool")[2].partition("\n\n")[0]
    assert "/etc/daulat/mmc-meta.conf:/etc/daulat/mmc-meta.conf:ro" in service
    assert "--device" not in service
    assert "MMC_META_CONFIG_PATH=/etc/daulat/mmc-meta.conf" in service


def test_a_pool_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="known are mooncake, memcache"):
        recipe("deepseek-r1", "a3", kv_pool="redis")
    with pytest.raises(ConfigError, match="0 GB a device"):
        recipe("deepseek-r1", "a3", kv_pool="mooncake", kv_pool_gib=0)
    with pytest.raises(ConfigError, match="300I Duo"):
        recipe("deepseek-r1-distill-qwen-7b", "300i-duo", kv_pool="mooncake")

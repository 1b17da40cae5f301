"""Recipes for MindIE, SGLang, upstream vLLM and llama.cpp."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.recipes import layouts, recipe, site, value

from daulat.engines.recipes import ascend
from daulat.errors import ConfigError


def config(found: Any, node: int = 0) -> dict[str, Any]:
    (file,) = [file for file in found.files if file.path.endswith("/config.json") and file.node == node]
    assert file.mode == "640"
    loaded: dict[str, Any] = json.loads(file.text)
    return loaded


def test_mindie_on_one_node_listens_on_loopback_and_its_numbers_keep_to_each_other() -> None:
    found = recipe("deepseek-r1", "a3", engine="mindie", context=9000)
    whole = config(found)
    server, backend = whole["ServerConfig"], whole["BackendConfig"]
    deployed = backend["ModelDeployConfig"]
    (model,) = deployed["ModelConfig"]
    assert (server["ipAddress"], server["httpsEnabled"]) == ("127.0.0.1", False)
    assert not server["allowAllZeroIpListening"]
    assert backend["npuDeviceIds"] == [list(range(16))]
    assert model["worldSize"] == model["dp"] * model["tp"] == model["moe_ep"] * model["moe_tp"] == 16
    assert deployed["maxInputTokenLen"] < deployed["maxSeqLen"] == 9000
    assert backend["ScheduleConfig"]["maxPrefillTokens"] >= deployed["maxInputTokenLen"]
    assert backend["ScheduleConfig"]["maxPrefillBatchSize"] <= backend["ScheduleConfig"]["maxBatchSize"]
    assert model["trustRemoteCode"] is False
    assert json.loads(model["plugin_params"]) == {"plugin_type": "mtp", "num_speculative_tokens": 1}
    assert model["models"]["deepseekv2"]["ep_level"] == 2
    assert found.processes[0].argv == ("mindie_llm_server",)
    assert "RANK_TABLE_FILE" not in found.processes[0].environment


def test_mindie_over_two_nodes_has_a_rank_table_that_numbers_every_device_once_and_keeps_tls_on() -> None:
    addresses = tuple(tuple(f"10.20.{node}.{device}" for device in range(16)) for node in range(2))
    found = recipe("deepseek-v3.2", "a3", 2, engine="mindie", where=site(2, device_addresses=addresses))
    (table,) = [json.loads(file.text) for file in found.files if "rank_table" in file.path]
    devices = [device for server in table["server_list"] for device in server["device"]]
    assert (table["server_count"], table["status"], table["version"]) == ("2", "completed", "1.0")
    assert [server["server_id"] for server in table["server_list"]] == ["10.0.0.1", "10.0.0.2"]
    assert [device["rank_id"] for device in devices] == [str(rank) for rank in range(32)]
    assert [device["device_ip"] for device in devices] == [*addresses[0], *addresses[1]]
    for node in (0, 1):
        whole = config(found, node)
        assert whole["ServerConfig"]["httpsEnabled"]
        assert whole["ServerConfig"]["ipAddress"] == f"10.0.0.{node + 1}"
        assert whole["BackendConfig"]["interNodeTLSEnabled"]
        assert whole["ServerConfig"]["tlsCert"].endswith("server.pem")
        assert whole["BackendConfig"]["interNodeTlsPk"].endswith("server.key.pem")
        (model,) = whole["BackendConfig"]["ModelDeployConfig"]["ModelConfig"]
        assert (model["backendType"], model["dp"], model["tp"], model["moe_ep"]) == ("torch", 4, 8, 32)
        environment = found.processes[node].environment
        assert environment["MIES_CONTAINER_IP"] == f"10.0.0.{node + 1}"
        assert environment["MASTER_IP"] == "10.0.0.1"
        assert environment["TASK_QUEUE_ENABLE"] == "0"


def test_mindie_without_the_devices_addresses_says_where_they_come_from_and_invents_none() -> None:
    found = recipe("deepseek-r1", "a2", 2, engine="mindie")
    (table,) = [file.text for file in found.files if "rank_table" in file.path]
    assert table.count("FILL-IN-node-") == 16
    assert any("hccn_tool" in note.text for note in found.notes)
    with pytest.raises(ConfigError, match="no device 0 of node 1"):
        recipe("deepseek-r1", "a2", 2, engine="mindie", where=site(2, device_addresses=(("10.0.0.1",) * 8,)))


@pytest.mark.parametrize(
    ("model", "on", "nodes", "wishes", "words"),
    [
        ("deepseek-v4-flash", "a3", 1, {}, "vllm-ascend"),
        ("qwen3-235b-a22b", "a2", 6, {}, "4 nodes at most"),
        ("deepseek-r1", "a3", 1, {"drafts": 3}, "1 or 2"),
        ("deepseek-r1", "8xH200", 1, {}, "no Ascend chip"),
    ],
)
def test_what_mindies_pages_do_not_have_is_refused_with_what_does(
    model: str, on: str, nodes: int, wishes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe(model, on, nodes, engine="mindie", **wishes)


def test_mindie_refuses_a_name_it_would_not_take() -> None:
    with pytest.raises(ConfigError, match="modelName"):
        recipe("deepseek-r1", "a3", engine="mindie", where=site(name="a b"))


def test_an_hccn_conf_gives_each_devices_address_and_gaps_or_nothing_are_errors() -> None:
    text = "address_1=10.0.0.2\nnetmask_1=255.255.0.0\n address_0 = 10.0.0.1\ngateway_0=10.0.0.254\n"
    assert ascend.device_addresses(text) == ("10.0.0.1", "10.0.0.2")
    for wrong in ("", "address_0=\n", "address_1=10.0.0.1\n", "address_0=10.0.0.1\naddress_2=10.0.0.2\n"):
        with pytest.raises(ConfigError, match="without a gap"):
            ascend.device_addresses(wrong)


@given(st.text() | st.lists(st.from_regex(r"address_\d{1,4}=.{0,60}")).map("\n".join))
def test_any_text_is_addresses_or_an_error(text: str) -> None:
    try:
        found = ascend.device_addresses(text)
    except ConfigError:
        return
    assert found
    assert all(set(address) <= set("0123456789abcdefABCDEF.:") for address in found)


def test_sglang_divides_attention_for_throughput_and_not_for_latency() -> None:
    many, few = (recipe("deepseek-r1", "8xH200", engine="sglang", goal=goal) for goal in ("throughput", "latency"))
    assert (layouts(many), layouts(few)) == ([("mixed", 8, 1)], [("mixed", 1, 8)])
    assert value(many.processes[0].argv, "--tp-size") == value(few.processes[0].argv, "--tp-size") == "8"
    assert "--enable-dp-attention" in many.processes[0].argv
    assert "--enable-dp-attention" not in few.processes[0].argv
    assert value(few.processes[0].argv, "--speculative-num-steps") == "3"
    assert value(few.processes[0].argv, "--speculative-num-draft-tokens") == "4"
    assert value(many.processes[0].argv, "--speculative-num-draft-tokens") == "2"
    assert "--quantization" not in many.processes[0].argv


def test_sglang_over_nodes_meets_at_the_first_and_apart_has_a_router() -> None:
    found = recipe("deepseek-r1", "a3", 4, engine="sglang", goal="disaggregated")
    decode = [process for process in found.processes if process.role == "decode"]
    assert [value(process.argv, "--node-rank") for process in decode] == ["0", "1"]
    assert {value(process.argv, "--dist-init-addr") for process in decode} == {"10.0.0.3:5000"}
    assert {value(process.argv, "--deepep-mode") for process in decode} == {"low_latency"}
    assert value(decode[0].argv, "--tp-size") == value(decode[0].argv, "--dp-size") == "32"
    prefill = [process for process in found.processes if process.role == "prefill"]
    assert [value(process.argv, "--disaggregation-bootstrap-port") for process in prefill] == ["8998", "8999"]
    assert {value(process.argv, "--quantization") for process in (*prefill, *decode)} == {"modelslim"}
    router = found.processes[-1].argv
    assert router.count("--prefill") == 2
    assert value(router, "--decode") == "http://10.0.0.3:8002"


def test_upstream_vllm_takes_data_parallel_attention_where_a_gpu_holds_it() -> None:
    assert layouts(recipe("deepseek-r1", "8xH200")) == [("mixed", 8, 1)]
    assert layouts(recipe("deepseek-r1", "8xH200", goal="latency")) == [("mixed", 1, 8)]
    assert layouts(recipe("deepseek-r1", "hgx-h100", 2)) == [("mixed", 2, 8)]
    found = recipe("deepseek-v4-flash", "hgx-b200")
    argv = found.processes[0].argv
    assert (value(argv, "--kv-cache-dtype"), value(argv, "--block-size")) == ("fp8", "256")
    assert value(argv, "--moe-backend") == "deep_gemm_mega_moe"
    assert "--trust-remote-code" not in argv


def test_upstream_vllm_apart_names_each_nodes_own_side_channel() -> None:
    found = recipe("deepseek-r1", "8xH200", goal="throughput")
    assert all(process.role == "mixed" for process in found.processes)
    apart = recipe("deepseek-r1", "hgx-h200", 2, goal="disaggregated")
    prefill, decode, router = apart.processes
    assert prefill.environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "10.0.0.1"
    assert decode.environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "10.0.0.2"
    assert json.loads(value(decode.argv, "--kv-transfer-config"))["kv_role"] == "kv_consumer"
    assert value(router.argv, "--decode") == "http://10.0.0.2:8002"


def test_a_cpu_gets_the_memory_that_the_weights_leave() -> None:
    found = recipe("deepseek-r1-distill-qwen-7b", "cpu:64GiB", engine="vllm")
    assert 30 <= int(found.processes[0].environment["VLLM_CPU_KVCACHE_SPACE"]) <= 40
    with pytest.raises(ConfigError, match="does not fit in 16 GiB"):
        recipe("deepseek-r1-distill-qwen-7b", "cpu:16GiB", engine="vllm")


def test_llama_cpp_gives_each_slot_the_whole_context_and_takes_ggufs_only() -> None:
    found = recipe("deepseek-r1-distill-qwen-7b", "cpu:64GiB", context=4096, concurrency=3)
    argv = found.processes[0].argv
    assert (value(argv, "--ctx-size"), value(argv, "--parallel")) == ("12288", "3")
    assert found.precision == "q8_0"
    with pytest.raises(ConfigError, match="GGUF"):
        recipe("deepseek-r1-distill-qwen-7b", "cpu:64GiB", precision="w8a8")
    with pytest.raises(ConfigError, match="does not fit on CPU, 64 GiB"):
        recipe("deepseek-r1", "cpu:64GiB")


def test_no_recipe_asks_for_code_out_of_a_checkpoint() -> None:
    for model, on, engine in (
        ("deepseek-v3.2", "a3", "vllm-ascend"),
        ("deepseek-v4-flash", "hgx-h200", "vllm"),
        ("deepseek-v3.2", "hgx-h200", "sglang"),
        ("deepseek-v3.2", "a3", "sglang"),
    ):
        words = [word for process in recipe(model, on, engine=engine).processes for word in process.argv]
        assert "--trust-remote-code" not in words

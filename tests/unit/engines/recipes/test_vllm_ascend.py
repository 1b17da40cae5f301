"""vLLM-Ascend's recipes: what an operator of Atlas A2, A3 and 300I Duo gets."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from tests.support.recipes import layouts, recipe, site, value

from daulat.catalog import accelerators, models
from daulat.engines.recipes import choose
from daulat.errors import ConfigError


def test_one_a3_serves_r1_with_two_ranks_of_eight_on_loopback_with_every_device_named() -> None:
    found = recipe("deepseek-r1", "a3")
    (process,) = found.processes
    assert layouts(found) == [("mixed", 2, 8)]
    assert process.argv[:3] == ("vllm", "serve", "/models/weights")
    assert value(process.argv, "--host") == "127.0.0.1"
    assert value(process.argv, "--quantization") == "ascend"
    assert "--enable-expert-parallel" in process.argv
    assert "--trust-remote-code" not in process.argv
    assert process.environment["ASCEND_RT_VISIBLE_DEVICES"] == ",".join(map(str, range(16)))
    assert process.environment["PYTORCH_NPU_ALLOC_CONF"] == "expandable_segments:True"
    assert "HCCL_IF_IP" not in process.environment


def test_several_nodes_have_one_api_server_and_headless_others_with_ranks_that_add_up() -> None:
    found = recipe("deepseek-v3.2", "a3", 2)
    head, other = found.processes
    assert layouts(found) == [("mixed", 4, 8)]
    assert (head.node, other.node, head.ports, other.ports) == (0, 1, (8000,), ())
    assert "--headless" not in head.argv
    assert "--data-parallel-start-rank" not in head.argv
    assert "--headless" in other.argv
    assert value(other.argv, "--data-parallel-start-rank") == value(other.argv, "--data-parallel-size-local") == "2"
    assert value(other.argv, "--data-parallel-address") == "10.0.0.1"
    assert other.environment["HCCL_IF_IP"] == "10.0.0.2"
    assert other.environment["HCCL_SOCKET_IFNAME"] == "eth0"


def test_apart_every_rank_has_devices_and_a_port_of_its_own_and_the_proxy_knows_them_all() -> None:
    found = recipe("deepseek-v4-pro", "a3", 4, goal="disaggregated")
    ranks = [process for process in found.processes if process.role != "proxy"]
    assert layouts(found) == [("prefill", 4, 8), ("decode", 16, 2)]
    assert len(ranks) == 4 + 16
    for node in range(4):
        here = [process for process in ranks if process.node == node]
        devices = [device for process in here for device in process.devices]
        assert sorted(devices) == list(range(16))
        assert len({process.ports for process in here}) == len(here)
    for role, size in (("prefill", 4), ("decode", 16)):
        numbers = [int(value(process.argv, "--data-parallel-rank")) for process in ranks if process.role == role]
        assert numbers == list(range(size))
    proxy = found.processes[-1]
    places = {(process.node, process.ports[0]) for process in ranks}
    words = proxy.argv
    hosts = words[words.index("--decoder-hosts") + 1 : words.index("--decoder-ports")]
    ports = words[words.index("--decoder-ports") + 1 :]
    told = {(int(host.rpartition(".")[2]) - 1, int(port)) for host, port in zip(hosts, ports, strict=True)}
    assert told == {place for place in places if place[0] >= 2}


def test_prefill_and_decode_name_the_same_pair_of_layouts_and_ports_mooncake_does_not_draw() -> None:
    found = recipe("deepseek-v3.1", "a3", 4, goal="disaggregated")
    transfers = {
        process.name.partition("-rank")[0]: json.loads(value(process.argv, "--kv-transfer-config"))
        for process in found.processes
        if process.role != "proxy"
    }
    assert set(transfers) == {"prefill-0", "prefill-1", "decode"}
    extras = [transfer["kv_connector_extra_config"] for transfer in transfers.values()]
    assert extras == [{"prefill": {"dp_size": 2, "tp_size": 8}, "decode": {"dp_size": 32, "tp_size": 1}}] * 3
    assert [transfer["kv_role"] for transfer in transfers.values()] == ["kv_producer", "kv_producer", "kv_consumer"]
    ports = sorted(int(transfer["kv_port"]) for transfer in transfers.values())
    assert ports[0] >= 36_000
    assert all(later - earlier >= 16 for earlier, later in pairwise(ports))
    assert len({transfer["engine_id"] for transfer in transfers.values()}) == 3


def test_graphs_are_captured_for_batches_that_drafting_makes_and_no_more_than_a_device_has_room_for() -> None:
    for drafts in (1, 2, 3):
        found = recipe("deepseek-v3.2", "a3", drafts=drafts, concurrency=600)
        graphs = json.loads(value(found.processes[0].argv, "--compilation-config"))
        sizes = graphs["cudagraph_capture_sizes"]
        assert graphs["cudagraph_mode"] == "FULL_DECODE_ONLY"
        assert all(size % (1 + drafts) == 0 for size in sizes)
        assert len(sizes) <= 24
        assert max(sizes) <= 300 * (1 + drafts)


def test_a_decode_step_has_room_for_every_answer_and_its_drafts() -> None:
    found = recipe("deepseek-v4-flash", "a3", 2, goal="disaggregated", concurrency=1600)
    decode = next(process for process in found.processes if process.role == "decode")
    assert value(decode.argv, "--max-num-seqs") == "100"
    assert value(decode.argv, "--max-num-batched-tokens") == "400"


def test_drafts_are_as_wished_or_none() -> None:
    assert "--speculative-config" not in recipe("deepseek-r1", "a3", drafts=0).processes[0].argv
    assert "--speculative-config" not in recipe("qwen3-235b-a22b", "a3", drafts=2).processes[0].argv
    asked = json.loads(value(recipe("deepseek-r1", "a3", drafts=2).processes[0].argv, "--speculative-config"))
    assert asked == {"method": "mtp", "num_speculative_tokens": 2}


def test_moving_experts_and_the_fused_dispatch_exclude_each_other() -> None:
    wishes = {"goal": "disaggregated", "context": 8000}
    fixed = recipe("deepseek-v3.2", "a3", 4, **wishes)
    moving = recipe("deepseek-v3.2", "a3", 4, rebalance=True, **wishes)
    for found, moves in ((fixed, False), (moving, True)):
        decode = next(process for process in found.processes if process.role == "decode")
        assert (decode.environment.get("DYNAMIC_EPLB") == "true") is moves
        assert ("VLLM_ASCEND_ENABLE_FUSED_MC2" in decode.environment) is not moves
        assert ("eplb_config" in json.loads(value(decode.argv, "--additional-config"))) is moves
    with pytest.raises(ConfigError, match="no experts"):
        recipe("qwen3-32b", "a3", rebalance=True)


def test_a2_takes_its_own_numbers_image_and_devices() -> None:
    one, four = recipe("deepseek-v4-flash", "a2"), recipe("deepseek-v4-pro", "a2", 4)
    assert (layouts(one), layouts(four)) == ([("mixed", 1, 8)], [("mixed", 4, 8)])
    assert layouts(recipe("deepseek-r1", "a2", 2)) == [("mixed", 4, 4)]
    assert layouts(recipe("deepseek-v3.2", "a2", 2)) == [("mixed", 2, 8)]
    assert four.processes[0].environment["HCCL_BUFFSIZE"] == "512"
    assert one.container is not None
    assert one.container.image.endswith("/vllm-ascend:v0.23.0")
    assert [device for device in one.container.devices if device[-1].isdigit()] == [
        f"/dev/davinci{n}" for n in range(8)
    ]


def test_300i_duo_has_half_precision_no_fused_graphs_and_refuses_latent_attention() -> None:
    found = recipe("qwen3-32b", "300i-duo", precision="w8a8")
    argv = found.processes[0].argv
    assert value(argv, "--dtype") == "float16"
    assert json.loads(value(argv, "--additional-config"))["ascend_compilation_config"]["enable_npugraph_ex"] is False
    assert found.container is not None
    assert found.container.image.endswith("-310p")
    with pytest.raises(ConfigError, match=r"no engine we know runs latent attention \(MLA\) on Ascend 310P"):
        recipe("deepseek-v2-lite", "300i-duo", precision="fp16")


def test_the_container_sees_the_driver_and_the_weights_read_only_and_the_fabric_only_over_nodes() -> None:
    one, two = recipe("deepseek-r1", "a3").container, recipe("deepseek-v3.2", "a3", 2).container
    assert one is not None
    assert two is not None
    assert all(mount.read_only for mount in (*one.mounts, *two.mounts))
    assert {"/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc", "/dev/davinci15"} <= set(one.devices)
    assert len(one.devices) == 16 + 3
    assert "--privileged" not in " ".join(one.options)
    assert "/etc/hccn.conf" not in {mount.host for mount in one.mounts}
    assert "/etc/hccn.conf" in {mount.host for mount in two.mounts}
    assert "/models/weights" in {mount.host for mount in one.mounts}


def test_precisions_that_the_chips_do_not_compute_in_are_refused_and_the_right_one_is_named() -> None:
    with pytest.raises(ConfigError, match=r"does not compute in fp8; it does in .*w8a8"):
        recipe("deepseek-r1", "a3", precision="fp8")
    assert recipe("deepseek-r1", "a3").precision == "w8a8"
    assert recipe("deepseek-v4-pro", "a3", 4).precision == "w4a8"


def test_more_devices_than_experts_and_chips_without_a_recipe_are_refused() -> None:
    with pytest.raises(ConfigError, match="256 experts do not spread over 384 devices that generate"):
        recipe("deepseek-r1", "cloudmatrix384", goal="disaggregated", where=site(48))
    for engine in ("vllm-ascend", "mindie", "sglang"):
        with pytest.raises(ConfigError, match=r"no recipe|only"):
            recipe("deepseek-v3.1", "950", engine=engine)


def test_own_weights_are_in_whatever_precision_their_owner_says() -> None:
    spec = models.find("deepseek-r1")
    own = replace(spec, weights={"fp8": replace(spec.weights["fp8"], checkpoint="")})
    chip = accelerators.hardware("a3").chip
    assert choose.precisions("w8a8", own, chip, "vllm-ascend", ("bf16",)) == ("w8a8",)
    with pytest.raises(ConfigError, match="give --precision if you have others"):
        choose.precisions(None, own, chip, "vllm-ascend", ())
    with pytest.raises(ConfigError, match="no weights of DeepSeek-R1 in w4a16"):
        choose.precisions("w4a16", spec, chip, "vllm-ascend", ("bf16",))


def test_a_clients_port_among_the_ranks_ports_is_refused() -> None:
    with pytest.raises(ConfigError, match="from port 7100 on"):
        recipe("deepseek-v4-flash", "a3", 2, goal="disaggregated", where=site(2, port=7103))
    assert recipe("deepseek-r1", "a3", where=site(port=7103)).processes[0].ports == (7103,)


def test_a_context_beyond_the_models_is_refused_and_the_long_goal_takes_all_of_it() -> None:
    with pytest.raises(ConfigError, match="163840"):
        recipe("deepseek-v3.2", "a3", context=200_000)
    assert recipe("deepseek-v3.2", "a3", goal="long-context").context == 163_840
    assert layouts(recipe("deepseek-v4-pro", "a3", 4, goal="long-context")) == [("prefill", 2, 16), ("decode", 2, 16)]


def test_every_group_says_from_which_public_configuration_its_numbers_are() -> None:
    for found in (recipe("deepseek-r1", "a3"), recipe("deepseek-v4-flash", "a3", 2, goal="disaggregated")):
        sources = [note.source for note in found.notes]
        assert sum(".yaml" in source for source in sources) >= len(found.groups)
        assert any("silicon" in note.text for note in found.notes)
        assert found.versions["CANN"]


def test_a_drafting_model_of_its_own_is_mounted_and_prefill_drafts_with_it_as_the_method_wants() -> None:
    wish = ("dflash", "/models/Kimi-K2.5-DFlash")
    one = recipe("kimi-k2.6", "a3", precision="w4a8", drafter=wish)
    assert one.container is not None
    assert "/models/Kimi-K2.5-DFlash" in {mount.host for mount in one.container.mounts}
    said = json.loads(value(one.processes[0].argv, "--speculative-config"))
    assert said == {"method": "dflash", "model": wish[1], "num_speculative_tokens": 7}
    apart = recipe("kimi-k2.6", "a3", 2, precision="w4a8", drafter=wish, drafts=15, goal="disaggregated")
    first, last = (
        next(process for process in apart.processes if process.role == role) for role in ("prefill", "decode")
    )
    assert json.loads(value(first.argv, "--speculative-config"))["num_speculative_tokens"] == 1
    assert json.loads(value(last.argv, "--speculative-config"))["num_speculative_tokens"] == 15


def test_a_model_without_layers_that_draft_has_no_drafts_unless_a_drafter_is_given() -> None:
    assert "--speculative-config" not in recipe("kimi-k2.6", "a3", precision="w4a8").processes[0].argv
    with pytest.raises(ConfigError, match="known are eagle3, dflash"):
        recipe("kimi-k2.6", "a3", precision="w4a8", drafter=("medusa", "/models/x"))
    with pytest.raises(ConfigError, match="is no path"):
        recipe("kimi-k2.6", "a3", precision="w4a8", drafter=("eagle3", "--x"))


def test_300i_duo_loads_compressed_weights_by_rank_and_linear_attention_keeps_its_state_in_16_bits() -> None:
    compressed = site(weights="/models/Qwen3-32B-w8a8sc-310-vllm-tp4")
    found = recipe("qwen3-32b", "300i-duo", precision="w8a8", where=compressed)
    assert value(found.processes[0].argv, "--load-format") == "sharded_state"
    assert layouts(found) == [("mixed", 1, 4)]
    assert "--load-format" not in recipe("qwen3-32b", "300i-duo", precision="w8a8").processes[0].argv
    linear = recipe("qwen3.6-27b", "300i-duo", precision="w8a8")
    assert value(linear.processes[0].argv, "--mamba-ssm-cache-dtype") == "float16"


def test_what_is_not_published_for_ascend_can_be_quantised_from_what_is() -> None:
    made = recipe("qwen3-30b-a3b", "a3", precision="w4a8")
    assert any("No published weights in w4a8 are known" in note.text for note in made.notes)
    assert not any("No published" in note.text for note in recipe("qwen3-30b-a3b", "a3", precision="w8a8").notes)
    assert recipe("deepseek-v3.2", "a3", 2, precision="bf16").precision == "bf16"
    with pytest.raises(ConfigError, match="no weights of Qwen3-30B-A3B in w4a8"):
        recipe("qwen3-30b-a3b", "8xH200", precision="w4a8", engine="vllm")

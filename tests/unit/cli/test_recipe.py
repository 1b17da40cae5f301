"""`daulat model recipe`."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.verbs import Shell

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}


def test_a_recipe_is_printed_as_shell_container_or_json(run: Shell) -> None:
    shell = run("model", "recipe", "deepseek-v3.2", "--on", "a3")
    assert shell.code == 0
    assert "    vllm serve /models/DeepSeek-V3.2-W8A8 \\\n" in shell.out
    assert "    --tensor-parallel-size 8 \\\n" in shell.out
    container = run("model", "recipe", "deepseek-v3.2", "--on", "a3", "--format", "container")
    assert "docker run --rm \\\n" in container.out
    asked = ("model", "recipe", "deepseek-v3.2", "--on", "a3", "--nodes", "2")
    whole = run(*asked, "--json").value
    assert json.loads(run(*asked, "--format", "json").out) == whole
    assert (whole["engine"], whole["precision"], len(whole["processes"])) == ("vllm-ascend", "w8a8", 2)


def test_a_checkpoints_name_says_the_precision_and_wishes_reach_the_engine(run: Shell) -> None:
    found = run(
        *("model", "recipe", "vllm-ascend/DeepSeek-R1-0528-W8A8", "--on", "a3", "--context", "9000"),
        *(
            "--drafts",
            "3",
            "--concurrency",
            "64",
            "--no-shared-prefix",
            "--weights",
            "/w",
            "--name",
            "n",
            "--port",
            "9001",
        ),
        "--json",
    ).value
    (process,) = found["processes"]
    argv = process["argv"]
    pairs = dict(pairwise(argv))
    assert (found["precision"], found["context"], found["checkpoint"]) == (
        "w8a8",
        9000,
        "vllm-ascend/DeepSeek-R1-0528-W8A8",
    )
    assert (argv[2], pairs["--served-model-name"], pairs["--port"]) == ("/w", "n", "9001")
    assert (pairs["--max-model-len"], pairs["--max-num-seqs"]) == ("9000", "32")
    assert json.loads(pairs["--speculative-config"])["num_speculative_tokens"] == 3
    assert "--no-enable-prefix-caching" in argv


def test_a_model_on_disk_is_launched_from_where_it_lies(run: Shell, tmp_path: Path) -> None:
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    found = run("model", "recipe", str(path), "--on", "8xH200", "--json").value
    assert found["processes"][0]["argv"][2] == str(path.parent)
    assert found["precision"] == "bf16"
    asked = ("model", "recipe", str(path), "--on", "a3", "--precision", "w8a8", "--weights", "/elsewhere", "--json")
    assert run(*asked).value["processes"][0]["argv"][2] == "/elsewhere"


def test_addresses_given_stand_where_placeholders_would(run: Shell) -> None:
    asked = ("model", "recipe", "deepseek-v4-flash", "--on", "a3", "--nodes", "2", "--goal", "disaggregated", "--json")
    given = ("--address", "10.1.0.1", "--address", "10.1.0.2", "--interface", "bond0")
    unsaid, said = run(*asked).value, run(*asked, *given).value
    assert unsaid["processes"][-1]["argv"].count("node-1") == 16
    assert "--address" in unsaid["notes"][-1]["text"]
    assert not any("--address" in note["text"] for note in said["notes"])
    assert said["processes"][-1]["argv"].count("10.1.0.2") == 16
    assert said["processes"][0]["environment"]["HCCL_SOCKET_IFNAME"] == "bond0"


def test_mindies_rank_table_takes_the_devices_addresses_of_each_nodes_hccn_conf(run: Shell, tmp_path: Path) -> None:
    paths = []
    for node in range(2):
        paths.append(tmp_path / f"hccn{node}.conf")
        paths[-1].write_text("\n".join(f"address_{device}=10.2.{node}.{device}" for device in range(8)))
    options = [word for path in paths for word in ("--hccn-conf", str(path))]
    asked = ("model", "recipe", "deepseek-r1", "--on", "a2", "--nodes", "2", "--engine", "mindie")
    assert '"device_ip": "10.2.1.7"' in run(*asked, *options).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deepseek-r9", "--on", "a3"), "no model 'deepseek-r9'"),
        (("deepseek-r1", "--on", "a9"), "no hardware 'a9'"),
        (("deepseek-r1", "--on", "a3", "--precision", "w3a3"), "no weights of DeepSeek-R1 in w3a3"),
        (("deepseek-r1", "--on", "a2"), "does not fit"),
        (("deepseek-r1", "--on", "a3", "--goal", "disaggregated"), "at least 2 nodes"),
        (("deepseek-r1", "--on", "a3", "--context", "999999"), "163840"),
        (("deepseek-r1", "--on", "a3", "--nodes", "2", "--address", "10.0.0.1"), "2 nodes need 2 addresses"),
        (("deepseek-r1", "--on", "a3", "--engine", "vllm"), "--engine vllm-ascend"),
        (("deepseek-r1", "--on", "8xH200", "--engine", "vllm-ascend"), "no Ascend chip"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_what_was_wrong(run: Shell, words: tuple[str, ...], said: str) -> None:
    found = run("model", "recipe", *words)
    assert found.code == 1
    assert said in found.err
    assert found.err.count("\n") == 1
    assert found.out == ""

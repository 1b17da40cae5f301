"""`daulat model fit` and `daulat model catalog`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support import gguf_files
from tests.support.verbs import Shell, write_file

from daulat.catalog.models import models

SMALL = {
    **gguf_files.KEYS,
    "llama.block_count": 2,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 16,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256,
    "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_a_model_that_fits_is_told_with_layout_account_and_room(run: Shell) -> None:
    said = run("model", "fit", "deepseek-r1", "--on", "a3")
    assert said.code == 0
    for words in (
        "DeepSeek-R1 on Atlas 800 A3 (8 packages of 910C, 16 dies): it fits",
        "TP8 DP2 EP16: 8-way tensor, 2-way data, 16-way expert",
        "w8a8: INT8 weights and activations",
        "routed experts                         38.77",
        "left for the KV cache, bf16",
        "tokens in all",
        "are estimates",
    ):
        assert words in said.out, said.out


def test_the_lines_of_the_account_add_up_to_the_devices_memory(run: Shell) -> None:
    out = run("model", "fit", "deepseek-v3", "--on", "8xH200").out
    lines = [line for line in out.splitlines() if line.startswith("    ")]
    *parts, memory = [float(line.split()[-1]) for line in lines]
    assert sum(parts) == pytest.approx(memory, abs=0.01 * len(parts))


def test_a_model_that_does_not_fit_ends_with_1_and_says_why_and_what_would(run: Shell) -> None:
    said = run("model", "fit", "deepseek-r1", "--on", "a2", "--precision", "BF16")
    assert (said.code, said.err) == (1, "")
    assert "it does not fit" in said.out
    assert "why        in bf16, weights take 1272 GiB of 512 GiB in all" in said.out
    assert "instead    4 nodes of Atlas 800 A2" in said.out
    assert run("model", "fit", "deepseek-r1", "--on", "a2", "--precision", "bf16", "--nodes", "4").code == 0


def test_scripts_get_one_line_either_way(run: Shell) -> None:
    value = run("model", "fit", "deepseek-r1", "--on", "a2", "--nodes", "2", "--context", "4096", "--json").value
    assert value["fits"] is True
    assert value["plan"]["layout"] == {"tensor": 8, "data": 2, "pipeline": 1, "experts": 16, "context": 1}
    assert value["plan"]["context"] == 4096
    assert value["hardware"] == {
        "node": "atlas-800-a2",
        "chip": "910b3",
        "devices_per_node": 8,
        "nodes": 2,
        "memory_gib": 64.0,
    }
    refused = run("model", "fit", "deepseek-v3", "--on", "310Px8", "--json")
    assert (refused.code, refused.value["fits"]) == (1, False)
    assert "latent attention" in refused.value["reasons"][0]


def test_a_checkpoints_name_decides_the_precision_and_an_option_overrules_it(run: Shell) -> None:
    name = "unsloth/DeepSeek-V3.1-BF16"
    assert run("model", "fit", name, "--on", "a3", "--nodes", 2, "--json").value["precision"] == "bf16"
    other = run("model", "fit", name, "--on", "a3", "--nodes", 2, "--precision", "w8a8", "--json").value
    assert other["precision"] == "w8a8"


def test_a_config_json_or_its_folder_is_planned_for(run: Shell, tmp_path: Path) -> None:
    path = write_file(tmp_path, "config.json", json.dumps(CONFIG).encode())
    for given in (path, tmp_path):
        value = run("model", "fit", given, "--on", "1xH100", "--json").value
        assert (value["fits"], value["precision"]) == (True, "bf16")
    assert "read from the file" in run("model", "catalog", path).out


def test_a_gguf_file_is_planned_for_by_its_header(run: Shell, tmp_path: Path) -> None:
    path = write_file(tmp_path, "small.gguf", gguf_files.make(SMALL))
    said = run("model", "fit", path, "--on", "cpu:2GiB")
    assert said.code == 0
    assert "A Model on CPU, 2 GiB: it fits" in said.out
    refused = run("model", "fit", path, "--on", "a3")
    assert refused.code == 1
    assert "a GGUF file is served by the embedded engine, on a CPU only" in refused.out


def test_a_split_gguf_is_all_its_parts(run: Shell, tmp_path: Path) -> None:
    write_file(tmp_path, "m-00001-of-00002.gguf", gguf_files.make(SMALL, {"token_embd.weight": (8, 2)}))
    path = tmp_path / "m-00001-of-00002.gguf"
    alone = run("model", "catalog", path)
    assert (alone.code, "parts" in alone.err) == (1, True)
    write_file(tmp_path, "m-00002-of-00002.gguf", gguf_files.make({}, {"output.weight": (8, 2)}))
    assert run("model", "catalog", path, "--json").value["shape"]["tied"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("deepseek-r9", "--on", "a3"), "no model 'deepseek-r9' in the catalogue; near it: deepseek-r1"),
        (("deepseek-r1", "--on", "a9"), "no hardware 'a9' in the catalogue. Nodes: "),
        (("deepseek-r1", "--on", "a3", "--precision", "fp7"), "unknown precision 'fp7'; known are bf16"),
        (("deepseek-r1", "--on", "a3", "--kv", "fp7"), "unknown precision 'fp7' of the KV cache"),
        (("deepseek-r1", "--on", "a3", "--context", "999999"), "a context of at most 163840 tokens"),
        (("./missing.gguf", "--on", "a3"), "./missing.gguf: there is no such file"),
    ],
)
def test_what_cannot_be_planned_is_one_line_that_says_what_would_be_right(
    run: Shell, arguments: tuple[str, ...], said: str
) -> None:
    ended = run("model", "fit", *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert said in ended.err


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{}", b"GGUF", b"GGUF" + bytes(30)])
def test_a_file_that_is_neither_is_refused(run: Shell, tmp_path: Path, data: bytes) -> None:
    path = write_file(tmp_path, "odd.json", data)
    ended = run("model", "fit", path, "--on", "a3")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "odd.json" in ended.err


def test_the_catalogue_is_listed_and_one_model_shown_with_its_sources(run: Shell) -> None:
    listed = run("model", "catalog").out
    assert all(key in listed for key in models())
    assert {item["id"] for item in run("model", "catalog", "--json").value} == set(models())
    shown = run("model", "catalog", "deepseek-ai/DeepSeek-V3.2")
    for words in (
        "latent attention of 128 heads, rank 512+64, an indexer chooses 2048 tokens",
        "671.88B, 37.48B active",
        "--reasoning-parser deepseek_v3 --tool-call-parser deepseek_v32 --tokenizer-mode deepseek_v32",
        "switch by thinking, off unasked",
        "none ships",
        "source        https://",
    ):
        assert words in shown.out
    value = run("model", "catalog", "deepseek-v4-pro", "--json").value
    assert value["shape"]["compressed"]["indexer"]["top"] == 1024
    assert all(source.startswith(("https://", "arXiv:")) for source in value["sources"])


@pytest.mark.parametrize("name", sorted(models()))
def test_every_model_can_be_shown(run: Shell, name: str) -> None:
    assert models()[name].title in run("model", "catalog", name).out

"""The models' data: sourced, consistent, and equal to what was published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support import facts

from daulat.catalog import models as catalogue
from daulat.catalog import tables
from daulat.catalog.accelerators import hardware
from daulat.catalog.counting import active, mtp_parts, parts
from daulat.catalog.models import ModelSpec, find, implied_precision, models, parse
from daulat.errors import ConfigError, NotFound
from daulat.planner import memory
from daulat.planner.fit import fit
from daulat.planner.layout import Layout

SPECS = list(models().values())
# Published rounded to one digit, as "1T": within half of that digit.
ROUNDED = {spec.id: 0.03 for spec in SPECS if spec.id.startswith("kimi")} | {"qwen3-1.7b": 0.03}
# Rounded, and with the vision tower, which is not counted here: 0.4 to 0.9 thousand millions.
ROUNDED |= {"llama-4-scout": 0.012, "mistral-small-3.2": 0.02, "gemma-3-4b": 0.031, "gemma-3-12b": 0.02}


def numbered(table: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table that holds a number, or a list of them, with its path."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from numbered(value, f"{path}.{key}")
    values = [item for value in table.values() for item in (value if isinstance(value, list) else [value])]
    if any(isinstance(item, int | float) and not isinstance(item, bool) for item in values):
        yield path, table


@pytest.mark.parametrize("folder", ["model", "accelerator"])
def test_every_number_has_its_source_beside_it(folder: str) -> None:
    checked = 0
    for name, top in tables.files(folder).items():
        for path, table in numbered(top, name):
            # A chip's FLOPS by type are one table of the chip's own: its source is the chip's.
            holder = table if not path.endswith(".flops") else chip_of(top, path)
            source = holder.get("source")
            assert isinstance(source, str), path
            assert source.startswith(("https://", "arXiv:", "npu-smi", "npu-arch-guide")), path
            checked += 1
    assert checked > 20


def chip_of(top: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = top["chip"][path.split(".chip.")[1].removesuffix(".flops")]
    return found


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_parameters_counted_from_the_architecture_are_those_published(spec: ModelSpec) -> None:
    assert spec.parameters is not None
    counted = parts(spec.shape).total / 1e9
    with_mtp = counted + mtp_parts(spec.shape).total / 1e9
    published = spec.parameters.total
    apart = min(abs(counted - published), abs(with_mtp - published)) / published
    assert apart <= ROUNDED.get(spec.id, 0.01), (counted, with_mtp, published)
    # Active counts are published rounded, and not all count the embedding.
    embedding = parts(spec.shape).embedding / 1e9
    low, high = active(spec.shape) / 1e9, active(spec.shape) / 1e9 + embedding
    assert low - 0.6 <= spec.parameters.active <= high + 0.6 or abs(low / spec.parameters.active - 1) < 0.12


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    # Sizes of the published weight files. Sources: Hugging Face's file lists as quoted in vLLM's recipes and in
    # DeepSeek-V3's README_WEIGHTS (671B + 11.5B of MTP in FP8, about 689 GB).
    [("deepseek-v3", 689), ("deepseek-v4-flash", 160), ("gpt-oss-120b", 65), ("deepseek-r1-distill-llama-8b", 16.1)],
)
def test_weights_computed_are_near_the_size_of_the_published_files(name: str, gigabytes: float) -> None:
    spec = find(name)
    assert memory.whole(spec.shape, spec.precision(spec.native)) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_the_kv_cache_of_deepseeks_models_is_what_their_papers_say() -> None:
    def token(name: str, precision: str = "bf16") -> float:
        return memory.kv(find(name).shape, precision, Layout(1, 1), drafts=False).token

    assert token("deepseek-v3") == 70_272  # (512 + 64) x 2 bytes x 61 layers
    assert token("deepseek-v2-lite") == 31_104
    assert token("deepseek-v3", "fp8") == 656 * 61  # FlashMLA's layout
    assert token("deepseek-v3.2") == 70_272 + 128 * 2 * 61
    assert token("llama-3.1-70b") == 327_680
    # DeepSeek-V4's model card: at a million tokens a tenth of V3.2's cache.
    assert token("deepseek-v4-pro") / token("deepseek-v3.2") < 0.12


def test_layers_that_see_everything_may_have_heads_of_their_own() -> None:
    """Gemma 4: 25 of 30 layers keep 1,024 tokens of 8 heads, 5 keep every token of 2 heads twice as wide."""
    shape = find("gemma-4-26b-a4b").shape
    cost = memory.kv(shape, "bf16", Layout(1, 1))
    assert cost.token == 5 * 2 * 2 * 512 * 2
    assert cost.sequence == 25 * 1024 * 2 * 8 * 256 * 2
    divided = memory.kv(shape, "bf16", Layout(4, 1))
    assert (divided.token, divided.sequence) == (cost.token / 2, cost.sequence / 4)


NEIGHBOURS = ["glm-4.5", "glm-4.5-air", "glm-4.6", "glm-4.7", "glm-5", "llama-4-scout", "llama-4-maverick"]
NEIGHBOURS += ["gemma-3-27b", "gemma-4-31b", "mistral-large-3", "mistral-small-3.2", "gpt-oss-20b", "gpt-oss-120b"]
NEIGHBOURS += ["kimi-k2", "kimi-k2-thinking", "qwen3-32b", "qwen3.5-397b-a17b", "qwen3-coder-480b-a35b", "phi-4"]
NEIGHBOURS += ["qwen3-next-80b-a3b", "minimax-m2", "gemma-sea-lion-v4-27b", "malaysian-llama-3.2-3b"]


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_open_neighbours_are_there_and_fit_somewhere(name: str) -> None:
    spec = find(name)
    assert any(fit(spec, hardware(on)).fits for on in ("a3", "8xH200", "cpu:64GiB"))


def test_deepseeks_whole_line_is_there() -> None:
    wanted = ["v2-lite", "v3", "r1", "r1-0528", "v3.1", "v3.2", "v4-flash", "v4-pro"]
    wanted += [
        f"r1-distill-{size}" for size in ("qwen-1.5b", "qwen-7b", "qwen-14b", "qwen-32b", "llama-8b", "llama-70b")
    ]
    assert {f"deepseek-{name}" for name in wanted} <= set(models())


def test_models_are_found_by_id_title_and_repository_whatever_the_capitals() -> None:
    assert find("DeepSeek-R1").id == find("deepseek-ai/deepseek-r1").id == find("deepseek-r1").id == "deepseek-r1"
    assert find("Eco-Tech/DeepSeek-V4-Pro-w4a8-mtp").id == "deepseek-v4-pro"


@pytest.mark.parametrize(
    ("name", "model", "precision"),
    [
        ("Eco-Tech/Qwen3-32B-w8a8c8", "qwen3-32b", "w8a8"),
        ("vllm-ascend/Qwen3-30B-A3B-quantized.w4a8", "qwen3-30b-a3b", "w4a8"),
        ("someone/DeepSeek-V3.2-AWQ", "deepseek-v3.2", "int4"),
        ("Eco-Tech/GLM-5.2-w8a8", "glm-5.2", "w8a8"),
    ],
)
def test_others_quantisations_of_a_known_model_are_recognised(name: str, model: str, precision: str) -> None:
    assert (find(name).id, implied_precision(name)) == (model, precision)


@pytest.mark.parametrize("name", ["acme/Qwen3-32B-tuned", "deepseek-v3-w8a8-of-mine", "acme/-w8a8", "w8a8", "/"])
def test_a_name_that_only_begins_like_a_model_is_not_taken_for_it(name: str) -> None:
    with pytest.raises(NotFound):
        find(name)


def test_an_unknown_model_is_refused_with_names_that_are_near() -> None:
    with pytest.raises(NotFound, match=r"near it: deepseek-v3"):
        find("deepseek-v33-exp-v3")


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("Eco-Tech/DeepSeek-V4-Pro-w4a8-mtp", "w4a8"),
        ("Eco-Tech/DeepSeek-V3.1-Terminus-w8a8-mtp-QuaRot", "w8a8"),
        ("unsloth/DeepSeek-V3.1-BF16", "bf16"),
        ("vllm-ascend/Qwen3-32B-w8a8sc-310-vllm-tp4", "w8a8"),
        ("Eco-Tech/GLM-5.1-w8a8c8", "w8a8"),
        ("Qwen/Qwen3-32B-AWQ", "int4"),
        ("deepseek-ai/DeepSeek-R1", ""),
        ("deepseek-r1", ""),
    ],
)
def test_a_checkpoints_name_implies_its_precision(name: str, precision: str) -> None:
    assert implied_precision(name) == precision


def test_switches_and_parsers_of_deepseek_are_those_of_each_version() -> None:
    thinking = {
        name: find(name).thinking for name in ("deepseek-v3", "deepseek-r1", "deepseek-v3.1", "deepseek-v4-pro")
    }
    kinds = {name: value.kind for name, value in thinking.items() if value is not None}
    assert kinds == {
        "deepseek-v3": "never",
        "deepseek-r1": "always",
        "deepseek-v3.1": "switch",
        "deepseek-v4-pro": "switch",
    }
    assert find("deepseek-v3.2").parsers["vllm"].tokenizer_mode == "deepseek_v32"
    template = find("deepseek-v4-flash").template
    assert template is not None
    assert not template.ships


MODEL: dict[str, Any] = {
    "title": "T", "family": "f", "architecture": "A", "shape": "s", "aliases": [], "licence": "mit", "context": 8,
    "native": "bf16", "source": "https://x", "parameters": {"total": 1, "active": 1, "source": "https://x"},
    "weights": {"bf16": {"checkpoint": "o/T", "source": "https://x"}},
    "thinking": {"kind": "never", "source": "https://x"}, "template": {"ships": True, "source": "https://x"},
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "layers": 2, "dense_layers": 2, "dense_hidden": 8, "hidden": 4, "vocabulary": 10, "source": "https://x",
    "grouped": {"heads": 2, "kv_heads": 1, "head": 2, "source": "https://x"},
}  # fmt: skip


def test_a_small_catalogue_is_read() -> None:
    (spec,) = parse({"f.toml": {"shape": {"s": SHAPE}, "model": {"t": MODEL}}}).values()
    # embedding and head 2 x 40; a layer: q 16, kv 16, o 16, MLP 96, norms 8; the last norm 4
    assert parts(spec.shape).total == 80 + 2 * (16 + 16 + 16 + 96 + 8) + 4
    assert spec.sources == ("https://x",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": "q"}, r"f.toml, \[model.t\]: shape 'q' is not defined; defined are \['s'\]"),
        ({"native": "fp7"}, r"unknown precisions \['fp7'\]"),
        ({"native": "fp8"}, "no checkpoint in the native precision 'fp8'"),
        ({"thinking": {"kind": "perhaps", "source": "x"}}, r"\[thinking\]: kind is 'perhaps', expected one of never"),
        ({"thinking": {"kind": "switch", "source": "x"}}, "argument names the switch"),
        ({"context": "8"}, "context is '8', expected a whole number"),
    ],
)
def test_a_wrong_entry_is_refused_with_file_entry_and_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse({"f.toml": {"shape": {"s": SHAPE}, "model": {"t": {**MODEL, **change}}}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grouped": None}, "exactly one of grouped, latent and compressed"),
        ({"dense_layers": 1}, "without experts all 2 layers are dense"),
        ({"dense_hidden": 0}, "dense layers need dense_hidden"),
        ({"layers": 0, "dense_layers": 0}, "at least 1"),
        ({"grouped": {"heads": 3, "kv_heads": 2, "head": 2, "source": "x"}}, "3 heads cannot share 2"),
        (
            {"experts": {"routed": 4, "active": 5, "shared": 0, "hidden": 2, "shared_hidden": 0, "source": "x"}},
            "5 of 4",
        ),
    ],
)
def test_a_shape_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    table = {key: value for key, value in {**SHAPE, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        parse({"f.toml": {"shape": {"s": table}}})


def test_two_models_cannot_have_one_name() -> None:
    with pytest.raises(ConfigError, match="'o/t' names both t and u"):
        parse({"f.toml": {"shape": {"s": SHAPE}, "model": {"t": MODEL, "u": {**MODEL, "title": "U"}}}})
    with pytest.raises(ConfigError, match="'t' stands there twice"):
        parse({"f.toml": {"shape": {"s": SHAPE}, "model": {"t": MODEL}}, "g.toml": {"model": {"t": MODEL}}})
    with pytest.raises(ConfigError, match=r"unknown tables \['models'\]"):
        parse({"f.toml": {"models": {}}})


def test_the_public_table_of_models_says_the_same() -> None:
    by_name = {"DeepSeek-V3 / R1 / V3.1": "deepseek-v3"}
    checked = 0
    for row in facts.rows("models.csv"):
        name = by_name.get(row["model"], row["model"])
        spec = find(name if not name.startswith("R1-Distill") else f"DeepSeek-{name}")
        shape = spec.shape
        assert shape.layers == int(row["layers"]), name
        assert shape.hidden == int(row["hidden"]), name
        assert shape.vocabulary == int(row["vocab"]), name
        assert spec.context == int(row["max_pos"]), name
        assert parts(shape).total / 1e9 == pytest.approx(float(row["total_params_b"].split()[0]), rel=0.018), name
        if row["kv_bytes_per_token_bf16"].isdigit():
            token = memory.kv(shape, "bf16", Layout(1, 1), drafts=False).token
            assert token == int(row["kv_bytes_per_token_bf16"]), name
        if "recalled" in row["source"]:
            assert "recalled" in spec.confidence, name
        checked += 1
    if not checked:
        facts.folder("models.csv")
    assert checked >= 12


def test_the_catalogue_is_read_once() -> None:
    assert catalogue.models() is catalogue.models()

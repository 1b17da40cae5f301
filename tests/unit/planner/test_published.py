"""Deployments that were published are found to fit, those known to be impossible are refused with the right reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support import facts

from daulat.catalog.accelerators import Hardware, hardware
from daulat.catalog.models import find, implied_precision, models
from daulat.planner import layout
from daulat.planner.fit import Fit, Wish, fit


@dataclass(frozen=True)
class Deployment:
    """As published: the layout within one group of devices, 0 where it was not told."""

    model: str
    on: str
    nodes: int
    tensor: int = 0
    data: int = 0
    context: int = 0
    batched: int = 8192
    precision: str = ""

    def hardware(self) -> Hardware:
        found = hardware(self.on)
        return found.with_nodes(self.nodes) if self.nodes else found

    def name(self) -> str:
        return f"{self.model}-{self.on}x{self.nodes}-TP{self.tensor}"

    def found(self) -> tuple[str, list[str]]:
        """The published layout, and all that the planner offers when it is not told one."""
        free = dataclasses.replace(self, tensor=0, data=0).planned()
        offered = [free.plan, *free.others] if free.plan else []
        told = layout.layout(find(self.model).shape, tensor=self.tensor, data=self.data)
        return str(told), [str(plan.layout) for plan in offered]

    def planned(self) -> Fit:
        spec, where = find(self.model), self.hardware()
        wanted = layout.layout(spec.shape, tensor=self.tensor, data=self.data) if self.tensor else None
        context = min(self.context, spec.context)
        precision = self.precision or implied_precision(self.model)
        return fit(spec, where, Wish(precision, context, layout=wanted, batched=self.batched))


R1, V31 = "vllm-ascend/DeepSeek-R1-0528-W8A8", "Eco-Tech/DeepSeek-V3.1-Terminus-w8a8-mtp-QuaRot"
V32, PRO = "vllm-ascend/DeepSeek-V3.2-W8A8", "Eco-Tech/DeepSeek-V4-Pro-w4a8-mtp"
FLASH = "Eco-Tech/DeepSeek-V4-Flash-w8a8-mtp"
# vllm-ascend's public nightly and weekly configurations for DeepSeek (commit 182b75e, tests/e2e): prefill and decode
# pools of a disaggregated deployment are two rows. Then its model pages, and vLLM's recipes.
DEPLOYMENTS = [
    Deployment(R1, "a3", 1, 8, 2, 36_864),
    Deployment(R1, "a3", 1, 8, 2, 40_960),
    Deployment(R1, "a3", 2, 1, 32, 36_864, 256),
    Deployment("unsloth/DeepSeek-V3.1-BF16", "a3", 2, 8, 4, 8_192, 4_096),
    Deployment(V31, "a3", 1, 8, 2, 40_000, 16_384),
    Deployment(V31, "a3", 1, 8, 2, 135_000, 1_024),
    Deployment(V31, "a3", 2, 1, 32, 40_000, 256),
    Deployment(V32, "a3", 1, 8, 2, 67_000, 4_096),
    Deployment(V32, "a3", 2, 16, 2, 133_000),
    Deployment(V32, "a3", 2, 4, 8, 133_000, 42),
    Deployment(FLASH, "a3", 1, 4, 4, 1_048_576, 10_240),
    Deployment(FLASH, "a3", 1, 1, 16, 1_048_576, 240),
    Deployment(PRO, "a3", 2, 16, 2, 1_048_576, 2_048),
    Deployment(PRO, "a3", 2, 8, 4, 204_800, 4_096),
    Deployment(PRO, "a3", 2, 2, 16, 204_800, 120),
    Deployment(R1, "a2", 2),
    Deployment(FLASH, "a2", 1),
    Deployment(PRO, "a2", 4),
    Deployment("Eco-Tech/Kimi-K2.5-W4A8", "a3", 1, 4, 4),
    Deployment("moonshotai/Kimi-K2-Thinking", "a3", 1, 16, 1),
    Deployment("Eco-Tech/GLM-5.1-w8a8", "a2", 2),
    Deployment("vllm-ascend/Qwen3-32B-w8a8sc-310-vllm-tp4", "310Px4", 1, 4, 1, 1_024),
    Deployment("deepseek-ai/DeepSeek-V3", "8xH200", 1, 8, 1, precision="fp8"),
    Deployment("nvidia/DeepSeek-R1-0528-NVFP4-v2", "8xB200", 1),
    Deployment("deepseek-ai/DeepSeek-V4-Pro", "8xB200", 1, precision="fp4"),
    Deployment("openai/gpt-oss-120b", "1xH100", 1),
    # Published results: DeepSeek's own (H800), CloudMatrix-Infer (arXiv:2506.12708), xDeepServe (arXiv:2508.02520),
    # SGLang's large-scale reports (H100, GB200, GB300), InferenceX (B200, MI355X). Two dies are two devices.
    Deployment("deepseek-r1", "H800x32", 0, context=4_096, precision="fp8"),
    Deployment("deepseek-r1", "H800x144", 0, 1, 144, 4_989, 256, "fp8"),
    Deployment("deepseek-r1", "H100x72", 0, 1, 72, 4_000, 256, "fp8"),
    Deployment("deepseek-r1", "910Cx32", 0, context=4_096, precision="w8a8"),
    Deployment("deepseek-r1", "910Cx320", 0, 1, 320, 4_096, 256, "w8a8"),
    Deployment("deepseek-r1", "910Cx288", 0, 1, 288, 3_000, 256, "w8a8"),
    Deployment("deepseek-v3", "GB200x72", 0, context=2_000, precision="nvfp4"),
    Deployment("deepseek-v3", "GB200x72", 0, context=2_000, precision="fp8"),
    Deployment("deepseek-v3", "GB200x8", 0, context=2_000, precision="nvfp4"),
    Deployment("deepseek-v3.2", "H20x8", 0, context=2_048, precision="fp8"),
    Deployment("deepseek-r1", "1xgb300-nvl72", 0, precision="nvfp4"),
    Deployment("deepseek-r1", "B200x16", 0, context=8_000, precision="fp8"),
    Deployment("deepseek-v4-pro", "MI355Xx8", 0, context=8_000, precision="fp4"),
    # The gates of vllm-ascend's nightly and weekly runs: what they ask for with one node or a part of one.
    Deployment("Eco-Tech/Kimi-K2.5-W4A8", "910Cx16", 0, 4, 4, 132_096, 4_096),
    Deployment("Eco-Tech/Kimi-K2.6-w4a8", "910Cx16", 0, 16, 1, 261_120, 4_096),
    Deployment("Eco-Tech/MiniMax-M2.5-w8a8-QuaRot", "910B3x8", 0, 8, 1, 5_000, 4_096),
    Deployment("vllm-ascend/MiniMax-M2.7-w8a8-QuaRot", "910Cx16", 0, 8, 2, 204_762, 4_096),
    Deployment("vllm-ascend/Qwen3-30B-A3B-W8A8", "910Cx1", 0, 1, 1, 5_000, 4_096),
    Deployment("vllm-ascend/Qwen3-32B-W8A8", "910B3x4", 0, 4, 1, 5_000, 4_096),
    Deployment("vllm-ascend/Qwen3-14B-w8a8sc-310-vllm-tp1", "310Px1", 0, 1, 1, 1_024, 4_096),
    Deployment("Eco-Tech/Qwen3.5-397B-A17B-w4a8-mtp", "910B3x8", 0, 8, 1, 5_000, 4_096),
    Deployment("Eco-Tech/Qwen3.5-397B-A17B-w8a8-mtp", "910Cx16", 0, 16, 1, 132_096, 4_096),
    Deployment("Eco-Tech/Qwen3.5-122B-A10B-w8a8-mtp", "910Cx4", 0, 4, 1, 66_560, 4_096),
    Deployment("Eco-Tech/Qwen3.8-27B-w8a8", "910Cx2", 0, 2, 1, 132_096, 4_096),
    Deployment("Eco-Tech/GLM-5.2-w8a8c8", "a3", 2, context=132_096),
    Deployment("Eco-Tech/GLM-5.1-w8a8", "a2", 2, context=5_000),
    Deployment("Qwen/Qwen3-235B-A22B", "a2", 2, context=5_000),
    Deployment("Eco-Tech/GLM-4.7-W8A8-floatmtp", "a3", 1, 8, 2, 8_192),
    Deployment("google/gemma-4-31B-it", "910Cx4", 0, 4, 1, 32_768),
    Deployment("google/gemma-4-26B-A4B-it", "910Cx4", 0, 4, 1, 32_768),
    Deployment("Qwen/Qwen3-Next-80B-A3B-Instruct", "a2", 1),
    Deployment("zai-org/GLM-4.5-FP8", "8xH200", 1, precision="fp8"),
    Deployment("zai-org/GLM-4.5", "8xH200", 1, precision="bf16"),
    Deployment("mistralai/Mistral-Large-3-675B-Instruct-2512", "8xH200", 1, 8, 1, 262_144, precision="fp8"),
    Deployment("nvidia/Llama-4-Scout-17B-16E-Instruct-NVFP4", "1xB200", 1),
    Deployment("vllm-ascend/MiniMax-M2.7-w8a8-QuaRot", "a3", 3, context=5_000),
]
TOLD = [case for case in DEPLOYMENTS if case.tensor]


@pytest.mark.parametrize("case", DEPLOYMENTS, ids=Deployment.name)
def test_a_published_deployment_fits(case: Deployment) -> None:
    found = case.planned()
    assert found.fits, found.reasons


@pytest.mark.parametrize("case", TOLD, ids=Deployment.name)
def test_a_published_layout_is_among_those_offered(case: Deployment) -> None:
    told, offered = case.found()
    assert told in offered


@pytest.mark.parametrize(
    ("model", "on", "nodes", "precision", "said"),
    [
        ("deepseek-r1", "a2", 1, "bf16", r"in bf16, weights take 1272 GiB of 512 GiB"),
        ("deepseek-r1", "a2", 1, "", r"in w8a8, weights take 638 GiB of 512 GiB"),
        ("deepseek-v3", "310Px8", 1, "", r"no engine we know runs latent attention \(MLA\) on Ascend 310P"),
        ("deepseek-v3", "310Px8", 1, "", r"in w8a8, weights take 638 GiB of 346 GiB"),
        ("deepseek-r1", "a3", 1, "fp8", "does not compute with fp8 weights: it has bf16, fp16, w8a8, w4a8"),
        ("deepseek-v3", "8xH100", 1, "", r"in fp8, weights take \d+ GiB of 637 GiB"),
        ("deepseek-v4-pro", "a3", 1, "", "in w4a8, weights take"),
        ("deepseek-v4-flash", "mi300x", 1, "", "DeepSeek-V4's compressed attention on AMD"),
        ("deepseek-r1", "8xH200", 1, "nvfp4", "NVIDIA H200 SXM does not compute with nvfp4"),
    ],
)
def test_what_is_known_to_be_impossible_is_refused_with_the_reason(
    model: str, on: str, nodes: int, precision: str, said: str
) -> None:
    found = fit(find(model), hardware(on).with_nodes(nodes), Wish(precision))
    assert not found.fits
    assert any(re.search(said, reason) for reason in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("model", "on", "nodes", "published"),
    [
        (R1, "a3", 1, "TP8 DP2 EP16"),
        (R1, "a2", 2, "TP8 DP2 EP16"),
        ("unsloth/DeepSeek-V3.1-BF16", "a3", 2, "TP8 DP4 EP32"),
        (V32, "a3", 1, "TP8 DP2 EP16"),
        (FLASH, "a3", 1, "TP4 DP4 EP16"),
        (PRO, "a3", 2, "TP8 DP4 EP32"),
        ("Eco-Tech/Kimi-K2.5-W4A8", "a3", 1, "TP4 DP4 EP16"),
        ("vllm-ascend/Qwen3-32B-W8A8", "910B3x4", 1, "TP4"),
        ("vllm-ascend/Qwen3-235B-A22B-W8A8", "a3", 1, "TP4 DP4 EP16"),
        ("Eco-Tech/MiniMax-M2.5-w8a8-QuaRot", "a2", 1, "TP8 EP8"),
        ("deepseek-ai/DeepSeek-V3", "8xH200", 1, "TP8 EP8"),
    ],
)
def test_the_layout_chosen_is_the_one_published(model: str, on: str, nodes: int, published: str) -> None:
    found = Deployment(model, on, nodes).planned()
    assert found.plan is not None
    if model == "vllm-ascend/Qwen3-32B-W8A8":  # narrower weights: TP2 would do, and TP4 is among the others
        assert published in {str(plan.layout) for plan in (found.plan, *found.others)}
    else:
        assert str(found.plan.layout) == published


# From here on, public material where it is at hand: every row of it.

_CHIPS = {
    "Atlas 800 A3 (910C dies)": "910C", "Atlas 800 A3 (752T)": "910C", "Atlas 800 A2 (910B)": "910B3", "310P": "310P",
    "Ascend 910C (2 dies)": "910C", "Ascend 910C": "910C", "910C": "910C", "H20": "H20", "H100": "H100",
    "H100 node (8 GPU)": "H100", "H800": "H800", "H800 node (8 GPU)": "H800", "H200": "H200", "B200": "B200",
    "GB200": "GB200", "GB300": "GB300", "GB300 NVL72": "GB300", "4x GB300 NVL72": "GB300", "MI355X": "MI355X",
    "16 Ascend servers": "910C",
}  # fmt: skip
_PRECISIONS = {
    "fp8": "fp8", "int8": "w8a8", "w8a8": "w8a8", "w4a8": "w4a8", "bf16": "bf16", "nvfp4": "nvfp4", "fp4": "fp4",
    "fp8 attn + nvfp4 moe": "nvfp4", "bf16 attn + fp8": "fp8", "nvfp4/fp8": "nvfp4", "fp8/fp4": "fp8", "": "",
}  # fmt: skip
_TOKENS = {"1M": 1_048_576, "128k": 131_072, "": 0}


def chips(name: str, count: int) -> str:
    return f"{name}x{count}" if name != "GB300" or count % 72 else f"{count // 72}xgb300-nvl72"


def results() -> Iterator[tuple[str, Deployment]]:
    """The published results that are of a model, not of an operator. Per-device figures tell the devices as EP."""
    for number, row in enumerate(facts.rows("published-results.csv"), 2):
        chip, model = _CHIPS.get(row["hardware"]), re.sub(r"^DeepSeek$|/(V3|R1)$", "", row["model"]) or "DeepSeek-R1"
        if chip is None or row["metric"].endswith("latency") or "shapes" in model or model in {"-", "MLA", "GEMM"}:
            continue
        spread = re.search(r"EP(\d+)", row["parallelism"])
        told = int(row["n_devices"])
        # Every chip of CloudMatrix has two dies; a figure for one device alone is of a group that is not told.
        count = int(spread[1]) if spread else told * 2 if chip == "910C" and "Ascend" in row["hardware"] else told
        if count == 1 and row["metric"].startswith(("throughput_per", "efficiency")):
            count = 72 if chip in {"GB200", "GB300"} else 8
        count = -(-count // 16) * 16 if chip == "910C" and count > 16 else count
        length = _TOKENS.get(row["input_len"], 0) or int(row["input_len"] or 0)
        decode = row["phase"] == "decode"
        precision = _PRECISIONS.get(row["precision"], row["precision"])
        tensor, data = (1, count) if decode and spread else (0, 0)
        yield (
            f"line {number}: {model} on {count} x {chip}",
            Deployment(model, chips(chip, count), 0, tensor, data, length, 256 if decode else 8192, precision),
        )


def baselines() -> Iterator[tuple[str, Deployment]]:
    """vllm-ascend's gates. Where only nodes are told, each half of them holds the model (prefill and decode apart)."""
    for number, row in enumerate(facts.rows("vllm-ascend-nightly-baselines.csv"), 2):
        lower = row["file"].lower()
        chip = "310P" if "310p" in lower else "910B3" if re.search(r"a2[-.]|a2$", lower) else "910C"
        tensor, data = int(row["tp"] or 0), int(row["dp"] or 1)
        length = re.search(r"in_?(\d+)(k|M)?", row["dataset"])
        scale = {"k": 1024, "M": 1_048_576, None: 1}
        context = int(length[1]) * scale[length[2]] + int(row["max_out_len"]) if length else 0
        if row["num_nodes"]:
            nodes = max(int(row["num_nodes"]) // (2 if "PD" in row["file"] or "pd" in row["file"] else 1), 1)
            case = Deployment(row["model"], "a2" if chip == "910B3" else "a3", nodes, context=context)
        else:
            case = Deployment(row["model"], f"{chip}x{tensor * data}", 0, tensor, data, context, 4096)
        yield f"line {number}: {row['model']} {row['file'][:60]}", case


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in [*results(), *baselines()]])
def test_every_published_row_is_found_to_fit(case: Deployment) -> None:
    found = case.planned()
    assert found.fits, found.reasons


PUBLISHED = [(name, case) for name, case in [*results(), *baselines()] if case.tensor]


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in PUBLISHED])
def test_every_published_layout_is_among_those_offered(case: Deployment) -> None:
    told, offered = case.found()
    assert told in offered


def groups(path: Path) -> Iterator[Deployment]:
    """The layouts of one of vllm-ascend's configurations: each group of equal tensor and data width."""
    text = path.read_text()
    model = re.findall(r'^\s*(?:- )?model: "?([^"\n]+)', text, re.MULTILINE)[0]

    def numbers(flag: str) -> list[int]:
        return [int(value) for value in re.findall(rf'--{flag}"?[\s\-]*"?(\d+)', text)]

    data = numbers("data-parallel-size") or [
        int(value) for value in re.findall(r"^\s+dp_size: (\d+)", text, re.MULTILINE)
    ]
    tensor = numbers("tensor-parallel-size") or [
        int(value) for value in re.findall(r"^\s+tp_size: (\d+)", text, re.MULTILINE)
    ]
    context = min(numbers("max-model-len"))
    batched = numbers("max-num-batched-tokens")
    assert len(data) == len(tensor) > 0, path.name
    for wide, many in dict.fromkeys(zip(tensor, data, strict=True)):
        # The pools of one file differ in tokens a step; decode pools, of few, are the narrow ones.
        step = min(batched) if wide < max(tensor) else max(batched)
        yield Deployment(model, f"910Cx{wide * many}", 0, wide, many, context, step)


CONFIGURATIONS = sorted(facts.FOLDER.glob("vllm-ascend-configs/*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_every_public_configuration_of_deepseek_fits_with_its_own_layout(path: Path) -> None:
    for case in groups(path):
        found = case.planned()
        assert found.fits, (case, found.reasons)
        told, offered = case.found()
        assert told in offered, case


def test_the_public_material_is_whole_where_it_is_at_hand() -> None:
    facts.folder("vllm-ascend-configs")
    assert len(CONFIGURATIONS) >= 20
    assert len(list(results())) >= 50
    assert len(list(baselines())) >= 90
    assert all(spec.weights for spec in models().values())

"""What `daulat model recipe` launches, `daulat model fit` says has room; and the other way round."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.support.recipes import recipe, site, value

from daulat.catalog import accelerators, models
from daulat.catalog.accelerators import Hardware
from daulat.catalog.models import ModelSpec
from daulat.engines.recipes.layout import SURE
from daulat.engines.recipes.recipe import Recipe, Workload
from daulat.errors import ConfigError
from daulat.pipeline import recipes
from daulat.planner import fit
from daulat.planner.fit import LEAST_CONTEXT, Wish
from daulat.planner.layout import layout

NODES = accelerators.accelerators().nodes
WHERE = [*NODES, *(f"2x {node.id}" for node in NODES.values() if node.nodes == 1)]
WHERE += ["1xH100", "4xH200", "2x910B3", "4x910C", "cpu:16GiB", "cpu:512GiB"]
OTHER_REASONS = (  # a model fits there, and yet no recipe launches it: none of these is about memory
    r"experts do not spread over \d+ devices",
    r"vLLM-Ascend on Atlas 300I Duo serves models with grouped-query attention on one node",
    r"vLLM-Ascend on Atlas 950 takes weights of its own",
    r"only in \d+ pipeline stages, for which there are no recipes",
)


def launched(model: ModelSpec, hardware: Hardware, engine: str | None = None) -> Recipe | str:
    """The recipe with nothing wished for, or why there is none."""
    try:
        return recipes.recipe(model, hardware, workload=Workload(), site=site(hardware.nodes), engine=engine)
    except ConfigError as error:
        return str(error)


def has_room(found: Recipe, model: ModelSpec, hardware: Hardware) -> None:
    for group in found.groups:
        nodes = len(group.nodes)
        used = replace(hardware, nodes=nodes, devices=group.devices // nodes)
        planned = replace(layout(model.shape, tensor=group.tp, data=group.dp), context=group.dcp)
        plan, why = fit.one(model, used, found.precision, planned, Wish())
        assert why == "", f"{model.id} on {hardware}"
        assert plan.longest >= LEAST_CONTEXT


@pytest.mark.parametrize("on", WHERE)
def test_a_recipe_and_the_planner_agree_on_every_model(on: str) -> None:
    hardware = accelerators.hardware(on)
    for model in models.models().values():
        planned, found = fit.fit(model, hardware), launched(model, hardware)
        if isinstance(found, Recipe):
            assert planned.fits, f"{model.id}: {planned.reasons}"
            if hardware.chip.vendor != "cpu":
                has_room(found, model, hardware)
        elif planned.fits:
            assert any(re.search(reason, found) for reason in OTHER_REASONS), f"{model.id}: {found}"


@pytest.mark.parametrize("engine", ["sglang", "mindie", "vllm"])
def test_no_engines_recipe_launches_what_has_no_room(engine: str) -> None:
    made = 0
    for on in ("a2", "a3", "2x a2", "8xH100", "2x hgx-h200", "8x-mi300x"):
        hardware = accelerators.hardware(on)
        for model in models.models().values():
            found = launched(model, hardware, engine)
            if isinstance(found, Recipe):
                has_room(found, model, hardware)
                made += 1
    assert made > 50


@pytest.mark.parametrize(
    ("model", "on", "nodes", "said"),
    [
        (
            "deepseek-v4-pro",
            "a3",
            1,
            "58.8 GiB on the fullest device (TP16 EP16), where 54.9 GiB may be used. Instead: 2",
        ),
        ("deepseek-v4-pro", "a2", 2, "DeepSeek-V4-Pro does not fit on 2 x Atlas 800"),
        ("deepseek-v4-flash", "8x-mi300x", 1, "no engine we know runs DeepSeek-V4's compressed attention"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_planners_reasons_and_advice(
    model: str, on: str, nodes: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        recipe(model, on, nodes)


@pytest.mark.parametrize(
    ("model", "on", "nodes", "precision"),
    [
        ("deepseek-v3.1", "a2", 1, "w4a8"),
        ("qwen3-235b-a22b", "a2", 1, "w8a8"),
        ("glm-5", "a2", 2, "w8a8"),
        ("glm-5", "a3", 1, "w8a8"),
        ("glm-5", "8xH200", 1, "fp8"),
        ("llama-3.1-405b", "8xH100", 1, "fp8"),
        ("gpt-oss-120b", "a2", 1, "bf16"),
        ("gpt-oss-120b", "a3", 1, "bf16"),
    ],
)
def test_the_precision_is_the_one_that_fits(model: str, on: str, nodes: int, precision: str) -> None:
    assert recipe(model, on, nodes).precision == precision


def test_a_precision_that_was_asked_for_stays_and_is_refused_with_the_one_that_would_fit() -> None:
    with pytest.raises(
        ConfigError, match=r"in w8a8, weights take 638 GiB of 512 .*on the same hardware it fits in w4a8"
    ):
        recipe("deepseek-v3.1", "a2", precision="w8a8")
    assert recipe("qwen3-235b-a22b", "a3", precision="bf16").precision == "bf16"


def test_weights_that_nobody_published_are_said_to_be_so() -> None:
    for on in ("a2", "8x-mi300x"):
        assert "No published weights in bf16" in " ".join(note.text for note in recipe("gpt-oss-120b", on).notes)
    assert "No published" not in " ".join(note.text for note in recipe("qwen3-32b", "8xH100").notes)


def test_a_context_that_was_not_asked_for_is_as_long_as_there_is_room_and_one_that_was_is_refused() -> None:
    found = recipe("llama-3.1-405b", "8xH100", engine="vllm")
    assert LEAST_CONTEXT <= found.context <= 131_072
    assert value(found.processes[0].argv, "--max-model-len") == str(found.context)
    with pytest.raises(ConfigError, match=r"does not fit|on the same hardware it fits with a context of up to"):
        recipe("llama-3.1-405b", "8xH100", context=131_072, precision="bf16")


@pytest.mark.parametrize(
    "model", ["llama-3.1-405b", "glm-4.5-air", "deepseek-v4-pro", "deepseek-r1", "qwen3-coder-480b-a35b"]
)
def test_the_engine_may_take_as_much_of_the_memory_as_the_context_needs(model: str) -> None:
    spec = models.find(model)
    for on in ("8xH100", "8xH200", "a3", "2x a3", "2x a2", "hgx-b200"):
        hardware = accelerators.hardware(on)
        found = launched(spec, hardware)
        if isinstance(found, str):
            continue
        (group,) = found.groups
        used = replace(hardware, nodes=len(group.nodes), devices=group.devices // len(group.nodes))
        planned = replace(layout(spec.shape, tensor=group.tp, data=group.dp), context=group.dcp)
        plan, why = fit.one(spec, used, found.precision, planned, Wish(context=found.context))
        assert why == ""
        argv, flag = found.processes[0].argv, "--gpu-memory-utilization"
        asked = float(value(argv, flag)) if flag in argv else fit.USUAL
        whole = plan.budget / plan.utilisation
        assert plan.used + plan.cost.of(found.context) <= whole * (max(asked, fit.USUAL) + SURE)

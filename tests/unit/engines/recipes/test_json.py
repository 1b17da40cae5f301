"""The JSON form of a recipe: complete, and as its published schema says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.support.recipes import recipe, site

from daulat.engines.recipes import render
from daulat.engines.recipes.recipe import Recipe

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[4] / "docs/recipe.schema.json").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)
CONF = tuple(tuple(f"10.1.{node}.{device}" for device in range(16)) for node in range(2))
RECIPES = {
    "a3": recipe("deepseek-r1", "a3"),
    "apart": recipe("deepseek-v4-flash", "a3", 2, goal="disaggregated"),
    "long": recipe("deepseek-v3.2", "a3", goal="long-context"),
    "pool": recipe("deepseek-v4-flash", "a3", 2, goal="disaggregated", kv_pool="memcache"),
    "310p": recipe("deepseek-r1-distill-qwen-7b", "300i-duo"),
    "mindie": recipe("deepseek-r1", "a3", 2, engine="mindie", where=site(2, device_addresses=CONF)),
    "sglang": recipe("deepseek-r1", "8xH200", engine="sglang", goal="latency"),
    "vllm": recipe("deepseek-v3.1", "8xH200", engine="vllm"),
    "cpu": recipe("deepseek-r1-distill-qwen-1.5b", "cpu:64GiB"),
}


def written(found: Recipe) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(render.text(found, "json"))
    return whole


def parts(schema: Any) -> list[dict[str, Any]]:
    """Every object that the schema describes by its properties."""
    if isinstance(schema, list):
        return [part for item in schema for part in parts(item)]
    if not isinstance(schema, dict):
        return []
    inner = [part for value in schema.values() for part in parts(value)]
    return [schema, *inner] if "properties" in schema and schema.get("type") == "object" else inner


def test_the_schema_is_one_and_demands_every_property_of_every_part() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(parts(SCHEMA)) == 7
    for part in parts(SCHEMA):
        assert part["additionalProperties"] is False
        assert sorted(part["required"]) == sorted(part["properties"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_each_engine_and_kind_is_as_the_schema_says(name: str) -> None:
    CHECK.validate(written(RECIPES[name]))


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_a_recipe_that_lacks_a_part_is_not(key: str) -> None:
    whole = written(RECIPES["apart"])
    del whole[key]
    assert not CHECK.is_valid(whole)


def test_what_the_shell_and_the_container_are_made_of_stands_in_the_json() -> None:
    whole = written(RECIPES["mindie"])
    assert [(file["path"], file["mode"]) for file in whole["files"]]
    assert "/dev/davinci15:/dev/davinci15:rwm" in whole["container"]["devices"]
    assert all(process["argv"] for process in whole["processes"])
    apart = written(RECIPES["apart"])
    assert [(group["role"], group["tp"], group["dp"], group["ep"]) for group in apart["groups"]] == [
        ("prefill", 4, 4, 16),
        ("decode", 1, 16, 16),
    ]


@pytest.mark.parametrize("name", ["a3", "apart", "long", "pool", "310p"])
def test_each_flag_and_variable_of_vllm_ascend_has_its_source_beside_it(name: str) -> None:
    for process in written(RECIPES[name])["processes"]:
        if process["role"] not in ("proxy", "pool"):
            named = {word for word in process["argv"] if word.startswith("--")} | set(process["environment"])
            assert set(process["sources"]) == named
            assert all(process["sources"].values())


def test_a_wish_is_told_from_what_a_public_run_had() -> None:
    wished = written(recipe("deepseek-r1", "a3", context=20000, drafts=2))["processes"][0]["sources"]
    assert wished["--max-model-len"] == "asked for: --context"
    assert wished["--speculative-config"] == "asked for: --drafts"
    own = written(RECIPES["a3"])["processes"][0]["sources"]
    assert own["--max-model-len"].endswith("Deepseek_R1_W8A8_A3.yaml")
    assert own["--tensor-parallel-size"] == "docs/recipes.md, Layout"
    assert "DeepSeek" in own["--reasoning-parser"]
    assert own["HCCL_BUFFSIZE"] == own["--max-model-len"]

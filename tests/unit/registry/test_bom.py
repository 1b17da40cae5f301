"""The bill of materials, against CycloneDX's own schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests.support.model_folders import contents, write

from daulat import registry
from daulat.registry import bom
from daulat.registry.model import ModelFacts

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


@pytest.fixture
def facts(tmp_path: Path) -> ModelFacts:
    return registry.facts(write(tmp_path / "m", contents()))


def test_it_is_valid_and_names_every_file_with_both_hashes(facts: ModelFacts) -> None:
    blake3 = {file.path: "b" * 64 for file in facts.files}
    text = bom.text(facts, facts.files, blake3)
    assert VALIDATOR.validate_str(text) is None
    value = json.loads(text)
    assert (value["bomFormat"], value["specVersion"]) == ("CycloneDX", "1.6")
    hashed = {item["name"]: {one["alg"]: one["content"] for one in item["hashes"]} for item in value["components"]}
    assert hashed == {file.path: {"SHA-256": file.sha256, "BLAKE3": "b" * 64} for file in facts.files}
    model = value["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["licenses"] == [{"license": {"id": "MIT"}}]
    assert model["pedigree"]["ancestors"][0]["name"] == "deepseek-ai/DeepSeek-V3-Base"


@pytest.mark.parametrize(
    "changes",
    [
        {"licence": "deepseek"},
        {"licence": "", "origin": "", "base_model": "", "templates": (), "architecture": ""},
        {"origin": "https://example.org/a b"},
        {"origin": "somebody's disk"},
        {"derived_from": {"digest": "a" * 64, "recipe": "Q4_1 weights to Q8_0"}},
        {"signed_by": "certificate CN=publisher sha256:" + "c" * 64, "embeds": True},
    ],
)
def test_it_is_valid_whatever_is_known_of_the_model(facts: ModelFacts, changes: dict[str, object]) -> None:
    text = bom.text(replace(facts, **changes), facts.files, {})  # type: ignore[arg-type]
    assert VALIDATOR.validate_str(text) is None


def test_the_same_model_has_the_same_bill_to_the_byte(facts: ModelFacts) -> None:
    assert bom.text(facts, facts.files, {}) == bom.text(facts, facts.files, {})
    assert bom.text(facts, facts.files, {}) != bom.text(replace(facts, licence="apache-2.0"), facts.files, {})


def test_the_validator_can_refuse() -> None:
    assert VALIDATOR.validate_str('{"bomFormat": "CycloneDX", "specVersion": "1.6", "wrong": 1}') is not None

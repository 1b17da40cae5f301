"""A deployed engine is told how its model speaks, but for what the operator has said."""

from __future__ import annotations

import pytest

from daulat.catalog import models
from daulat.engines import known
from daulat.engines.recipes.speech import spoken


@pytest.mark.parametrize(
    ("engine", "model", "words"),
    [
        ("vllm", "deepseek-v3.2", "--tokenizer-mode deepseek_v32 --reasoning-parser deepseek_v3 --tool-call-parser"),
        ("vllm-ascend", "deepseek-v4-flash", "--reasoning-parser deepseek_v4 --tool-call-parser deepseek_v4"),
        ("sglang", "deepseek-r1", "--reasoning-parser deepseek-r1 --tool-call-parser deepseekv3"),
    ],
)
def test_an_engine_gets_the_parsers_of_a_known_model(engine: str, model: str, words: str) -> None:
    made = spoken(engine, models.find(model), {"kv_cache_gib": 8})
    assert words in " ".join(made["arguments"])
    assert made["kv_cache_gib"] == 8


def test_what_the_operator_says_is_not_said_twice() -> None:
    given = ["--reasoning-parser=other", "--tool-call-parser", "none"]
    made = spoken("vllm", models.find("deepseek-v3.1"), {"arguments": given})
    assert made["arguments"] == ["--enable-auto-tool-choice", *given]


def test_engines_and_models_that_need_nothing_get_nothing() -> None:
    said = {"kv_cache_gib": 8}
    assert spoken("vllm", None, said) == spoken("vllm", models.find("smollm2-135m-instruct"), said) == said
    others = set(known.ENGINES) - {"vllm", "vllm-ascend", "sglang"}
    assert all(spoken(engine, models.find("deepseek-v3.2"), said) == said for engine in others)

"""Our recipes beside vLLM-Ascend's configurations: those written for these tests, and the public ones where at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support import ascend_configs
from tests.support.ascend_configs import FIXTURES, Case, Difference, Engine

PUBLIC = ascend_configs.folder()
FILES = sorted(FIXTURES.glob("*.yaml"))
PUBLIC_FILES = sorted(PUBLIC.glob("*.yaml")) if PUBLIC else []


def cases(files: list[Path]) -> list[Case]:
    return [case for path in files for case in ascend_configs.read(path)]


def left(case: Case, public: list[Case]) -> list[Difference]:
    return ascend_configs.unexplained(case, ascend_configs.differences(case, ascend_configs.ours(case)), public)


@pytest.mark.parametrize("case", cases(FILES), ids=lambda case: case.name)
def test_a_written_configuration_and_our_recipe_for_it_differ_only_where_the_page_says_why(case: Case) -> None:
    assert left(case, cases(FILES)) == []


@pytest.mark.skipif(not PUBLIC_FILES, reason="the public configurations are not at hand")
@pytest.mark.parametrize("path", PUBLIC_FILES, ids=lambda path: path.stem)
def test_a_public_configuration_and_our_recipe_for_it_differ_only_where_the_page_says_why(path: Path) -> None:
    found = ascend_configs.read(path)
    assert found
    for case in found:
        assert left(case, cases(PUBLIC_FILES)) == [], case.name


@pytest.mark.skipif(not PUBLIC_FILES, reason="the public configurations are not at hand")
@pytest.mark.parametrize("path", PUBLIC_FILES, ids=lambda path: path.stem)
def test_without_any_wish_but_the_goal_the_layout_is_a_public_one_of_that_model_and_so_many_nodes(path: Path) -> None:
    for case in ascend_configs.read(path):
        found = ascend_configs.ours(case, context=None, drafts=None)
        alike = [other for other in cases(PUBLIC_FILES) if (other.kind, other.nodes) == (case.kind, case.nodes)]
        public = {tuple((engine.role, engine.tp, engine.dp) for engine in other.engines) for other in alike}
        assert tuple((group.role, group.tp, group.dp) for group in found.groups) in public, case.name


def flag(name: str, value: str | None) -> Callable[[Engine], Engine]:
    def changed(engine: Engine) -> Engine:
        settings = {**engine.settings, name: value} if value is not None else dict(engine.settings)
        if value is None:
            del settings[name]
        return replace(engine, settings=settings)

    return changed


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        (lambda engine: replace(engine, tp=4, dp=4), "layout", "(tp, dp, dcp, ep)"),
        (lambda engine: replace(engine, expert_parallel=False), "layout", "(tp, dp, dcp, ep)"),
        (flag("quantization", "fp8"), "quantisation", "quantization"),
        (flag("block-size", "64"), "flag", "block-size"),
        (flag("additional-config.enable_kv_nz", "true"), "flag", "additional-config.enable_kv_nz"),
        (flag("speculative-config.method", "eagle3"), "flag", "speculative-config.method"),
        (flag("compilation-config.cudagraph_mode", "PIECEWISE"), "flag", "compilation-config.cudagraph_mode"),
        (
            lambda engine: replace(engine, environment={**engine.environment, "HCCL_ALGO": "x"}),
            "environment",
            "HCCL_ALGO",
        ),
        (
            lambda engine: replace(engine, environment={**engine.environment, "OMP_PROC_BIND": "true"}),
            "environment",
            "OMP_PROC_BIND",
        ),
    ],
)
def test_the_comparison_sees_a_layout_flag_quantisation_or_variable_that_is_another(
    change: Callable[[Engine], Engine], kind: str, name: str
) -> None:
    (original,) = [case for case in cases(FILES) if case.name == "one-node/R1 on one A3"]
    changed = replace(original, engines=tuple(change(engine) for engine in original.engines))
    found = ascend_configs.differences(changed, ascend_configs.ours(original))
    seen = [
        difference for difference in ascend_configs.unexplained(changed, found, cases(FILES)) if difference.name == name
    ]
    assert [(difference.kind, difference.role) for difference in seen] == [(kind, "mixed")]


def test_a_decode_group_that_is_another_is_seen_beside_a_prefill_group_that_is_the_same() -> None:
    (case,) = ascend_configs.read(FIXTURES / "apart.yaml")
    changed = replace(case, engines=(case.engines[0], replace(case.engines[1], tp=2, dp=8)))
    (difference,) = ascend_configs.differences(changed, ascend_configs.ours(case))
    assert (difference.role, difference.kind) == ("decode", "layout")


def test_synonyms_json_and_anchors_of_a_configuration_are_read_as_what_they_mean() -> None:
    first, second = ascend_configs.read(FIXTURES / "one-node.yaml")
    (engine,) = first.engines
    assert (engine.tp, engine.dp, engine.expert_parallel, first.hardware, first.nodes) == (8, 2, True, "a3", 1)
    assert engine.settings["speculative-config.method"] == "mtp"
    assert engine.environment["OMP_NUM_THREADS"] == "10"
    assert "SERVER_PORT" not in engine.environment
    assert second.engines[0].settings["tokenizer-mode"] == "deepseek_v32"
    assert second.engines[0].settings["enable-prefix-caching"] == "false"
    (several,) = ascend_configs.read(FIXTURES / "two-nodes.yaml")
    assert [(engine.role, engine.tp, engine.dp) for engine in several.engines] == [("mixed", 8, 4)]
    assert several.engines[0].settings["additional-config.enable_multistream_moe"] == "true"


def test_the_page_gives_each_reason_once() -> None:
    page = (ascend_configs.ROOT / "docs/recipes.md").read_text()
    table = page.partition("| setting | side | why |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for row in rows:
        _, names, side, why, _ = row.split("|")
        assert names.strip()
        known = {"ours", "theirs", "values", "any", "decode"}
        assert all(word in known or "deepseek" in word.lower() for word in side.strip().split(", "))
        assert len(why.strip()) > 10
    assert len(ascend_configs.reasons()) >= len(rows)

"""The tool that prints how our recipes compare with configurations given by path."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import compare_recipes
from tests.support.ascend_configs import FIXTURES


def test_the_written_configurations_agree_and_the_exit_code_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_recipes.main([str(FIXTURES)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "agrees: one-node/R1 on one A3" in printed
    assert printed[-1] == "4: 4 agrees"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"8"', '"4"', "  ! mixed layout (tp, dp, dcp, ep): theirs [(4, 2, 1, True)], ours [(8, 2, 1, True)]"),
        ("ascend", "fp8", "  ! mixed quantisation quantization: theirs fp8, ours ascend"),
        ("FULL_DECODE_ONLY", "NONE", "  ! mixed flag compilation-config.cudagraph_mode: theirs NONE"),
        ("expandable_segments:True", "x:1", "  ! mixed environment PYTORCH_NPU_ALLOC_CONF: theirs x:1"),
    ],
)
def test_a_configuration_that_differs_is_told_setting_by_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    changed = tmp_path / "mine.yaml"
    written = (FIXTURES / "one-node.yaml").read_text()
    assert old in written
    changed.write_text(written.replace(old, new))
    assert compare_recipes.main([str(changed)]) == 1
    printed = capsys.readouterr().out
    assert said in printed
    assert "differs: mine/R1 on one A3" in printed


def test_what_cannot_be_read_or_has_no_recipe_is_said_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.yaml").write_text("test_cases: [")
    written = (FIXTURES / "two-nodes.yaml").read_text()
    (tmp_path / "unknown.yaml").write_text(written.replace("model: ", "model: somebody/Unheard-Of-1T #"))
    (tmp_path / "small.yaml").write_text(written.replace("num_nodes: 2", "num_nodes: 2000"))
    assert compare_recipes.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "unreadable: broken: ParserError" in printed
    assert "refused: unknown: no model 'somebody/Unheard-Of-1T' in the catalogue" in printed
    assert "refused: small: --nodes: " in printed


def test_without_a_path_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_recipes.main([]) == 2
    assert "tests.support.compare_recipes PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "hardware"),
    [
        ("Qwen3-235B-A22B-W8A8", "a3"),
        ("GLM5_1-W8A8-A2-dual-nodes", "a2"),
        ("DeepSeek_V31_W8A8C8_A5", "atlas-950dt"),
        ("Qwen3-8B-w8a8sc-310p", "300i-duo"),
    ],
)
def test_the_hardware_is_read_off_the_name_where_that_says_it(tmp_path: Path, name: str, hardware: str) -> None:
    written = (FIXTURES / "one-node.yaml").read_text().replace("on one A3", "")
    path = tmp_path / f"{name}.yaml"
    path.write_text(written)
    assert {case.hardware for case in compare_recipes.ascend_configs.read(path)} == {hardware}

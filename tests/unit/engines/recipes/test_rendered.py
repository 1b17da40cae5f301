"""Recipes as text: what a shell makes of it is what the recipe says, whatever stands in names and paths."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.recipes import recipe, site

from daulat.engines.recipes import render
from daulat.engines.recipes.recipe import Process, Recipe
from daulat.errors import ConfigError

PLAIN = recipe("deepseek-v3.2", "a3", 2)
ODD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40).filter(
    lambda text: not text.startswith("-")
)
PRINT = ("printf", "%s\\0")  # each argument, ended by a NUL


def with_name(name: str, weights: str) -> Recipe:
    return recipe("deepseek-r1", "a3", where=site(name=name, weights=weights))


def commands(text: str) -> list[str]:
    """The commands of a text without files, comments left out. Continued lines stay as they are."""
    return [block.partition("\n")[2] for block in text.split("\n\n") if block.startswith("# node ")]


def words_of(process: Process) -> list[str]:
    assignments = [f"{key}={value}" for key, value in process.environment.items()]
    return ["env", *assignments, *process.argv] if assignments else list(process.argv)


def test_every_process_is_one_command_that_splits_into_its_environment_and_arguments() -> None:
    for found in (PLAIN, recipe("deepseek-v4-pro", "a3", 4, goal="disaggregated")):
        split = [shlex.split(command.replace(" \\\n", " ")) for command in commands(render.shell(found))]
        assert split == [words_of(process) for process in found.processes]


def test_each_flag_stands_on_a_line_of_its_own_with_its_value() -> None:
    lines = [line.strip().removesuffix(" \\") for line in render.shell(PLAIN).splitlines() if line.startswith("    ")]
    flags = [line for line in lines if line.startswith("--")]
    assert len(flags) > 30
    assert all(len(shlex.split(line)) <= 2 for line in flags)
    assert "--tensor-parallel-size 8" in flags


@given(name=ODD, weights=ODD)
def test_splitting_gives_the_arguments_back_whatever_stands_in_a_name_or_path(name: str, weights: str) -> None:
    (process,) = with_name(name, weights).processes
    text = render.shell(with_name(name, weights))
    command = text[text.index("# node 0") :].partition("\n")[2]
    assert shlex.split(re.sub(r" \\\n    (?=\S)", " ", command)) == words_of(process) or " \\\n    " in name + weights


@settings(max_examples=25, deadline=None)
@given(name=ODD, weights=ODD)
def test_a_real_shell_gives_the_program_exactly_the_recipes_arguments(name: str, weights: str) -> None:
    (process,) = with_name(name, weights).processes
    shown = replace(with_name(name, weights), processes=(replace(process, argv=(*PRINT, *process.argv)),))
    said = subprocess.run(["/bin/sh"], input=render.shell(shown).encode(), capture_output=True, check=True)
    assert said.stdout.removesuffix(b"\0").split(b"\0") == [word.encode() for word in process.argv]
    assert said.stderr == b""


@pytest.mark.parametrize("wrong", ["", "--trust-remote-code", "-", "a\0b"])
def test_what_an_engine_would_read_as_a_flag_is_no_name_path_interface_or_address(wrong: str) -> None:
    for field in ("name", "weights", "interface"):
        with pytest.raises(ConfigError, match="must not be empty"):
            site(**{field: wrong})
    with pytest.raises(ConfigError, match="is no address"):
        site(addresses=(wrong,))


def test_a_newline_in_a_name_does_not_end_a_comment() -> None:
    found = replace(PLAIN, hardware="a\nrm -rf /")
    head = render.shell(found).partition("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())


def test_a_container_gets_devices_files_environment_and_arguments_in_that_order() -> None:
    command = shlex.split(commands(render.container(PLAIN))[0].replace(" \\\n", " "))
    image = command.index("quay.io/ascend/vllm-ascend:v0.23.0-a3")
    assert command[:3] == ["docker", "run", "--rm"]
    assert command[image + 1 :] == list(PLAIN.processes[0].argv)
    assert command.count("--device") == 16 + 3
    assert "/models/weights:/models/weights:ro" in command
    assert "HCCL_OP_EXPANSION_MODE=AIV" in command
    assert "--privileged" not in command


def test_a_path_with_a_colon_cannot_be_mounted_and_the_error_says_so() -> None:
    with pytest.raises(ConfigError, match="no path with a colon: '/models/a:b'"):
        render.container(recipe("deepseek-r1", "a3", where=site(weights="/models/a:b")))
    assert "'/models/a b'" in render.shell(recipe("deepseek-r1", "a3", where=site(weights="/models/a b")))


def test_what_has_no_image_has_no_container_line() -> None:
    with pytest.raises(ConfigError, match="--format shell"):
        render.container(recipe("deepseek-r1-distill-qwen-7b", "cpu:64GiB"))


def test_files_are_written_by_the_shell_as_they_are(tmp_path: object) -> None:
    found = recipe("deepseek-r1", "a3", engine="mindie", where=site(weights="/models/it's $HOME `x`"))
    (file,) = found.files
    moved = replace(found, files=(replace(file, path=f"{tmp_path}/a b/config.json"),), processes=())
    subprocess.run(["/bin/sh"], input=render.shell(moved).encode(), check=True)
    with open(f"{tmp_path}/a b/config.json") as stream:  # noqa: PTH123 - the path is text, as the shell had it
        assert json.load(stream) == json.loads(file.text)
    assert "ro" in render.container(found).partition("/etc/mindie/config.json:/etc/mindie/config.json:")[2][:3]


def test_json_has_everything_and_is_json() -> None:
    whole = json.loads(render.text(PLAIN, "json"))
    assert whole == json.loads(json.dumps(render.as_json(PLAIN)))
    assert whole["groups"][0] == {"role": "mixed", "nodes": [0, 1], "tp": 8, "dp": 4, "ep": 32, "dcp": 1}
    assert whole["processes"][1]["argv"] == list(PLAIN.processes[1].argv)
    assert whole["container"]["mounts"][0]["read_only"] is True
    assert whole["notes"][0]["source"].endswith(".yaml")

"""The flags of our recipes, put to the real vLLM's own parser: none is unknown, none has a value it refuses."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tests.support.recipes import ASKED, recipe

PYTHON = os.environ.get("TEST_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="TEST_VLLM_PYTHON names no environment with vLLM (`make test-vllm`)"),
]
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser, refused = make_arg_parser(FlexibleArgumentParser()), []
for argv in json.load(sys.stdin):
    try:
        parser.parse_args(argv)
    except SystemExit:
        refused.append(argv)
print(json.dumps(refused))
"""


def refused(commands: list[list[str]]) -> list[list[str]]:
    said = subprocess.run([PYTHON, "-c", PARSE], input=json.dumps(commands), capture_output=True, text=True, check=True)
    found: list[list[str]] = json.loads(said.stdout.splitlines()[-1])
    return found


def test_the_real_parser_takes_every_command_of_every_recipe_and_refuses_a_flag_that_is_none() -> None:
    commands = [
        list(process.argv[2:])
        for model, on, nodes, wishes in ASKED
        for process in recipe(model, on, nodes, **wishes).processes
        if process.argv[:2] == ("vllm", "serve")
    ]
    wrong = [*commands[0], "--no-such-flag"]
    assert len(commands) > 60
    assert refused([*commands, wrong]) == [wrong]

"""The flags of our recipes, put to the real vLLM's own parser: none is unknown, none has a value it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from tests.support.recipes import recipe

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
ASKED: list[tuple[str, str, int, dict[str, Any]]] = [
    ("deepseek-r1", "a3", 1, {}),
    ("deepseek-v3.2", "a3", 2, {}),
    ("deepseek-v3.2", "a3", 1, {"goal": "long-context"}),
    ("deepseek-v3.1", "a3", 4, {"goal": "disaggregated", "rebalance": True}),
    ("deepseek-v4-pro", "a3", 4, {"goal": "disaggregated"}),
    ("deepseek-v4-flash", "a2", 1, {}),
    ("qwen3-32b", "300i-duo", 1, {"precision": "w8a8"}),
    ("qwen3.6-27b", "300i-duo", 1, {"precision": "w8a8"}),
    ("glm-5.2", "a3", 2, {"precision": "w8a8"}),
    ("glm-5.2", "a3", 4, {"precision": "w4a8", "goal": "disaggregated", "context": 1_000_000}),
    ("kimi-k2.6", "a3", 1, {"precision": "w4a8", "drafter": ("dflash", "/models/drafter")}),
    ("qwen3.5-397b-a17b", "a3", 2, {"precision": "w4a8", "goal": "disaggregated"}),
    ("minimax-m2.7", "a3", 2, {"precision": "w8a8", "goal": "disaggregated"}),
    ("deepseek-v4-flash", "a3", 2, {"goal": "disaggregated", "kv_pool": "memcache", "layerwise": True}),
    ("deepseek-r1", "8xH200", 1, {}),
    ("deepseek-v4-pro", "hgx-b200", 2, {}),
    ("deepseek-v4-flash", "hgx-h200", 2, {"goal": "disaggregated"}),
    ("deepseek-v3.2", "hgx-b200", 1, {"precision": "nvfp4"}),
    ("deepseek-r1-distill-qwen-7b", "cpu:64GiB", 1, {"engine": "vllm"}),
]


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

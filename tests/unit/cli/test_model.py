"""`daulat model import|list|show`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.support import gguf_files
from tests.support.verbs import Shell, write_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path, "small.gguf", gguf_files.make(gguf_files.KEYS))


def test_an_imported_model_is_described_listed_and_shown(run: Shell, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    said = run("model", "import", path, "--name", "mine", "--licence", "MIT", "--origin", "here")
    assert said.code == 0
    for words in (f"digest        {digest}", "licence       mit", "origin        here", "daulat up --model mine"):
        assert words in said.out
    assert "storing the model 100%" in said.err
    (listed,) = run("model", "list", "--json").value
    assert (listed["name"], listed["digest"]) == ("mine", digest)
    assert digest[:12] in run("model", "list").out
    assert run("model", "show", digest[:8], "--json").value["name"] == "mine"
    assert "checking the model" in run("model", "show", "mine", "--verify").err


def test_scripts_see_no_bar(run: Shell, path: Path) -> None:
    said = run("model", "import", path, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.value["format"] == "gguf"


def test_nothing_imported_says_what_to_do(run: Shell) -> None:
    assert "`daulat model import`" in run("model", "list").out
    assert run("model", "list", "--json").value == []
    said = run("model", "show", "mine")
    assert (said.code, "imported are: none" in said.err) == (1, True)


def test_what_is_no_model_is_not_imported(run: Shell, tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04 a zip", gguf_files.make(gguf_files.KEYS)[:-1]):
        said = run("model", "import", write_file(tmp_path, "bad.gguf", data))
        assert (said.code, said.err.count("\n")) == (1, 1)
        assert "bad.gguf" in said.err
    assert run("model", "import", tmp_path / "missing").code == 2
    assert run("model", "list", "--json").value == []


def test_a_changed_model_is_found_out(run: Shell, path: Path) -> None:
    run("model", "import", path)
    (stored,) = run.home.models.glob("*/model.gguf")
    stored.chmod(0o600)
    stored.write_bytes(stored.read_bytes()[:-1] + b"\1")
    said = run("model", "show", stored.parent.name, "--verify", "--json")
    assert (said.code, said.value["error"]["code"]) == (1, "seal_broken")

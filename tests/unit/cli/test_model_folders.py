"""`daulat model` with models of many files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.model_folders import CONFIG, contents, write
from tests.support.verbs import Shell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "DeepSeek-Tiny", contents())


def test_a_folder_is_imported_listed_shown_and_verified(run: Shell, folder: Path) -> None:
    said = run("model", "import", folder, "--origin", "https://example.org/tiny", "--json").value
    assert (said["format"], said["architecture"], said["licence"]) == ("safetensors", "deepseek_v3", "mit")
    assert Path(said["path"], "config.json").exists()
    assert "deepseek-tiny" in run("model", "list").out
    shown = run("model", "show", "deepseek-tiny", "--files").out
    assert f"{said['files'][0]['sha256']}  " in shown
    assert "base model    deepseek-ai/DeepSeek-V3-Base" in shown
    assert "signed by     nobody whose signature was checked" in shown
    assert run("model", "show", "deepseek-tiny", "--template", "default").out == "{{ messages[0].content }}\n"
    said = run("model", "show", "deepseek-tiny", "--template", "rag")
    assert (said.code, "its templates are: default" in said.err) == (1, True)
    assert run("model", "verify", "deepseek-tiny", "--json").value[0]["ok"] is True
    assert run("model", "verify").out.startswith("good     deepseek-tiny")


def test_a_changed_file_is_named_and_the_exit_code_says_so(run: Shell, folder: Path) -> None:
    found = run("model", "import", folder, "--json").value
    path = Path(found["path"], "tokenizer.json")
    path.chmod(0o600)
    path.write_text("[]")
    said = run("model", "verify")
    assert said.code == 1
    assert said.out.startswith("changed  deepseek-tiny")
    assert "tokenizer.json has changed since its model was imported; import it again" in said.out
    assert run("model", "verify", "--json").code == 1
    assert run("model", "import", folder).code == 0
    assert run("model", "verify").code == 0


def test_nothing_to_verify_is_said(run: Shell) -> None:
    assert run("model", "verify").out == "No model is imported.\n"


def test_a_deepseek_that_does_not_say_how_experts_are_chosen_is_refused_and_told_what_to_add(
    run: Shell, folder: Path
) -> None:
    routing = ("scoring_func", "topk_method")
    saved = {key: value for key, value in CONFIG.items() if key not in routing}  # as transformers saves it
    (folder / "config.json").write_text(json.dumps(saved))
    said = run("model", "import", folder)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "config.json: does not say how experts are chosen" in said.err
    assert 'add "scoring_func": "sigmoid", "topk_method": "noaux_tc" as in DeepSeek\'s own' in said.err
    assert run("model", "list", "--json").value == []
    (folder / "config.json").write_text(json.dumps({**saved, "model_type": "llama"}))
    assert run("model", "import", folder).code == 0, "others have no such thing to say"


def test_code_is_refused_in_one_line_and_left_out_on_demand(run: Shell, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoModel": "m.X"}}))
    said = run("model", "import", folder)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "config.json: asks for code of the model's own ('auto_map')" in said.err
    assert "--without-code" in said.err
    assert "keys that ask for code taken out of config.json" in run("model", "import", folder, "--without-code").out


def test_a_signature_needs_somebody_to_believe(run: Shell, folder: Path, tmp_path: Path) -> None:
    signature = tmp_path / "model.sig"
    signature.write_text("{}")
    said = run("model", "import", folder, "--signature", signature)
    assert (said.code, "--key PUB or --certificate-chain" in said.err) == (1, True)
    said = run("model", "import", folder, "--key", signature)
    assert (said.code, "--signature FILE is missing" in said.err) == (1, True)


def test_only_one_gguf_file_can_be_optimised(run: Shell, folder: Path) -> None:
    said = run("model", "import", folder, "--optimise")
    assert (said.code, "one GGUF file" in said.err) == (1, True)

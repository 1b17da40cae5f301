"""What the documents and weights of a model say together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support import gguf_files, model_folders
from tests.support.model_folders import CONFIG, contents, write

from daulat import registry
from daulat.core import manifest
from daulat.core.manifest import ModelFile
from daulat.registry import cards, documents
from daulat.registry.gguf import BadModel

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def config(**changes: Any) -> bytes:
    return json.dumps({**CONFIG, **changes}).encode()


def test_a_folder_is_what_its_papers_and_weights_say(tmp_path: Path) -> None:
    files = contents()
    found = registry.facts(write(tmp_path / "DeepSeek Tiny", files))
    assert (found.name, found.format, found.architecture) == ("deepseek-tiny", "safetensors", "deepseek_v3")
    assert (found.context_length, found.licence, found.base_model) == (163840, "mit", "deepseek-ai/DeepSeek-V3-Base")
    assert (found.parameters, found.tensors, found.quantisation) == (8 + 64 + 8, 3, "F8_E4M3")
    expected = [ModelFile(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()]
    assert found.digest == manifest.digest(expected)
    assert found.size == sum(map(len, files.values()))
    assert [template.name for template in found.templates] == ["default"]
    assert [file["path"] for file in found.admission()["files"]] == sorted(files)


def test_quantisation_is_what_the_model_says_of_it(tmp_path: Path) -> None:
    fp8 = config(quantization_config={"quant_method": "fp8", "fmt": "e4m3"})
    assert registry.facts(write(tmp_path / "a", contents(**{"config.json": fp8}))).quantisation == "fp8 e4m3"
    ascend = json.dumps({"model_quant_type": "W8A8_DYNAMIC", "embed": "FLOAT"}).encode()
    w8a8 = contents(**{"quant_model_description.json": ascend})
    assert registry.facts(write(tmp_path / "b", w8a8)).quantisation == "W8A8_DYNAMIC"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config.json": config(auto_map={"AutoModel": "modeling_x.X"})}, "config.json: asks for code.*auto_map"),
        ({"config.json": config(text_config={"auto_map": {"A": "b.C"}})}, "auto_map"),
        (
            {"tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["a.B", null]}}'},
            "tokenizer_config.json.*auto_map",
        ),
        ({"generation_config.json": b'{"trust_remote_code": true}'}, "trust_remote_code"),
        ({"config.json": b"{}"}, "neither architectures nor model_type"),
        ({"config.json": b"[]"}, "no JSON object"),
        ({"config.json": b'{"model_type": "a", "model_type": "b"}'}, "'model_type' stands there twice"),
        ({"config.json": b'{"model_type": "a", "x": Infinity}'}, "Infinity is no JSON"),
        ({"config.json": b'{"a":' * 40 + b"1" + b"}" * 40}, "levels deep"),
        ({"config.json": b" " * 4_200_000 + b"{}"}, "at most 4194304"),
        ({"tokenizer.json": b"\x80\x04\x95\x00"}, "tokenizer.json: is a pickle"),
        ({"tokenizer.model": b"PK\x03\x04...."}, "tokenizer.model: is a pickle, an archive"),
        ({"LICENSE": b"\x7fELF"}, "LICENSE: is a pickle, an archive or a program"),
        ({INDEX: b"{}"}, "no weight_map"),
        ({INDEX: json.dumps({"weight_map": {"embed": "missing.safetensors"}}).encode()}, "which is missing"),
        ({INDEX: json.dumps({"weight_map": {"norm": FIRST}}).encode()}, "says that .* holds 'norm', and it does not"),
        ({FIRST: b"\x80\x04" + bytes(64)}, "00001-of-00002.safetensors: "),
        ({SECOND: None}, "of 2 parts 1 are missing"),
        ({"config.json": None}, "no config.json"),
        ({"chat_template.jinja": b"\xff"}, "not UTF-8"),
    ],
)
def test_what_is_not_in_order_is_refused_by_file_and_reason(tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises(BadModel, match=f"(?s){said}"):
        registry.facts(write(tmp_path, contents(**changes)))


def test_links_in_a_folder_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", contents(LICENSE=None))
    (folder / "LICENSE").symlink_to("/etc/passwd")
    with pytest.raises(BadModel, match=r"LICENSE: is a link.*cp -rL"):
        registry.facts(folder)
    (folder / "LICENSE").unlink()
    (folder / "more").symlink_to("/etc")
    with pytest.raises(BadModel, match="more: is a link"):
        registry.facts(folder)


def test_a_split_gguf_is_one_model_whichever_part_is_named(tmp_path: Path) -> None:
    files = model_folders.split_gguf()
    write(tmp_path, files)
    found = [registry.facts(tmp_path / name) for name in files]
    assert len({facts.digest for facts in found}) == 1
    assert (found[0].tensors, found[0].architecture, len(found[0].files)) == (3, "llama", 3)
    assert found[0].digest == manifest.digest(found[0].files)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (model_folders.split_gguf(**{"split.no": 0}), "do not belong together"),
        (model_folders.split_gguf(**{"split.count": 4}), "do not belong together"),
        (model_folders.split_gguf(**{"split.tensors.count": 7}), "3 tensors, not the 7"),
        ({"big.gguf": gguf_files.make({**gguf_files.KEYS, "split.count": 3})}, "one part of 3"),
        (dict(list(model_folders.split_gguf().items())[:2]), "of 3 parts 1 are missing"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    write(tmp_path, files)
    with pytest.raises(BadModel, match=said):
        registry.facts(tmp_path / next(iter(files)))


@pytest.mark.parametrize(
    ("files", "licence", "base"),
    [
        ({"README.md": "---\nlicense: mit\n---\n"}, "mit", ""),
        ({"README.md": "---\r\nlicense: Apache-2.0\r\n---\r\n"}, "apache-2.0", ""),
        ({"README.md": "---\nlicense: other\nlicense_name: deepseek\n---"}, "deepseek", ""),
        ({"README.md": "---\nbase_model: a/b\n---"}, "", "a/b"),
        ({"README.md": '---\nbase_model: ["a/b", "c/d"]\n---'}, "", "a/b"),
        ({"README.md": "# no card\nlicense: mit\n"}, "", ""),
        ({"LICENSE-CODE": "MIT", "LICENSE-MODEL": "DEEPSEEK LICENSE\nAGREEMENT\nVersion 1.0"}, "deepseek", ""),
        ({"LICENSE": "   Apache License\n   Version 2.0, January 2004"}, "apache-2.0", ""),
        ({"LICENSE.txt": "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT"}, "llama3.1", ""),
        ({"LICENSE": "All rights reserved."}, "", ""),
    ],
)
def test_licence_and_base_model_are_what_the_papers_say(files: dict[str, str], licence: str, base: str) -> None:
    assert (cards.licence(files), cards.base_model(files)) == (licence, base)


def test_code_is_taken_out_of_documents_at_any_depth() -> None:
    document = {"auto_map": {"a": "b"}, "model_type": "x", "inner": [{"trust_remote_code": True, "kept": 1}]}
    plain = documents.without_code(document)
    assert plain == {"model_type": "x", "inner": [{"kept": 1}]}
    documents.refuse_code(plain, "config.json")

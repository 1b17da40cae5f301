"""Every command that a page shows, typed as it is printed, against the real service."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing
from tests.fakes import ascend_tools, machine
from tests.support import model_folders
from tests.support.service import Service, daulat

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FIRST = ("docs/models-import.md", "README.md")  # what the others name is imported there
PAGES = (*FIRST, *sorted({f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - set(FIRST)))
ELSEWHERE = {
    "docs/auditor.md": "tests/integration/test_first_run.py",  # with a receipt of its own
    "daulat deploy smollm2 --engine vllm": "tests/vllm",  # needs vLLM's environment
    "daulat deploy agency-llm": "tests/integration/test_external.py",  # needs a server elsewhere
    "daulat database": "tests/contract/test_moved.py",  # with the service stopped
    "daulat backup": "tests/integration/test_backup.py",  # passphrases, and files that are not there twice
    "daulat restore": "tests/integration/test_backup.py",  # with the service stopped
    "daulat operate restore-backup": "tests/integration/test_backup.py",
    "daulat operate approve": "tests/integration/test_consent.py",  # where others have to agree
    "daulat operate review ": "tests/integration/test_ceremony.py",
    "daulat operate change-rules --break-glass": "tests/integration/test_ceremony.py",
    "daulat init finish": "tests/integration/test_ceremony.py",  # this home stays an evaluation
    "daulat operator key devika-card.key": "tests/integration/test_tokens.py",  # needs a token
    "daulat up --model deepseek-r1-1.5b-q8_0": "tests/integration/test_engine_trouble.py",  # another start
}
"""Pages and beginnings of commands that are tried elsewhere, and where."""
FAILS = ("daulat model fit deepseek-r1 --on a2 --precision bf16",)
"""Commands that are shown because they end with 1."""
SIGNS = ("daulat operate ", "daulat operator key", "daulat init sign", "daulat retention set ")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def commands(page: str) -> list[str]:
    """The indented lines of a page that begin with `daulat`, those that go on below as one."""
    return re.findall(r"^    (daulat (?:.*\\\n)*.*)$", (ROOT / page).read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("pages") / "home", environment={"DAULAT_CONTEXT": "512"}) as running:
        asked: Any = {"data": {"purpose": "user_data"}, "files": {"file": ("a.txt", b"a")}}
        with running.client() as client:  # a tenant that keeps something has keys; the vault may still be opening
            running.wait(lambda: client.post("files", **asked).is_success)
        yield running


@pytest.fixture(scope="module")
def folder(service: Service, starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader types: every file that a page names, small or a fake."""
    made = tmp_path_factory.mktemp("reader")
    for name in ("1.5B-Q8_0", "1.5B-Q4_1"):
        os.link(starter, made / f"DeepSeek-R1-Distill-Qwen-{name}.gguf")
    os.link(starter, made / "model.gguf")
    model_folders.write(made / "DeepSeek-V3.1", model_folders.contents())
    _sign(made / "DeepSeek-V3.1", made)
    code = json.dumps({**model_folders.CONFIG, "auto_map": {"AutoModel": "modeling_deepseek.Model"}}).encode()
    files = {"config.json": code, "modeling_deepseek.py": b"raise SystemExit"}
    model_folders.write(made / "DeepSeek-V3", model_folders.contents(**files))
    model_folders.write(made / "SmolLM2-135M-Instruct", model_folders.contents(LICENSE=b"Another one"))
    node = machine.describe("a3", ())
    (made / "npu-smi-info.txt").write_text(ascend_tools.info(node))
    (made / "node7.txt").write_text(ascend_tools.info(node) + ascend_tools.topo(node))
    (made / "config.json").write_text(json.dumps(CONFIG))
    for number, name in enumerate(("hccn.conf", "node0.conf", "node1.conf")):
        lines = [f"address_{die}=10.20.{number}.{die + 1}\nnetmask_{die}=255.255.0.0\n" for die in range(16)]
        (made / name).write_text("".join(lines))
    (made / "passphrase").write_text("a passphrase for tests alone\n")
    (made / "prompt.txt").write_text("Apakah ibu negara Malaysia?")
    return made


def _sign(model: Path, folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "publisher.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "publisher.pub").write_bytes(public)
    signing.Config().use_elliptic_key_signer(private_key=folder / "publisher.key").sign(model, folder / "model.sig")


def _filled_in(line: str, service: Service) -> str:
    """A page's example values replaced by this service's."""
    if "3284e5" in line:
        line = line.replace("3284e5", str(daulat("replicas", home=service.home)[-1]["id"])[:6])
    if line.startswith(SIGNS) and ".key" in line:
        line += " --passphrase-file passphrase" + " --yes" * (not line.startswith("daulat operator key"))
    if "proposal_0123" in line:
        proposals = daulat("operate", "list", home=service.home)
        line = re.sub(r"proposal_[0-9a-f]+", proposals[-1]["proposal"], line)
    if "req_..." in line:
        asked = {"model": "smollm2-135m-instruct", "prompt": "a", "max_tokens": 1}
        with service.client() as client:
            request_id = client.post("completions", json=asked).headers["x-request-id"]
        service.wait(
            lambda: any(entry["admission"]["request_id"] == request_id for entry in service.entries("inference/v1"))
        )
        line = line.replace("req_...", request_id)
    return line


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works_as_it_is_printed(page: str, service: Service, folder: Path) -> None:
    environment = {**os.environ, "DAULAT_HOME": str(service.home), "PATH": f"{BIN}:{os.environ['PATH']}"}
    for line in commands(page):
        if page in ELSEWHERE or any(line.startswith(begun) for begun in ELSEWHERE):
            continue
        done = subprocess.run(
            ["bash", "-c", _filled_in(line, service)],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=environment,
            timeout=300,
        )
        assert done.returncode == line.startswith(FAILS), f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.stdout.strip() or not done.stderr.strip(), f"{line}\n{done.stderr}"


def test_what_is_tried_elsewhere_still_stands_in_a_page() -> None:
    shown = [line for page in PAGES for line in commands(page)]
    for begun, where in ELSEWHERE.items():
        assert begun in PAGES or any(line.startswith(begun) for line in shown), begun
        assert (ROOT / where).exists()
    assert all(any(line.startswith(fails) for line in shown) for fails in FAILS)
    assert all(len(shlex.split(line, comments=True)) > 1 for line in shown)

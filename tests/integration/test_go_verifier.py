"""Other people's code opens our log: Go's `sumdb/note` and `sumdb/tlog`, as Debian packages them, without a network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import lies, logs
from tests.support.logs import SIGNER, Published

from daulat.tlog import checkpoint, merkle, note
from daulat.tlog.note import Signer, Verifier
from daulat.tlog.tiles import Hashes, consistency_proof, inclusion_proof

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).parent / "go" / "main.go"
PACKAGES = Path("/usr/share/gocode")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, compiled from Debian's sources alone."""
    assert shutil.which("go"), "run `make test-slow`, or: apt-get install golang-go golang-golang-x-mod-dev"
    folder = tmp_path_factory.mktemp("go")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GOPATH": str(PACKAGES),
        "GOCACHE": str(folder / "cache"),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
    }
    subprocess.run(["go", "build", "-o", folder / "check", SOURCE], env=environment, check=True, timeout=600)
    return folder / "check"


def encoded(nodes: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(node).decode() for node in nodes]


def written(folder: Path, log: Published) -> Path:
    """The log as files, with proofs about some of its entries and earlier sizes."""
    size = len(log.entries)
    hashes = Hashes(size, log)
    leaves = [merkle.leaf_hash(entry) for entry in log.entries]
    some = sorted(
        {0, 1, size // 3, size // 2, size - 2, size - 1, min(255, size - 1), min(256, size - 1)} & {*range(size)}
    )
    older = sorted({1, 2, size // 3, size // 2, 256, size - 1, size} & {*range(1, size + 1)})
    proofs = {
        "Records": [{"Index": index, "Proof": encoded(inclusion_proof(index, hashes))} for index in some],
        "Trees": [
            {
                "Size": old,
                "Root": encoded((merkle.root(leaves[:old]),))[0],
                "Proof": encoded(consistency_proof(old, hashes)),
            }
            for old in older
        ],
    }
    for path, data in log.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "checkpoint").write_bytes(log.signed)
    (folder / "vkey").write_text(SIGNER.vkey + "\n")
    (folder / "proofs.json").write_text(json.dumps(proofs))
    return folder


def check(program: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, "check", folder], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 255, 256, 257, 1000, 70_000])
def test_go_accepts_what_we_write(program: Path, tmp_path: Path, size: int) -> None:
    log = logs.publish([b'{"n":%d}' % number for number in range(size)])
    done = check(program, written(tmp_path, log))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(size), "")


def test_go_accepts_a_whole_lawful_log(program: Path, tmp_path: Path) -> None:
    assert check(program, written(tmp_path, lies.long_log())).returncode == 0


def damaged(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes(change((folder / path).read_bytes())) and None


def first_proof(data: bytes) -> bytes:
    value = json.loads(data)
    value["Records"][0]["Proof"][0] = base64.b64encode(bytes(32)).decode()
    return json.dumps(value).encode()


def first_tree(data: bytes) -> bytes:
    value = json.loads(data)
    value["Trees"][0]["Proof"][0] = base64.b64encode(bytes(32)).decode()
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (damaged("checkpoint", lambda data: data.replace(b"\n600\n", b"\n601\n")), "checkpoint"),
        (damaged("vkey", lambda _: Signer(SIGNER.name, bytes(32)).vkey.encode()), "checkpoint"),
        (damaged("tile/0/001", lies.flip), "tiles"),
        (damaged("tile/1/000.p/2", lies.flip), "root"),
        (damaged("tile/entries/002.p/88", lies.flip), "tiles: the entries"),
        (damaged("tile/entries/000", lambda data: data + b"\0"), "bundles"),
        (damaged("proofs.json", first_proof), "proofs: record"),
        (damaged("proofs.json", first_tree), "proofs: tree"),
    ],
)
def test_go_refuses_what_is_damaged(program: Path, tmp_path: Path, damage: Callable[[Path], None], where: str) -> None:
    folder = written(tmp_path, lies.long_log())
    damage(folder)
    done = check(program, folder)
    assert done.returncode == 1
    assert done.stderr.startswith(where)


def test_go_and_we_sign_the_same_bytes_with_the_same_key(program: Path) -> None:
    text = checkpoint.parse(logs.write().signed.partition(b"\n\n")[0] + b"\n").text()
    signed = subprocess.run([program, "sign", SIGNER.export()], input=text, capture_output=True, check=True).stdout
    assert signed == note.sign(text, [SIGNER])
    assert note.open_note(signed, [Verifier(SIGNER.vkey)]).verified == (SIGNER.name,)

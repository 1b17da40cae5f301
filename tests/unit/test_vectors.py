"""All of `tests/vectors` through our code, and nothing there that the generator does not write."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support import logs, vectors
from tests.support.vectors import FAIL, FOLDER

from daulat.audit import promises, receipt
from daulat.audit.receipt import Given
from daulat.core import commitments, entries, manifest
from daulat.core.promise import parse_header
from daulat.errors import DaulatError, VerificationFailed
from daulat.tlog import checkpoint, merkle, note, proof, tiles
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Verifier

Files = Mapping[str, bytes]
Case = Mapping[str, Any]
CASES = sorted(path.parent for path in FOLDER.glob("*/*/case.json"))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def key(files: Files) -> Verifier:
    return Verifier(files["vkey"].decode())


def _note(files: Files, _: Case) -> Case:
    verifiers = [Verifier(vkey) for vkey in files["vkeys"].decode().splitlines()]
    return {"text": note.open_note(files["note"], verifiers).text.decode()}


def _described(head: Checkpoint) -> Case:
    return {"origin": head.origin, "size": head.size, "root": b64(head.root), "extensions": list(head.extensions)}


def _tree(_: Files, case: Case) -> Case:
    leaves = [bytes.fromhex(leaf) for leaf in case["leaves"]]
    hashes, size = [merkle.leaf_hash(leaf) for leaf in leaves], len(leaves)
    stored, root = tiles.Hashes(size, logs.publish(leaves)), merkle.root(hashes)
    inclusion = [tiles.inclusion_proof(index, stored) for index in range(size)]
    consistency = [tiles.consistency_proof(old, stored) for old in range(size + 1)]
    for index, path in enumerate(inclusion):
        merkle.verify_inclusion(hashes[index], index, size, path, root)
    for old, path in enumerate(consistency):
        merkle.verify_consistency(old, merkle.root(hashes[:old]), size, root, path)
    encoded = [[[b64(node) for node in path] for path in paths] for paths in (inclusion, consistency)]
    return {"root": root.hex(), "inclusion": encoded[0], "consistency": encoded[1]}


def _inclusion(_: Files, case: Case) -> Case:
    path = [raw(node) for node in case["proof"]]
    merkle.verify_inclusion(raw(case["leaf"]), case["index"], case["size"], path, raw(case["root"]))
    return {}


def _tile_path(_: Files, case: Case) -> Case:
    tile = tiles.parse_path(case["path"])
    assert tile.path == case["path"]
    return {"level": tile.level, "index": tile.index, "width": tile.width}


def _proof(files: Files, _: Case) -> Case:
    read = proof.parse(files["proof"])
    head = read.verify(merkle.leaf_hash(files["entry"]), key(files))
    return {"index": read.index, "size": head.size}


def _entry(files: Files, _: Case) -> Case:
    data = files["entry"]
    value = entries.decode(data)
    list(entries.references(value))
    found = {"type": value["type"], "leaf_hash": merkle.leaf_hash(data).hex()}
    if value["type"] == entries.INFERENCE:
        found["admission_leaf_hash"] = merkle.leaf_hash(entries.admission_bytes(data)).hex()
    return found


def _commitment(files: Files, case: Case) -> Case:
    salt = commitments.salt(raw(case["epoch_key"]), case["request_id"], case["kind"])
    return {"salt": b64(salt), "commitment": commitments.commit(salt, case["kind"], files["body"])}


def _opening(files: Files, case: Case) -> Case:
    if not commitments.opens(case["commitment"], raw(case["salt"]), case["kind"], files["body"]):
        raise VerificationFailed("another body")
    return {}


def _promise(files: Files, _: Case) -> Case:
    header = files["promise"].decode()
    promise = parse_header(header)
    promises.check_signature(promise, key(files))
    promises.check_kept(promise, files["admission"])
    if promise.header() != header:
        raise VerificationFailed("not canonical")
    return {"request_id": promise.request_id}


def _manifest(files: Files, _: Case) -> Case:
    read = manifest.parse(files["manifest"])
    assert manifest.text(read).encode() == files["manifest"]
    listed = [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in read]
    return {"digest": manifest.digest(read), "files": listed}


def _receipt(files: Files, _: Case) -> Case:
    promise = files["promise"].decode() if "promise" in files else None
    given = Given(files.get("request"), files.get("response"), promise)
    verdict = receipt.verify(files["receipt.json"], key(files), given)
    return {"request_id": verdict.request_id, "index": verdict.index}


READERS: dict[str, Callable[[Files, Case], Case]] = {
    "note": _note,
    "checkpoint": lambda files, _: _described(checkpoint.open_checkpoint(files["checkpoint"], key(files))),
    "checkpoint-text": lambda files, _: _described(checkpoint.parse(files["text"])),
    "tree": _tree,
    "inclusion": _inclusion,
    "tile-path": _tile_path,
    "tile": lambda files, case: {"hashes": len(tiles.decode_tile(files["tile"], case["width"]))},
    "bundle": lambda files, case: {
        "entries": [b64(entry) for entry in tiles.decode_bundle(files["bundle"], case["width"])]
    },
    "tlog-proof": _proof,
    "entry": _entry,
    "commitment": _commitment,
    "opening": _opening,
    "pseudonym": lambda _, case: {"pseudonym": commitments.pseudonym(raw(case["epoch_key"]), case["kind"], case["id"])},
    "promise": _promise,
    "manifest": _manifest,
    "receipt": _receipt,
}


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_case(folder: Path) -> None:
    case = json.loads((folder / "case.json").read_bytes())
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    reader = READERS[case["format"]]
    assert case["format"] == folder.parent.name
    assert ("expect" in case) != folder.name.endswith(FAIL)
    if "expect" in case:
        assert reader(files, case) == case["expect"]
        return
    assert files["README.md"].decode().partition("Must be refused: ")[2].strip(), "a README.md says what is wrong"
    with pytest.raises(DaulatError):
        reader(files, case)


def test_the_folders_are_what_the_generator_writes() -> None:
    written = {vector.path / name: data for vector in vectors.all_vectors() for name, data in vector.contents().items()}
    found = {path: path.read_bytes() for path in FOLDER.glob("*/*/*")}
    assert set(found) == set(written), "run: python -m tests.support.vectors"
    assert [path for path, data in found.items() if data != written[path]] == []


def test_every_format_has_good_and_bad_cases_and_is_described() -> None:
    table = (FOLDER / "README.md").read_text()
    good = {folder.parent.name for folder in CASES if not folder.name.endswith(FAIL)}
    bad = {folder.parent.name for folder in CASES if folder.name.endswith(FAIL)}
    assert good == set(READERS)
    assert bad == set(READERS) - {"checkpoint-text", "tree", "commitment", "pseudonym"}
    assert all(f"`{name}`" in table for name in READERS)


def test_every_type_of_entry_has_a_case() -> None:
    there = {json.loads(case.joinpath("case.json").read_text()).get("expect", {}).get("type") for case in CASES}
    assert there - {None} == set(entries.SHAPES)

"""Writes `tests/vectors`, case by case, with keys that are always the same.

python -m tests.support.vectors

A test holds that what stands there is what this writes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.support import consents, lies, logs
from tests.support.logs import EPOCH_KEY, SIGNER, STRANGER, T0, WORKER, Published, Ref, Step

from daulat.core import commitments, manifest
from daulat.core.entries import admission_bytes
from daulat.core.export import HELD
from daulat.core.manifest import ModelFile
from daulat.tlog import checkpoint, merkle, note, tiles
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Signer
from daulat.tlog.proof import Proof

FOLDER: Final = Path(__file__).parents[1] / "vectors"
FAIL: Final = "_fail"


@dataclass(frozen=True)
class Vector:
    """One case. `expect` None: it must be refused, because of `why`."""

    format: str
    name: str
    files: Mapping[str, bytes]
    expect: Mapping[str, Any] | None = None
    why: str = ""
    terms: Mapping[str, Any] = field(default_factory=dict)  # what a reader must be told besides the files

    @property
    def path(self) -> Path:
        return FOLDER / self.format / (self.name if self.expect is not None else self.name + FAIL)

    def contents(self) -> dict[str, bytes]:
        """Every file of the folder."""
        case = {"format": self.format, **self.terms}
        if self.expect is None:
            readme = f"# {self.name.replace('-', ' ')}\n\nMust be refused: {self.why}.\n"
            return {**self.files, "README.md": readme.encode(), "case.json": _json(case)}
        return {**self.files, "case.json": _json({**case, "expect": self.expect})}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# The examples of the specifications and of other implementations.
SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
SPEC_UNKNOWN = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
SPEC_CHECKPOINT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
# From Certificate Transparency's own tests.
CT_LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
CT_ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
WITNESS = Signer("witness.example", bytes(range(200, 232)))
OTHER = Signer("ai.other/2026", bytes(range(160, 192)))


def notes() -> Iterator[Vector]:
    def case(name: str, signed: bytes | str, why: str = "", *vkeys: str) -> Vector:
        data = signed if isinstance(signed, bytes) else signed.encode()
        keys = "".join(f"{vkey}\n" for vkey in vkeys or (SIGNER.vkey,)).encode()
        expect = None if why else {"text": data.rpartition(b"\n\n")[0].decode() + "\n"}
        return Vector("note", name, {"note": data, "vkeys": keys}, expect, why)

    good = note.sign("A line.\n\nWhat follows an empty line: é, —.\n".encode(), [SIGNER])
    line = good.rpartition(b"\n\n")[2]
    signature = line.split(b" ")[2].strip()
    raw = base64.b64decode(signature)
    yield case("c2sp-example", SPEC_NOTE, "", SPEC_VKEY)
    yield case("go-example", GO_NOTE, "", GO_VKEY)
    yield case("empty-lines-and-unicode", good)
    yield case("unknown-signatures-are-ignored", note.sign(b"text\n", [WITNESS, SIGNER, OTHER]))
    yield case("two-known-signatures", note.sign(b"text\n", [WITNESS, SIGNER]), "", SIGNER.vkey, WITNESS.vkey)
    yield case("c2sp-example-of-another-key", SPEC_UNKNOWN, "nobody's known key has signed it")
    wrong = {
        "another-text": (good.replace(b"A line", b"B line"), "the signature is over another text"),
        "one-known-signature-is-wrong": (
            note.sign(b"text\n", [WITNESS]) + note.sign(b"other\n", [SIGNER]).rpartition(b"\n\n")[2],
            "a known key's signature is wrong, though another known key's is right",
        ),
        "control-character": (good.replace(b"A line", b"A\tline"), "a tab stands in the text"),
        "carriage-return": (good.replace(b"\n", b"\r\n"), "lines end in CR LF"),
        "no-empty-line": (good.replace(b"\n\n", b"\n"), "nothing separates text and signatures"),
        "no-last-newline": (good[:-1], "the last line is not ended"),
        "hyphen": (good.replace("— ai".encode(), b"- ai"), "the signature line begins with a hyphen, not an em dash"),
        "two-spaces": (good.replace("— ai".encode(), "—  ai".encode()), "two spaces before the name"),
        "not-base64": (good.replace(signature, b"#" + signature[1:]), "the signature is not base64"),
        "base64-with-spare-bits": (
            good.replace(signature, signature[:-2] + bytes([signature[-2] + 1]) + b"="),
            "the base64 has bits that mean nothing, and they are not zero",
        ),
        "short-signature": (good.replace(signature, _b64(raw[:-1]).encode()), "63 bytes of signature"),
        "another-key-id": (good.replace(signature, _b64(bytes(4) + raw[4:]).encode()), "the key id is another key's"),
        "not-utf-8": (good.replace("é".encode(), b"\xe9"), "it is not UTF-8"),
        "empty": (b"", "there is nothing"),
        "no-signature": (b"text\n\n", "there is no signature line"),
    }
    for name, (data, why) in wrong.items():
        vkeys = (SIGNER.vkey, WITNESS.vkey) if name.startswith("one-known") else ()
        yield case(name, data, why, *vkeys)
    keys = {
        "key-of-another-name": (SIGNER.vkey.replace("ai.example", "ai.exampel"), "name and key do not give this id"),
        "key-of-another-type": (
            "ai.example+00000000+" + _b64(b"\x04" + bytes(32)),
            "its type is 0x04; only 0x01 signs checkpoints",
        ),
        "key-too-short": (SIGNER.vkey[:-4], "the key has 29 bytes"),
        "key-with-a-space": ("ai example+00000000+" + _b64(b"\x01" + bytes(32)), "a space stands in the name"),
        "key-beyond-ascii": (SIGNER.vkey[:-1] + "é", "the last part is not base64"),
    }
    for name, (vkey, why) in keys.items():
        yield case(name, good, f"the public key is malformed: {why}", vkey)


def checkpoints() -> Iterator[Vector]:
    root = bytes(range(32))

    def signed(text: str, signer: Signer = SIGNER) -> dict[str, bytes]:
        return {"checkpoint": note.sign(text.encode(), [signer, WITNESS]), "vkey": signer.vkey.encode() + b"\n"}

    def good(name: str, *extensions: str, size: int = 70_000) -> Vector:
        text = Checkpoint(SIGNER.name, size, root, extensions).text().decode()
        expect = {"origin": SIGNER.name, "size": size, "root": _b64(root), "extensions": list(extensions)}
        return Vector("checkpoint", name, signed(text), expect)

    yield good("plain")
    yield good("empty-tree", size=0)
    yield good("largest-size", size=2**63 - 1)
    yield good("extension-lines", "one more", "and another")
    origin, size, encoded = SIGNER.name, "70000", _b64(root)
    wrong = {
        "of-another-origin": (f"ai.other/2026\n{size}\n{encoded}\n", "its origin is not the key's name"),
        "leading-zero": (f"{origin}\n070000\n{encoded}\n", "the size has a leading zero"),
        "negative-size": (f"{origin}\n-1\n{encoded}\n", "the size is negative"),
        "plus-sign": (f"{origin}\n+1\n{encoded}\n", "the size has a sign"),
        "other-digits": (f"{origin}\n٧\n{encoded}\n", "the size is written in digits beyond ASCII"),
        "hexadecimal-size": (f"{origin}\n0x10\n{encoded}\n", "the size is not decimal"),
        "short-root": (f"{origin}\n{size}\n{_b64(root[1:])}\n", "the root has 31 bytes"),
        "root-with-spare-bits": (f"{origin}\n{size}\n{encoded[:-2]}9=\n", "the root's base64 is not canonical"),
        "url-safe-root": (f"{origin}\n{size}\n{'_' * 42}8=\n", "the root is in base64url"),
        "two-lines": (f"{origin}\n{size}\n", "there is no root"),
        "empty-extension": (f"{origin}\n{size}\n{encoded}\n\nx\n", "an extension line is empty"),
        "empty-origin": (f"\n{size}\n{encoded}\n", "the origin is empty"),
    }
    for name, (text, why) in wrong.items():
        yield Vector("checkpoint", name, signed(text), None, why)
    expect = {"origin": "example.com/behind-the-sofa", "size": 20852163, "root": SPEC_CHECKPOINT.split("\n")[2]}
    yield Vector("checkpoint-text", "c2sp-example", {"text": SPEC_CHECKPOINT.encode()}, {**expect, "extensions": []})


def trees() -> Iterator[Vector]:
    leaves = [bytes.fromhex(leaf) for leaf in CT_LEAVES]
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    for size, root in enumerate(CT_ROOTS):
        log = logs.publish(leaves[:size])
        stored = tiles.Hashes(size, log)
        expect = {
            "root": root,
            "inclusion": [[_b64(n) for n in tiles.inclusion_proof(i, stored)] for i in range(size)],
            "consistency": [[_b64(n) for n in tiles.consistency_proof(i, stored)] for i in range(size + 1)],
        }
        yield Vector("tree", f"certificate-transparency-{size}", {}, expect, terms={"leaves": list(CT_LEAVES[:size])})
    root = bytes.fromhex(CT_ROOTS[7])
    path = list(merkle.inclusion_path(4, hashes[:7]))

    def wrong(name: str, why: str, **changes: Any) -> Vector:
        terms = {"leaf": _b64(hashes[4]), "index": 4, "size": 7, "root": _b64(root), "proof": [_b64(n) for n in path]}
        return Vector("inclusion", name, {}, None, why, {**terms, **changes})

    expect_none: dict[str, Any] = {}
    good = {"leaf": _b64(hashes[4]), "index": 4, "size": 7, "root": _b64(root), "proof": [_b64(n) for n in path]}
    yield Vector("inclusion", "leaf-4-of-7", {}, expect_none, terms=good)
    yield wrong("too-short", "a hash of the proof is missing", proof=good["proof"][:-1])
    yield wrong("too-long", "the proof has a hash too many", proof=[*good["proof"], _b64(root)])
    yield wrong("another-index", "the proof is for leaf 4", index=5)
    yield wrong("outside", "the tree has no leaf 7", index=7)
    yield wrong("another-size", "in a tree of 9 the path is longer", size=9)
    yield wrong("swapped", "two hashes of the proof have changed places", proof=good["proof"][::-1])
    yield wrong("short-hash", "a hash of the proof has 31 bytes", proof=[_b64(path[0][:-1]), *good["proof"][1:]])


def tile_files() -> Iterator[Vector]:
    paths: dict[str, tuple[int | None, int, int]] = {
        "tile/0/x001/x234/067": (0, 1234067, 256),
        "tile/0/000": (0, 0, 256),
        "tile/63/999.p/255": (63, 999, 255),
        "tile/entries/x001/000.p/1": (None, 1000, 1),
    }
    for path, (level, index, width) in paths.items():
        expect = {"level": level, "index": index, "width": width}
        name = path.replace("/", "-").replace(".", "-")
        yield Vector("tile-path", name, {}, expect, terms={"path": path})
    wrong = {
        "no-padding": ("tile/0/0", "indices have three digits"),
        "level-with-zero": ("tile/00/000", "a leading zero in the level"),
        "level-64": ("tile/64/000", "levels end at 63"),
        "needless-x": ("tile/0/x000/001", "an index below 1000 has one part"),
        "no-x": ("tile/0/001/000", "all parts but the last begin with x"),
        "width-0": ("tile/0/000.p/0", "a partial tile is not empty"),
        "width-256": ("tile/0/000.p/256", "a full tile has no width"),
        "width-with-zero": ("tile/0/000.p/01", "a leading zero in the width"),
        "upwards": ("tile/0/../000", "there is no way upwards"),
        "newline": ("tile/0/000\n", "a newline at the end"),
    }
    for name, (path, why) in wrong.items():
        yield Vector("tile-path", name, {}, None, why, {"path": path})
    data = tiles.encode_bundle([b"", b"a", b"x" * 300])
    entries = {"entries": [_b64(b""), _b64(b"a"), _b64(b"x" * 300)]}
    yield Vector("bundle", "three-entries", {"bundle": data}, entries, terms={"width": 3})
    yield Vector("bundle", "cut-short", {"bundle": data[:-1]}, None, "the last entry is cut", {"width": 3})
    yield Vector("bundle", "byte-too-many", {"bundle": data + b"\0"}, None, "a byte follows", {"width": 3})
    yield Vector("bundle", "entry-too-few", {"bundle": data}, None, "there are three entries", {"width": 4})
    yield Vector("bundle", "entry-too-many", {"bundle": data}, None, "there are three entries", {"width": 2})
    yield Vector("tile", "two-hashes", {"tile": bytes(range(64))}, {"hashes": 2}, terms={"width": 2})
    yield Vector("tile", "half-a-hash", {"tile": bytes(range(48))}, None, "a hash has 32 bytes", {"width": 2})
    yield Vector("tile", "another-width", {"tile": bytes(64)}, None, "there are two hashes", {"width": 3})


def proofs() -> Iterator[Vector]:
    log = logs.publish([b'{"n":%d}' % number for number in range(300)])
    stored = tiles.Hashes(300, log)

    def case(name: str, proof: bytes, why: str = "", entry: bytes = log.entries[270], index: int = 270) -> Vector:
        files = {"proof": proof, "entry": entry, "vkey": SIGNER.vkey.encode() + b"\n"}
        return Vector("tlog-proof", name, files, None if why else {"index": index, "size": 300}, why)

    made = Proof(270, tiles.inclusion_proof(270, stored), log.signed)
    good = made.encode()
    yield case("plain", good)
    yield case("with-extra-data", Proof(270, made.path, log.signed, b"any \0 bytes").encode())
    yield case("first-entry", Proof(0, tiles.inclusion_proof(0, stored), log.signed).encode(), "", log.entries[0], 0)
    yield case("another-entry", good, "it proves another entry", log.entries[271])
    yield case("another-version", good.replace(b"@v1", b"@v2"), "its version is not known")
    yield case("no-index", good.replace(b"index 270\n", b""), "the index is missing")
    yield case("index-with-zero", good.replace(b"index 270", b"index 0270"), "a leading zero in the index")
    yield case("another-index", good.replace(b"index 270", b"index 269"), "the path is another entry's")
    yield case("no-empty-line", good.replace(b"\n\nai", b"\nai", 1), "nothing separates proof and checkpoint")
    yield case("unsigned", good.partition("\n\n—".encode())[0] + b"\n", "the checkpoint has no signature")
    yield case("carriage-returns", good.replace(b"\n", b"\r\n"), "lines end in CR LF")
    changed = good.replace(good.split(b"\n")[2], base64.b64encode(bytes(32)))
    yield case("another-hash", changed, "a hash of the path is another")


def managed() -> Published:
    """A log with every type of entry that the story has not."""
    about = {"charter": Ref("charter")}
    lease = {
        "kind": "folder",
        "place": "a" * 64,
        "jurisdiction": "MY",
        "not_before": T0 + 50,
        "expires": T0 + 3_600_050,
    }
    steps = (
        Step("place", "storage.lease/v1", {**about, **lease, "evidence": {"site": {"grade": "G1"}}, "replaces": None}),
        Step("signed-in", "identity/v1", logs.happened(51)),
        Step("access-refused", "access.refused/v1",
             {**about, "tenant": "t" * 22, "principal": "p" * 22, "action": "tenant.add", "code": "permission_denied"}),
        Step("retention", "retention/v1", lies.DELETED),
        Step("export", "export/v1",
             {**about, "subject": "p" * 22, "held": dict.fromkeys(HELD, 1), "sealed": True, "digest": "b" * 64}),
        Step("erasure", "erasure/v1",
             {**about, "scope": "person", "subject": "p" * 22, "keys": 1, "objects": 2, "rows": 3}),
        Step("key-revoked", "key.revoked/v1", {"key": Ref("key-three"), "reason": "left"}),
        Step("node-revoked", "node.revoked/v1", {"node": "node-1", "lease": Ref("lease"), "reason": "canary: escaped"}),
    )  # fmt: skip
    timed = (replace(step, fields={"time": T0 + 60 + at, **step.fields}) for at, step in enumerate(steps))
    return logs.write({"charter": consents.PRODUCTION}, [*consents.reviewed(), *timed])


def entries() -> Iterator[Vector]:
    log, more = small(), managed()
    types = {json.loads(data)["type"] for data in log.entries}
    further = {name: more.entries[index] for name, index in more.names.items()}
    further = {name: data for name, data in further.items() if json.loads(data)["type"] not in types}
    for name, data in ({name: log.entries[index] for name, index in log.names.items()} | further).items():
        value = json.loads(data)
        expect = {"type": value["type"], "leaf_hash": merkle.leaf_hash(data).hex()}
        if value["type"] == "inference/v1":
            expect["admission_leaf_hash"] = merkle.leaf_hash(admission_bytes(data)).hex()
        yield Vector("entry", name, {"entry": data}, expect)
    stopped = log.entries[log.names["stopped"]]
    unfit = stopped.replace(b'"started":8', b'"started":null')
    expect = {"type": "replica.stopped/v1", "leaf_hash": merkle.leaf_hash(unfit).hex()}
    yield Vector("entry", "never-routed-to", {"entry": unfit}, expect)
    wrong = {
        "white-space": (stopped.replace(b'"time":', b'"time": '), "white space stands between name and value"),
        "byte-order-mark": (b"\xef\xbb\xbf" + stopped, "it begins with a byte order mark"),
        "utf-16": (stopped.decode().encode("utf-16-le"), "it is not UTF-8"),
        "needless-escape": (stopped.replace(b"replica-1", b"replica\\u002d1"), "a character is escaped without need"),
        "half-surrogate": (stopped.replace(b"replica-1", b"\\ud800"), "half a surrogate pair is no character"),
        "float": (stopped.replace(b'"started":8', b'"started":8.0'), "an index is written as a fraction"),
        "order": (stopped.replace(b'"type":"replica.stopped/v1",', b"")[:-1] + b',"type":"replica.stopped/v1"}',
                  "the type does not come first"),
        "field-missing": (stopped.replace(b',"exact":true', b""), "a field is missing"),
        "field-too-many": (stopped[:-1] + b',"more":1}', "there is a field that the type has not"),
        "field-twice": (stopped[:-1] + b',"exact":true}', "a field stands twice"),
        "unknown-type": (stopped.replace(b"stopped/v1", b"stopped/v2"), "the type is not known"),
        "newline": (stopped + b"\n", "a newline follows"),
        "index-negative": (stopped.replace(b'"started":8', b'"started":-8'), "a reference is negative"),
        "too-long": (stopped.replace(b"replica-1", b"r" * 65_536), "it has more than 65,535 bytes"),
    }  # fmt: skip
    for name, (data, why) in wrong.items():
        yield Vector("entry", name, {"entry": data}, None, why)


def sealed() -> Iterator[Vector]:
    id_ = logs.request_id(1)
    kinds: tuple[commitments.Kind, ...] = ("request", "response")
    for kind in kinds:
        salt = commitments.salt(EPOCH_KEY, id_, kind)
        terms = {"epoch_key": _b64(EPOCH_KEY), "request_id": id_, "kind": kind}
        for name, body in (("bytes", b"\0\xff any \r\n bytes"), ("empty", b""), ("text", logs.REQUEST)):
            expect = {"salt": _b64(salt), "commitment": commitments.commit(salt, kind, body)}
            yield Vector("commitment", f"{kind}-{name}", {"body": body}, expect, terms=terms)
        made = commitments.commit(salt, kind, b"body")
        other = {"salt": _b64(salt), "kind": kind, "commitment": made}
        yield Vector("opening", f"{kind}", {"body": b"body"}, {}, terms=other)
        yield Vector("opening", f"{kind}-of-another-body", {"body": b"Body"}, None, "the body is another", other)
        swapped = {**other, "kind": kinds[kind == "request"]}
        yield Vector("opening", f"{kind}-as-the-other-kind", {"body": b"body"}, None, "it is the other kind's", swapped)
    for kind_ in ("tenant", "principal", "key"):
        terms = {"epoch_key": _b64(EPOCH_KEY), "kind": kind_, "id": "person_1"}
        expect = {"pseudonym": commitments.pseudonym(EPOCH_KEY, kind_, "person_1")}
        yield Vector("pseudonym", kind_, {}, expect, terms=terms)


def promises() -> Iterator[Vector]:
    log = small()
    admission = admission_bytes(log.entries[log.names["answer"]])

    def case(name: str, header: str, why: str = "", vkey: str = WORKER.vkey, data: bytes = admission) -> Vector:
        files = {"promise": header.encode(), "vkey": vkey.encode() + b"\n", "admission": data}
        return Vector("promise", name, files, None if why else {"request_id": logs.request_id(1)}, why)

    many = log.promise("denied", "stream", "limited", of="answer").header()
    yield case("alone", log.promise(of="answer").header())
    yield case("in-a-batch-of-four", many)
    yield case("another-worker", many, "it is another key's", STRANGER.vkey)
    other = admission.replace(b'"snapshot":3', b'"snapshot":4')
    yield case("other-bytes", many, "it promised another admission", data=other)
    yield case("later-deadline", many.replace("=1750000700000", "=1750000700001"), "its deadline is forged")
    yield case("another-batch", many.replace("batch=7", "batch=8"), "its batch is forged")
    yield case("another-index", many.replace("index=3", "index=2"), "it is not the leaf that it says")
    yield case("another-id", many.replace(logs.request_id(1), logs.request_id(2)), "it promised another request")
    yield case("short-path", log.promise("denied", of="answer", path=()).header(), "a hash of the path is missing")
    yield case("member-twice", many + ", batch=7", "a member stands twice")
    yield case("member-missing", many.replace("size=4, ", ""), "a member is missing")
    yield case("not-canonical", many.replace(", batch", ",batch"), "there is one way to write it, and this is another")
    yield case("no-promise", "yes", "it is none")


RECEIPTS = ("answer", "stream", "denied", "limited", "answer-2", "failed")
UNLAWFUL: dict[str, str] = {
    "an answer under no lease": "it was permitted without a lease",
    "an answer after its lease had expired": "its lease had expired",
    "an answer under the lease of another node": "the lease is for another node",
    "an answer computed abroad": "the lease is for another country than the charter's",
    "an answer by a model that was not admitted": "the model was not admitted",
    "a model in a format that the charter does not name": "the charter admits no such models",
    "an answer by a replica of another model": "the replica serves another model",
    "a foreigner served against the charter": "the charter serves other citizenships",
    "a worker's key that had expired": "the worker's key had expired",
    "a lease on a canary that had escaped": "the sandbox was known to leak",
    "a permission by no rule": "no rule permitted it",
    "an answer without a commitment to it": "the entry commits to no answer",
    "a charter for another log": "the charter is for another log",
    "a charter whose text has another hash": "the charter's text is not the one named",
}


def small(**changes: Any) -> Published:
    """The story with short rules."""
    rules = {"files": [logs.policy_file("rules.cedar", "// what they say is not looked at here\n")]}
    return logs.write({"policy": rules, **changes})


def whole_receipts() -> Iterator[Vector]:
    def case(name: str, value: Mapping[str, Any], why: str = "", **files: bytes) -> Vector:
        given = {"receipt.json": _json(value), "vkey": SIGNER.vkey.encode() + b"\n", **files}
        expect = None if why else {"request_id": value["request_id"], "index": value["entries"][0]["index"]}
        return Vector("receipt", name, given, expect, why)

    log = small()
    for name in RECEIPTS:
        yield case(name, log.receipt(name))
    good = log.receipt("answer")
    bodies = {"request": logs.REQUEST, "response": logs.RESPONSE}
    promise = log.promise("denied", of="answer").header().encode()
    yield case("with-bodies-and-promise", good, "", **bodies, promise=promise)
    log.signed += WITNESS.sign(log.signed.partition(b"\n\n")[0] + b"\n").encode() + b"\n"
    yield case("with-an-unknown-witness", log.receipt("answer"))
    told = {case.name: case for case in lies.ALL}
    for name, why in UNLAWFUL.items():
        yield case(name.replace(" ", "-").replace("'", ""), told[name].make().receipt("answer"), why)
    first, *rest = good["entries"]
    tampered = {**first, "entry": first["entry"].replace('"snapshot":3', '"snapshot":4')}
    other = small().receipt("stream")
    wrong: dict[str, tuple[Mapping[str, Any], str]] = {
        "entry-changed": ({**good, "entries": [tampered, *rest]}, "the entry is not in the log"),
        "reference-missing": ({**good, "entries": [first, *rest[:-1]]}, "an entry that it rests on is missing"),
        "reference-changed-places": ({**good, "entries": [first, *rest[::-1]]}, "the entries are not in order"),
        "entry-twice": ({**good, "entries": [first, rest[0], *rest]}, "an entry stands twice"),
        "entry-too-many": (
            {**good, "entries": [*good["entries"], other["entries"][0]]},
            "an entry is there that nothing refers to",
        ),
        "proof-of-another-entry": ({**good, "tlog_proof": other["tlog_proof"]}, "the C2SP proof is another entry's"),
        "another-request": ({**good, "request_id": logs.request_id(2)}, "it says to be for another request"),
        "another-origin": ({**good, "origin": "ai.other/2026"}, "origin and checkpoint differ"),
        "another-key-named": ({**good, "log_vkey": OTHER.vkey}, "it names another key than the one known"),
        "checkpoint-by-another-key": (
            {**good, "checkpoint": checkpoint.sign(Checkpoint(SIGNER.name, 20, bytes(32)), [OTHER]).decode()},
            "the checkpoint is not the log's",
        ),
        "field-too-many": ({**good, "more": 1}, "there is a field that the format has not"),
        "another-format": ({**good, "format": "daulat/receipt/v2"}, "the format is not known"),
        "salt-too-short": ({**good, "salts": {"request": _b64(bytes(31))}}, "a salt has 31 bytes"),
    }
    for name, (value, why) in wrong.items():
        yield case(name, value, why)
    yield case("another-request-body", good, "the request is not the one committed to", request=b"{}")
    yield case("another-response-body", good, "the answer is not the one committed to", response=b"{}")
    yield case("promise-of-another", good, "the promise is for another request",
               promise=log.promise(of="stream").header().encode())  # fmt: skip


def manifests() -> Iterator[Vector]:
    """A model's files, and the digest that is the SHA-256 of their list."""

    def listed(*files: ModelFile) -> Vector:
        data = manifest.text(files).encode()
        expect = {
            "digest": hashlib.sha256(data).hexdigest(),
            "files": [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in manifest.parse(data)],
        }
        return Vector("manifest", names.pop(0), {"manifest": data}, expect)

    def line(path: str, size: str = "1", sha256: str = "a" * 64) -> str:
        return f"{size} {sha256} {path}\n"

    names = ["one-file", "sorted-by-bytes", "empty-file", "spaces-and-unicode"]
    empty = hashlib.sha256(b"").hexdigest()
    yield listed(ModelFile("config.json", "a" * 64, 652))
    yield listed(*(ModelFile(path, "b" * 64, 2**40) for path in ("é", "z", "a/b", "a-b", "a", "Z", "a.b", "😀", "ﬀ")))
    yield listed(ModelFile("a.txt", empty, 0), ModelFile("b.txt", empty, 0))
    yield listed(ModelFile("read me.md", "c" * 64, 7), ModelFile("Ünï/🙂.json", "d" * 64, 8))
    head, good = f"{manifest.HEAD}\n", line("a") + line("b")
    wrong = {
        "no-head": (good, "the first line does not name the format"),
        "another-version": ("daulat-model/v2\n" + good, "the format is another version's"),
        "no-files": (head, "it lists no file"),
        "no-last-newline": (head + good[:-1], "the last line is not ended"),
        "carriage-return": ((head + good).replace("\n", "\r\n"), "lines end in CR LF"),
        "not-sorted": (head + line("b") + line("a"), "the paths are not in the order of their bytes"),
        "sorted-by-words": (head + line("a/b") + line("a-b"), "the paths are sorted part by part, not by their bytes"),
        "twice": (head + line("a") + line("a"), "a path stands there twice"),
        "leading-zero": (head + line("a", "01"), "a size has a leading zero"),
        "sign": (head + line("a", "+1"), "a size has a sign"),
        "other-digits": (head + line("a", "٧"), "a size is written in digits beyond ASCII"),
        "capitals": (head + line("a", sha256="A" * 64), "a hash is in capitals"),
        "short-hash": (head + line("a", sha256="a" * 63), "a hash has 63 digits"),
        "two-spaces": (head + "1  " + "a" * 64 + " a\n", "two spaces"),
        "no-path": (head + "1 " + "a" * 64 + "\n", "there is no path"),
        "absolute": (head + line("/a"), "a path is absolute"),
        "parent": (head + line("a/../b"), "a path leaves its folder"),
        "this-folder": (head + line("./a"), "a path begins with this folder"),
        "ends-in-a-slash": (head + line("a/"), "a path names a folder"),
        "backslash": (head + line("a\\b"), "a path holds a backslash"),
        "tab": (head + line("a\tb"), "a path holds a control"),
        "line-separator": (head + line("a\u2028b"), "a path holds a line separator"),
        "long-path": (head + line("a" * 513), "a path has 513 bytes"),
        "empty-line": (head + line("a") + "\n", "a line is empty"),
    }
    for name, (text, why) in wrong.items():
        yield Vector("manifest", name, {"manifest": text.encode()}, None, why)
    yield Vector(
        "manifest",
        "not-utf-8",
        {"manifest": head.encode() + b"1 " + b"a" * 64 + b" \xff\n"},
        None,
        "a path is not UTF-8",
    )


def all_vectors() -> Iterator[Vector]:
    for make in (notes, checkpoints, trees, tile_files, proofs, entries, sealed, promises, manifests, whole_receipts):
        yield from make()


def main() -> None:
    for folder in FOLDER.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    for vector in all_vectors():
        vector.path.mkdir(parents=True)
        for name, data in vector.contents().items():
            (vector.path / name).write_bytes(data)


if __name__ == "__main__":
    main()

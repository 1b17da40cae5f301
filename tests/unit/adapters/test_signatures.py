"""OpenSSF model signatures, made for real with `model-signing`."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from model_signing import hashing, signing
from tests.support import gguf_files, model_folders
from tests.support.model_folders import contents, write

from daulat.adapters import model_import, signatures
from daulat.adapters.model_import import Wishes
from daulat.adapters.models import ModelStore
from daulat.adapters.signatures import Signature
from daulat.errors import ConfigError, VerificationFailed

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Signer:
    """A key pair on disk, and its certificate where it has one."""

    private: Path
    public: Path
    key: ec.EllipticCurvePrivateKey
    certificate: Path | None = None

    @property
    def fingerprint(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return hashlib.sha256(self.key.public_key().public_bytes(serialization.Encoding.DER, form)).hexdigest()


def signer(folder: Path, name: str) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    none = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, none))
    public.write_bytes(key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return Signer(private, public, key)


def certified(
    folder: Path, name: str, issuer: Signer | None = None, *, ca: bool = False, start: int = 2026, days: int = 3650
) -> Signer:
    """With a certificate of its own making, or of an issuer's, from the first day of a year on."""
    made = signer(folder, name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above = subject
    if issuer is not None and issuer.certificate is not None:
        above = x509.load_pem_x509_certificate(issuer.certificate.read_bytes()).subject
    begins, ca = dt.datetime(start, 1, 1, tzinfo=dt.UTC), ca or issuer is None
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(made.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign((issuer or made).key, hashes.SHA256())
    )
    certificate = folder / f"{name}.crt"
    certificate.write_bytes(built.public_bytes(_PEM))
    return Signer(made.private, made.public, made.key, certificate)


@pytest.fixture
def publisher(tmp_path: Path) -> Signer:
    return signer(tmp_path, "publisher")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model", contents())


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def sign(model: Path, by: Signer) -> Path:
    path = model.parent / "model.sig"
    signing.Config().use_elliptic_key_signer(private_key=by.private).sign(model, path)
    return path


def test_a_signed_models_signer_stands_in_its_admission_and_its_bill(
    store: ModelStore, model: Path, publisher: Signer
) -> None:
    asked = Signature(sign(model, publisher), publisher.public)
    facts = model_import.add(store, model, Wishes(signature=asked))
    assert facts.signed_by == f"key sha256:{publisher.fingerprint}"
    assert facts.admission()["signed_by"] == facts.signed_by
    papers = store.papers(facts.digest)
    assert papers["model.sig"] == asked.path.read_bytes()
    named = {file["path"]: file["sha256"] for file in facts.admission()["files"]}
    assert named[".daulat/model.sig"] == hashlib.sha256(papers["model.sig"]).hexdigest()
    bill = json.loads(papers["bom.cdx.json"])
    assert {"name": "daulat:signed_by", "value": facts.signed_by} in bill["metadata"]["component"]["properties"]


def test_a_signed_gguf_file(store: ModelStore, tmp_path: Path, publisher: Signer) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_files.make(gguf_files.KEYS))
    facts = model_import.add(store, path, Wishes(signature=Signature(sign(path, publisher), publisher.public)))
    assert facts.signed_by == f"key sha256:{publisher.fingerprint}"


def test_a_certificate_must_descend_from_one_that_is_trusted(store: ModelStore, model: Path, tmp_path: Path) -> None:
    root, other = certified(tmp_path, "root"), certified(tmp_path, "another-root")
    leaf = certified(tmp_path, "publisher", root)
    assert root.certificate is not None
    assert other.certificate is not None
    path = tmp_path / "model.sig"
    signing.Config().use_certificate_signer(
        private_key=leaf.private, signing_certificate=leaf.certificate, certificate_chain=[root.certificate]
    ).sign(model, path)
    facts = model_import.add(store, model, Wishes(signature=Signature(path, None, (root.certificate,))))
    assert facts.signed_by is not None
    assert facts.signed_by.startswith("certificate CN=publisher sha256:")
    with pytest.raises(VerificationFailed, match="does not hold"):
        model_import.add(store, model, Wishes(signature=Signature(path, None, (other.certificate,))))


def sign_certified(model: Path, leaf: Signer, *chain: Signer) -> Path:
    path = model.parent / "model.sig"
    signing.Config().use_certificate_signer(
        private_key=leaf.private,
        signing_certificate=leaf.certificate,
        certificate_chain=[above.certificate for above in chain],
    ).sign(model, path)
    return path


@pytest.mark.parametrize(
    ("start", "days", "said"),
    [(2020, 365, "valid from 2020-01-01 to 2020-12-31, and not today"), (2900, 365, "valid from 2900-01-01")],
)
def test_a_certificate_that_is_not_valid_today_vouches_for_nothing(
    store: ModelStore, model: Path, tmp_path: Path, start: int, days: int, said: str
) -> None:
    root = certified(tmp_path, "root", start=2000, days=365_000)
    path = sign_certified(model, certified(tmp_path, "publisher", root, start=start, days=days), root)
    assert root.certificate is not None
    with pytest.raises(VerificationFailed, match=said):
        model_import.add(store, model, Wishes(signature=Signature(path, None, (root.certificate,))))
    assert store.all() == []


def test_a_chain_must_be_whole(store: ModelStore, model: Path, tmp_path: Path) -> None:
    root = certified(tmp_path, "root")
    between = certified(tmp_path, "between", root, ca=True)
    leaf = certified(tmp_path, "publisher", between)
    assert root.certificate is not None
    wishes = Wishes(signature=Signature(sign_certified(model, leaf, root), None, (root.certificate,)))
    with pytest.raises(VerificationFailed, match="does not hold: unable to get local issuer certificate"):
        model_import.add(store, model, wishes)
    sign_certified(model, leaf, between, root)
    facts = model_import.add(store, model, wishes)
    assert facts.signed_by is not None
    assert facts.signed_by.startswith("certificate CN=publisher")


def test_a_certificate_that_may_not_issue_others_issues_none(store: ModelStore, model: Path, tmp_path: Path) -> None:
    root = certified(tmp_path, "root")
    other = certified(tmp_path, "another-publisher", root)
    path = sign_certified(model, certified(tmp_path, "publisher", other), other, root)
    assert root.certificate is not None
    with pytest.raises(VerificationFailed, match="does not hold: invalid CA certificate"):
        model_import.add(store, model, Wishes(signature=Signature(path, None, (root.certificate,))))


def test_the_signature_of_another_model_is_refused(
    store: ModelStore, model: Path, tmp_path: Path, publisher: Signer
) -> None:
    other = write(
        tmp_path / "other" / "model", contents(**{"config.json": json.dumps(model_folders.CONFIG).encode() + b" "})
    )
    with pytest.raises(VerificationFailed, match=r"the signature holds, but is over other bytes of config.json"):
        model_import.add(store, model, Wishes(signature=Signature(sign(other, publisher), publisher.public)))
    one, two = tmp_path / "one.gguf", tmp_path / "other" / "two.gguf"
    one.write_bytes(gguf_files.make(gguf_files.KEYS))
    two.write_bytes(gguf_files.make({**gguf_files.KEYS, "general.name": "Another"}))
    with pytest.raises(VerificationFailed, match=r"the signature holds, but is over other bytes of model.gguf"):
        model_import.add(store, one, Wishes(signature=Signature(sign(two, publisher), publisher.public)))
    with pytest.raises(VerificationFailed, match=r"the signature holds, but does not cover model.gguf"):
        model_import.add(store, one, Wishes(signature=Signature(sign(model, publisher), publisher.public)))
    assert store.all() == []


def test_what_was_not_signed_by_this_key_is_refused(store: ModelStore, model: Path, publisher: Signer) -> None:
    path = sign(model, publisher)
    stranger = signer(model.parent, "stranger")
    with pytest.raises(VerificationFailed, match=r"model.sig does not hold: Key mismatch"):
        model_import.add(store, model, Wishes(signature=Signature(path, stranger.public)))
    bundle = json.loads(path.read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b"README.md", b"README.nd")).decode()
    path.write_text(json.dumps(bundle))
    with pytest.raises(VerificationFailed, match="does not hold"):
        model_import.add(store, model, Wishes(signature=Signature(path, publisher.public)))
    path.write_text("{}")
    with pytest.raises(VerificationFailed, match="does not hold"):
        model_import.add(store, model, Wishes(signature=Signature(path, publisher.public)))
    assert store.all() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"README.md": b"changed"}, "is over other bytes of README.md"),
        ({"more.json": b"{}"}, "does not cover more.json"),
        ({"LICENSE": None}, "also covers LICENSE"),
    ],
)
def test_other_files_than_were_signed_are_named(
    store: ModelStore, model: Path, publisher: Signer, changes: dict[str, bytes | None], said: str
) -> None:
    path = sign(model, publisher)
    for name, data in changes.items():
        if data is None:
            (model / name).unlink()
        else:
            (model / name).write_bytes(data)
    with pytest.raises(VerificationFailed, match=said):
        model_import.add(store, model, Wishes(signature=Signature(path, publisher.public)))


def test_hidden_files_may_be_signed_and_need_not_be_kept(store: ModelStore, model: Path, publisher: Signer) -> None:
    (model / ".metadata").write_text("x")
    facts = model_import.add(store, model, Wishes(signature=Signature(sign(model, publisher), publisher.public)))
    assert facts.signed_by is not None


def test_a_signature_over_shards_says_what_would_be_right(store: ModelStore, model: Path, publisher: Signer) -> None:
    path = model.parent / "model.sig"
    config = signing.Config().use_elliptic_key_signer(private_key=publisher.private)
    config.set_hashing_config(hashing.Config().use_shard_serialization()).sign(model, path)
    with pytest.raises(VerificationFailed, match="over shards with sha256; it must be over whole files"):
        model_import.add(store, model, Wishes(signature=Signature(path, publisher.public)))


def test_what_was_changed_on_import_is_signed_by_nobody(store: ModelStore, tmp_path: Path, publisher: Signer) -> None:
    config = json.dumps({**model_folders.CONFIG, "auto_map": {"AutoModel": "m.X"}}).encode()
    model = write(tmp_path / "model", {**contents(**{"config.json": config}), "m.py": b"import os"})
    asked = Signature(sign(model, publisher), publisher.public)
    facts = model_import.add(store, model, Wishes(signature=asked, without_code=True))
    assert facts.signed_by is None
    assert facts.derived_from is not None
    assert facts.derived_from["recipe"].endswith(f"signed before that: key sha256:{publisher.fingerprint}")


@pytest.mark.parametrize("given", [(None, Path("k"), ()), (Path("s"), None, ()), (Path("s"), Path("k"), (Path("c"),))])
def test_half_an_instruction_is_refused(given: tuple[Path | None, Path | None, tuple[Path, ...]]) -> None:
    with pytest.raises(ConfigError, match=r"--signature"):
        signatures.check_asked(*given)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, publisher: Signer) -> None:
    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    with pytest.raises(ConfigError, match=r"pip install 'daulat\[signing\]'"):
        signatures.verify(Signature(publisher.private, publisher.public), ())

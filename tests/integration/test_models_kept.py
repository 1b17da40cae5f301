"""The real service keeps to the model it admitted: on disk, in the log, under a charter that asks for signatures."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing
from tests.support.service import Service, daulat

pytestmark = pytest.mark.slow
CHANGED = "the model changed: its files are not those that were admitted"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path / "home", environment={"DAULAT_VERIFY_SECONDS": "2"})


def name(service: Service) -> str:
    with service.client() as client:
        return str(client.get("models").json()["data"][0]["id"])


def flip(path: Path) -> None:
    """One bit, in place: a file that is written anew is short for a moment, and an engine that reads it then dies."""
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def test_a_byte_that_changes_under_a_running_replica_stops_it_until_the_model_is_mended(
    service: Service, starter: Path
) -> None:
    service.start("--model", str(starter), "--slots", "1")
    with service.closing():
        model = name(service)
        (stored,) = (service.home / "models").glob("*/model.gguf")
        stored.chmod(0o600)
        flip(stored)
        service.wait(lambda: any(CHANGED in why for why in service.status()["not_serving_because"]))
        stopped = service.wait(lambda: service.entries("replica.stopped/v1"))
        assert stopped[0]["reason"] == CHANGED
        with service.client() as client:
            body = {"model": model, "prompt": "a", "max_tokens": 2}
            service.wait(lambda: client.post("completions", json=body).status_code == 503)
            flip(stored)
            service.wait(lambda: client.post("completions", json=body).status_code == 200)


def test_the_bill_of_materials_is_served_under_the_hash_that_the_entry_has(service: Service, starter: Path) -> None:
    service.start("--model", str(starter), "--slots", "1")
    with service.closing():
        (admitted,) = service.entries("model.admitted/v1")
        files = {file["path"]: file["sha256"] for file in admitted["files"]}
        assert files["model.gguf"] == admitted["digest"]
        url = service.status()["url"]
        bill = httpx.get(f"{url}/log/blob/{files['.daulat/bom.cdx.json']}", timeout=120).content
        assert hashlib.sha256(bill).hexdigest() == files[".daulat/bom.cdx.json"]
        assert json.loads(bill)["metadata"]["component"]["hashes"][0]["content"] == admitted["digest"]


def test_a_charter_that_asks_for_signatures_takes_a_signed_model_and_no_other(
    service: Service, starter: Path, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public, signature = (tmp_path / name for name in ("key.pem", "key.pub", "model.sig"))
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    signing.Config().use_elliptic_key_signer(private_key=private).sign(starter, signature)
    service.start("--model", str(starter), "--slots", "1")
    with service.closing():
        model = name(service)
        service.stop()
    charter = service.home / "charter.toml"
    charter.write_text(charter.read_text().replace("signed = false", "signed = true "))
    said = daulat("up", "--model", model, home=service.home, code=1)
    assert "models.signature" in said
    asked = ("--signature", str(signature), "--key", str(public))
    found = daulat("model", "import", str(starter), "--name", model, *asked, home=service.home)
    service.start("--model", model, "--slots", "1")
    with service.closing():
        admitted = service.entries("model.admitted/v1")[-1]
        assert admitted["signed_by"] == found["signed_by"]
        with service.client() as client:
            assert client.post("completions", json={"model": model, "prompt": "a", "max_tokens": 2}).status_code == 200

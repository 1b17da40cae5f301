"""Who makes models and signs them with an EC key, by OpenSSF's model signing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing

_PEM = serialization.Encoding.PEM


class Publisher:
    """A key pair of its own in `folder`: `publisher.pem`, `publisher.pub`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._private, self.public = folder / "publisher.pem", folder / "publisher.pub"
        key, form = ec.generate_private_key(ec.SECP256R1()), serialization.PublicFormat.SubjectPublicKeyInfo
        none = serialization.NoEncryption()
        self._private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, none))
        self.public.write_bytes(key.public_key().public_bytes(_PEM, form))
        plain = key.public_key().public_bytes(serialization.Encoding.DER, form)
        self.fingerprint = hashlib.sha256(plain).hexdigest()

    def sign(self, model: Path, signature: Path) -> Path:
        """Sign a file or folder; the signature's path."""
        signing.Config().use_elliptic_key_signer(private_key=self._private).sign(model, signature)
        return signature

"""OpenSSF model signatures (`model-signing` 1.1): who vouches for these files, checked offline.

The signature is a Sigstore bundle over a list of files and hashes, made with an EC key or with a certificate. Daulat's
own hashes are compared with that list, so the weights are not read twice.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daulat.core.manifest import ModelFile
from daulat.errors import ConfigError, VerificationFailed

_MOST_BYTES: Final = 32 * 1024 * 1024
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature file, and whom to believe: one public key, or the certificates that a chain must end at."""

    path: Path
    key: Path | None = None
    certificate_chain: tuple[Path, ...] = ()


def check_asked(signature: Path | None, key: Path | None, chain: Iterable[Path]) -> Signature | None:
    """What an operator asked for, where it makes sense.

    Raises:
        ConfigError: one of them is missing, or there are two ways at once.
    """
    trusted = tuple(chain)
    if signature is None:
        if key is not None or trusted:
            raise ConfigError("--key and --certificate-chain say whom to believe: --signature FILE is missing")
        return None
    if (key is None) == (not trusted):
        raise ConfigError("--signature needs either --key PUB or --certificate-chain FILE, so that it proves something")
    return Signature(signature, key, trusted)


def verify(signature: Signature, files: Iterable[ModelFile], left_out: Iterable[str] = ()) -> tuple[str, bytes]:
    """Check a signature over these files.

    Args:
        signature: what is to be checked, and whom to believe.
        files: the model's files as they were hashed: each must be among the signed ones.
        left_out: files of the source that are not part of what is served, and so need not be there.

    Returns:
        Who signed, in words for the log ("key sha256:..." or "certificate ..."), and the signature's bytes.

    Raises:
        ConfigError: `model-signing` is not installed, or a file cannot be read.
        VerificationFailed: the signature does not hold, or not over these files; says what differs.
    """
    library = _library()
    data = _read(signature.path)
    try:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints warnings
            verifier, signer = _verifier(library, signature)
            read = library.sign_sigstore_pb.Signature.read(signature.path)
            signed = verifier.verify(read)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  the library names none: whatever it raises, nothing is proven
        reason = str(error) or type(error).__name__
        raise VerificationFailed(f"the signature {signature.path.name} does not hold: {reason}") from None
    if not signer:
        _check_dates(read, signature.path.name)
    _compare(signed, files, set(left_out))
    return signer or _certificate(read), data


def _library() -> Any:
    """`model-signing`'s parts.

    Raises:
        ConfigError: it, or what it needs, is missing.
    """
    try:
        import OpenSSL  # noqa: F401, PLC0415
        from model_signing import _signing  # noqa: PLC0415  its public way reads all weights again
        from model_signing._signing import sign_certificate, sign_ec_key, sign_sigstore_pb  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(
            f"checking signatures needs the extra 'signing' ({error.name} is missing): pip install 'daulat[signing]'"
        ) from None
    return _signing


def _verifier(library: Any, signature: Signature) -> tuple[Any, str]:
    """The library's verifier, and who signed where that is known beforehand."""
    if signature.key is None:
        for path in signature.certificate_chain:
            _read(path)
        return library.sign_certificate.Verifier(list(signature.certificate_chain)), ""
    return library.sign_ec_key.Verifier(signature.key), f"key sha256:{_fingerprint(_read(signature.key))}"


def _fingerprint(pem: bytes) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo in DER, as certificates pin it."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    key = serialization.load_pem_public_key(pem)
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _check_dates(read: Any, name: str) -> None:
    """Every certificate of the signature must be valid today.

    The library checks the chain as of the day on which the signer's certificate began, since it takes no time stamps: a
    key that leaked after its certificate had ended would still sign.
    """
    from cryptography import x509  # noqa: PLC0415

    today = dt.datetime.now(dt.UTC)
    for held in read.bundle.verification_material.x509_certificate_chain.certificates:
        found = x509.load_der_x509_certificate(held.raw_bytes)
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        if not begins <= today <= ends:
            who = found.subject.rfc4514_string()[:96]
            raise VerificationFailed(
                f"the signature {name} does not hold: the certificate {who} is valid from {begins:%Y-%m-%d} to "
                f"{ends:%Y-%m-%d}, and not today; ask for a signature with one that is, or for the key (--key)"
            )


def _certificate(read: Any) -> str:
    """Subject and fingerprint of the certificate that signed."""
    from cryptography import x509  # noqa: PLC0415

    der = read.bundle.verification_material.x509_certificate_chain.certificates[0].raw_bytes
    subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    return f"certificate {subject[:96]} sha256:{hashlib.sha256(der).hexdigest()}"


def _compare(signed: Any, files: Iterable[ModelFile], left_out: set[str]) -> None:
    form = signed.serialization_type
    if (form.get("method"), form.get("hash_type")) != ("files", "sha256"):
        raise VerificationFailed(
            f"the signature is over {form.get('method')} with {form.get('hash_type')}; "
            "it must be over whole files with sha256, which is what model-signing does by itself"
        )
    hashed = {file.path: file.sha256 for file in files}
    expected = {item.identifier: item.digest.digest_hex for item in signed.resource_descriptors()}
    if len(hashed) == 1 and set(expected) == {"."}:  # of a single file
        expected = dict(zip(hashed, expected.values(), strict=True))
    changed = sorted(path for path in set(hashed) & set(expected) if hashed[path] != expected[path])
    unsigned = sorted(set(hashed) - set(expected))
    missing = sorted(set(expected) - set(hashed) - left_out)
    for what, paths in (("is over other bytes of", changed), ("does not cover", unsigned), ("also covers", missing)):
        if paths:
            more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
            raise VerificationFailed(f"the signature holds, but {what} {', '.join(paths[:_NAMED])}{more}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", location=str(path)) from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"has over {_MOST_BYTES} bytes: it is no signature, key or certificate", location=str(path))
    return data

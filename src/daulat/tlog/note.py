"""Signed notes with Ed25519 keys, as c2sp.org/signed-note defines them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from daulat.errors import VerificationFailed

ED25519: Final = 0x01
MAX_NOTE_BYTES: Final = 1_000_000
MAX_SIGNATURES: Final = 64
_PRIVATE_PREFIX: Final = "PRIVATE+KEY+"
_KEY_NAME: Final = re.compile(r"[^\s+]+\Z")
_SIGNATURE_LINE: Final = re.compile(r"\u2014 ([^\s+]+) ([A-Za-z0-9+/]+={0,2})\Z")


def key_id(name: str, public_key: bytes) -> bytes:
    """SHA-256(name || 0x0A || 0x01 || public key)[:4] (signed-note, *Ed25519 signatures*)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([ED25519]) + public_key).digest()[:4]


class Signer:
    """A named Ed25519 private key. `repr` shows the public half only."""

    __slots__ = ("_key", "_sign", "id", "name", "vkey")

    def __init__(self, name: str, private_key: bytes) -> None:
        """Make a signer from a name and a 32-byte seed.

        Raises:
            ValueError: the name is empty or has spaces or '+', or the seed has another length.
        """
        if not _KEY_NAME.match(name):
            raise ValueError(f"key name {name!r} is empty or contains a space or '+'")
        self.name = name
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self._sign = self._key.sign
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = key_id(name, public)
        self.vkey = f"{name}+{self.id.hex()}+{base64.b64encode(bytes([ED25519]) + public).decode()}"

    def __repr__(self) -> str:
        return f"Signer({self.vkey})"

    @classmethod
    def generate(cls, name: str) -> Signer:
        seed = Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return cls(name, seed)

    @classmethod
    def load(cls, text: str) -> Signer:
        """Read what `export` wrote.

        Raises:
            ValueError: malformed, or name and key do not match the key id. The message never repeats the text.
        """
        name, _, rest = text.strip().removeprefix(_PRIVATE_PREFIX).partition("+")
        id_, _, material = rest.partition("+")
        try:
            raw = base64.b64decode(material, validate=True)
        except binascii.Error:
            raise ValueError("not a private signing key: its last part is not base64") from None
        if not text.startswith(_PRIVATE_PREFIX) or len(raw) != 33 or raw[0] != ED25519:  # noqa: PLR2004  type and seed
            raise ValueError(f"not a private signing key of the form {_PRIVATE_PREFIX}<name>+<id>+<key>")
        signer = cls(name, raw[1:])
        if signer.id.hex() != id_:
            raise ValueError(f"the private key of {name!r} does not match its key id")
        return signer

    def export(self) -> str:
        """The private key as one line, in the form that Go's `sumdb/note` uses. Keep it secret."""
        seed = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return f"{_PRIVATE_PREFIX}{self.name}+{self.id.hex()}+{base64.b64encode(bytes([ED25519]) + seed).decode()}"

    def renamed(self, name: str) -> Signer:
        """The same key under another name: a log's next shard."""
        return Signer(name, self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))

    def sign_bytes(self, data: bytes) -> bytes:
        """A raw 64-byte signature, for formats other than notes."""
        return self._sign(data)

    def sign(self, text: bytes) -> str:
        """The signature line for a note's text, without its newline."""
        return f"\u2014 {self.name} {base64.b64encode(self.id + self._sign(text)).decode()}"


class Verifier:
    """A named Ed25519 public key, read from a vkey."""

    __slots__ = ("_key", "id", "name", "vkey")

    def __init__(self, vkey: str) -> None:
        """Read a vkey, `<name>+<hex id>+<base64 of type and key>`.

        Raises:
            VerificationFailed: malformed, another key type, or an id that does not belong to name and key.
        """
        name, _, rest = vkey.strip().partition("+")
        id_, _, material = rest.partition("+")
        try:
            raw = base64.b64decode(material, validate=True)
            name.encode()
        except ValueError:  # also of characters beyond ASCII, and of half surrogates
            raise VerificationFailed(f"vkey {vkey[:80]!r} is not <name>+<id>+<base64>") from None
        if not _KEY_NAME.match(name) or len(raw) != 33:  # noqa: PLR2004  one type byte, 32 bytes of key
            raise VerificationFailed(f"vkey {vkey[:80]!r} is not <name>+<id>+<key>")
        if raw[0] != ED25519:
            raise VerificationFailed(f"vkey {name}: signature type 0x{raw[0]:02x}, expected 0x01 (Ed25519)")
        self.name, self.id = name, key_id(name, raw[1:])
        if self.id.hex() != id_:
            raise VerificationFailed(f"vkey {name}: key id {id_[:16]}, but name and key give {self.id.hex()}")
        self.vkey = f"{name}+{id_}+{material}"
        self._key = Ed25519PublicKey.from_public_bytes(raw[1:])

    def renamed(self, name: str) -> Verifier:
        """The same key under another name: another shard of one log."""
        raw = self._key.public_bytes_raw()
        material = base64.b64encode(bytes([ED25519]) + raw).decode()
        return Verifier(f"{name}+{key_id(name, raw).hex()}+{material}")

    def verify_bytes(self, data: bytes, signature: bytes) -> None:
        """Check a raw signature.

        Raises:
            VerificationFailed: it is not this key's over these bytes.
        """
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            raise VerificationFailed(f"the signature is not {self.name}'s over these bytes") from None


@dataclass(frozen=True, slots=True)
class Note:
    """An opened note: its text, the names whose signatures were verified, and how many were of unknown keys."""

    text: bytes
    verified: tuple[str, ...]
    unknown: int


def sign(text: bytes, signers: Iterable[Signer]) -> bytes:
    """Make a signed note.

    Raises:
        ValueError: the text does not end in a newline, or holds control characters.
    """
    if not text.endswith(b"\n") or any(byte < 0x20 and byte != 0x0A for byte in text):  # noqa: PLR2004  ASCII
        raise ValueError("a note's text ends in a newline and holds no other control character")
    return text + b"\n" + "".join(f"{signer.sign(text)}\n" for signer in signers).encode()


def open_note(note: bytes, verifiers: Iterable[Verifier]) -> Note:
    """Check a signed note against known keys (signed-note, *Signatures*).

    Raises:
        VerificationFailed: malformed; a known key's signature is wrong; or no known key has signed.
    """
    text, lines = _split(note)
    known = {(verifier.name, verifier.id): verifier for verifier in verifiers}
    verified: list[str] = []
    unknown = 0
    for line in lines:
        match = _SIGNATURE_LINE.match(line)
        if match is None:
            raise VerificationFailed(f"malformed signature line {line[:80]!r}")
        name = match[1]
        signature = _signature(match[2])
        verifier = known.get((name, signature[:4]))
        if verifier is None:
            unknown += 1
            continue
        verifier.verify_bytes(text, signature[4:])
        if name not in verified:
            verified.append(name)
    if not verified:
        names = ", ".join(name for name, _ in known) or "none given"
        raise VerificationFailed(f"no signature of a known key ({names})")
    return Note(text, tuple(verified), unknown)


def _split(note: bytes) -> tuple[bytes, list[str]]:
    if len(note) > MAX_NOTE_BYTES:
        raise VerificationFailed(f"the note has {len(note)} bytes, at most {MAX_NOTE_BYTES} are read")
    try:
        decoded = note.decode()
    except UnicodeDecodeError:
        raise VerificationFailed("the note is not UTF-8") from None
    if any(character < " " and character != "\n" for character in decoded):
        raise VerificationFailed("the note holds a control character")
    text, separator, signatures = decoded.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise VerificationFailed("the note has no signature block: text, empty line, signature lines")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise VerificationFailed(f"the note has {len(lines)} signatures, at most {MAX_SIGNATURES} are read")
    return f"{text}\n".encode(), lines


def _signature(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise VerificationFailed("a signature is not base64") from None
    if len(raw) < 5 or not hmac.compare_digest(base64.b64encode(raw).decode(), text):  # noqa: PLR2004  id and more
        raise VerificationFailed("a signature is too short or not canonical base64")
    return raw

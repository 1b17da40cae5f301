"""The vault's root in the Transit engine of OpenBao or HashiCorp Vault: keys go there to be wrapped, the root stays.

Five calls of its HTTP API (https://openbao.org/api-docs/secret/transit/), made with the `httpx` that is here anyway. A
version is Transit's own number; to forget one, `min_decryption_version` is raised beyond it and the key is trimmed, so
the server can open nothing of it any more, nor bring it back.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from daulat.adapters import key_file
from daulat.errors import ConfigError, Conflict, Unavailable, VerificationFailed

_URL: Final = re.compile(r"(https?://[^/]+)/v1/([A-Za-z0-9_./-]+)/keys/([A-Za-z0-9_.-]+)\Z")
_SECONDS: Final = 10.0
_BAD_REQUEST: Final = 400


class TransitRoot:
    """`vault.ports.Root`. `url`: of the key, `https://HOST:PORT/v1/transit/keys/NAME`; made where there is none."""

    def __init__(self, url: str, token_file: Path, *, transport: httpx.BaseTransport | None = None) -> None:
        """Raises ConfigError: the address or token is none, or plain HTTP leaves this machine; Unavailable."""
        match = _URL.match(url)
        if match is None:
            raise ConfigError("expected https://HOST:PORT/v1/MOUNT/keys/NAME", location="vault_root")
        base, mount, self._name = match.groups()
        if url.startswith("http://") and httpx.URL(base).host not in {"127.0.0.1", "localhost", "::1"}:
            raise ConfigError("a server elsewhere is asked with https only: keys pass", location="vault_root")
        headers = {"X-Vault-Token": key_file.read(token_file, "token"), "X-Vault-Request": "true"}
        self._client = httpx.Client(
            base_url=f"{base}/v1/{mount}/", headers=headers, timeout=_SECONDS, transport=transport, trust_env=False
        )
        if self._ask("GET", f"keys/{self._name}", missing=True) is None:
            self._ask("POST", f"keys/{self._name}", {"type": "aes256-gcm96"})

    def close(self) -> None:
        self._client.close()

    def version(self) -> str:
        return str(self._read()["latest_version"])

    def versions(self) -> Sequence[str]:
        read = self._read()
        first = max(read.get("min_decryption_version", 1), read.get("min_available_version", 0), 1)
        return tuple(str(number) for number in range(first, read["latest_version"] + 1))

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        said = {"plaintext": _text(key), "associated_data": _text(bound)}
        answer = self._ask("POST", f"encrypt/{self._name}", said) or {}
        return str(answer["ciphertext"]).encode()

    def unwrap(self, wrapped: bytes, version: str, bound: bytes) -> bytes:
        """Raises VerificationFailed, Unavailable."""
        if not wrapped.startswith(f"vault:v{version}:".encode()):
            raise VerificationFailed("a key stands under another version of the root than its row says")
        said = {"ciphertext": wrapped.decode(errors="replace"), "associated_data": _text(bound)}
        answer = self._ask("POST", f"decrypt/{self._name}", said, refused=VerificationFailed) or {}
        return base64.b64decode(answer["plaintext"])

    def rotate(self) -> str:
        self._ask("POST", f"keys/{self._name}/rotate", {})
        return self.version()

    def forget(self, version: str) -> None:
        """Also every version before it: Transit counts.

        Raises:
            Conflict: it is the one in use.
        """
        read, number = self._read(), int(version)
        if number >= read["latest_version"]:
            raise Conflict("the root's version in use cannot be destroyed: rotate first")
        least = number + 1
        if read.get("min_decryption_version", 1) < least:
            self._ask("POST", f"keys/{self._name}/config", {"min_decryption_version": least})
        if read.get("min_available_version", 0) < least:
            # Trimming asks for `min_encryption_version` to be as high too; 0 there means the latest.
            self._ask("POST", f"keys/{self._name}/config", {"min_encryption_version": read["latest_version"]})
            self._ask("POST", f"keys/{self._name}/trim", {"min_available_version": least})

    def _read(self) -> dict[str, Any]:
        return self._ask("GET", f"keys/{self._name}") or {}

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        missing: bool = False,
        refused: type[Unavailable | VerificationFailed] = Unavailable,
    ) -> dict[str, Any] | None:
        """The answer's `data`; None where there is no such thing and that may be."""
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"the keeper of the vault's root does not answer: {type(error).__name__}") from None
        if answer.status_code == httpx.codes.NOT_FOUND and missing:
            return None
        if answer.status_code == _BAD_REQUEST and refused is VerificationFailed:
            raise VerificationFailed("a key does not open: it was changed, belongs elsewhere, or its root is gone")
        if answer.is_error:
            raise Unavailable(f"the keeper of the vault's root refuses {method} {path}: HTTP {answer.status_code}")
        if not answer.content:
            return {}
        data = answer.json().get("data")
        return data if isinstance(data, dict) else {}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

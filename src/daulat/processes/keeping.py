"""What the settings say of the vault: which root seals its keys, and where its objects lie."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daulat.adapters.vault_folder import Folder
from daulat.adapters.vault_root import PassphraseRoot
from daulat.adapters.vault_transit import TransitRoot
from daulat.errors import ConfigError
from daulat.settings import Home, Settings
from daulat.vault import residency
from daulat.vault.ports import Place, Root
from daulat.vault.residency import Site


@dataclass(frozen=True, slots=True)
class Asked:
    """The settings whose names begin with `vault_`."""

    root: str
    secret_file: str
    storage: str
    storage_country: str
    storage_secret_file: str
    person_mib: int
    file_mib: int

    @classmethod
    def of(cls, settings: Settings) -> Asked:
        return cls(
            settings.vault_root,
            settings.vault_secret_file,
            settings.vault_storage,
            settings.vault_storage_country,
            settings.vault_storage_secret_file,
            settings.vault_person_mib,
            settings.vault_file_mib,
        )

    @classmethod
    def read(cls, text: str) -> Asked:
        """What `text` made."""
        value: dict[str, Any] = json.loads(text)
        return cls(**value)

    def text(self) -> str:
        """For a command line: it holds no secret, only where secrets stand."""
        return json.dumps(asdict(self))

    @property
    def person_bytes(self) -> int:
        return self.person_mib << 20

    @property
    def file_bytes(self) -> int:
        return self.file_mib << 20


def root(home: Home, asked: Asked) -> Root:
    """Raises ConfigError: it cannot be opened; says what is wrong. Unavailable: whoever keeps it does not answer."""
    secret = Path(asked.secret_file) if asked.secret_file else None
    if not asked.root:
        return PassphraseRoot(home.keys / "vault.root", secret or home.keys / "vault.passphrase")
    if secret is None:
        raise ConfigError("vault_root needs vault_secret_file: a PIN or a token in a file", location="settings")
    if asked.root.startswith("pkcs11:"):
        from daulat.adapters.vault_pkcs11 import Pkcs11Root  # noqa: PLC0415  only installed where there is a token

        return Pkcs11Root(asked.root, secret)
    if asked.root.startswith(("https://", "http://")):
        return TransitRoot(asked.root, secret)
    raise ConfigError(
        f"vault_root is {asked.root[:80]!r}, expected pkcs11:... or https://HOST/v1/transit/keys/NAME, or nothing",
        location="settings",
    )


def place(home: Home, asked: Asked, country: str) -> tuple[Place, Site]:
    """Raises ConfigError, PermissionDenied: it is no such place, or lies elsewhere than it says."""
    if not asked.storage:
        path = home.vault / "objects"
        return Folder(path), residency.folder(digest(os.fspath(path)), country)
    if not asked.storage.startswith("s3+"):
        words = f"vault_storage is {asked.storage[:80]!r}, expected s3+https://HOST/BUCKET, or nothing"
        raise ConfigError(words, location="settings")
    if not asked.storage_secret_file:
        raise ConfigError("a bucket needs vault_storage_secret_file: ACCESS_KEY_ID:SECRET", location="settings")
    from daulat.adapters.vault_s3 import Bucket  # noqa: PLC0415  only installed where there is a bucket

    bucket = Bucket(asked.storage, Path(asked.storage_secret_file))
    return bucket, residency.bucket(digest(asked.storage), bucket.region(), bucket.host, asked.storage_country)


def digest(address: str) -> str:
    """What the log has of an address."""
    return hashlib.sha256(f"daulat/place/v1\n{address}\n".encode()).hexdigest()

"""What the settings may say of the vault, and what is wrong with the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from daulat.adapters.vault_root import PassphraseRoot
from daulat.errors import ConfigError
from daulat.processes import keeping
from daulat.settings import Home, Settings

NOTHING = keeping.Asked.of(Settings())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


def test_by_default_a_passphrase_is_made_once_and_a_folder_of_the_home_is_used(home: Home) -> None:
    root = keeping.root(home, NOTHING)
    assert isinstance(root, PassphraseRoot)
    assert keeping.root(home, NOTHING).version() == root.version()
    for name in ("vault.root", "vault.passphrase"):
        assert (home.keys / name).stat().st_mode & 0o777 == 0o600
    place, site = keeping.place(home, NOTHING, "MY")
    assert (site.kind, site.jurisdiction, len(site.place)) == ("folder", "MY", 64)
    assert place.put("obj_1", [b"x"]) == 1
    assert (home.vault / "objects").stat().st_mode & 0o777 == 0o700


def test_a_wrong_passphrase_or_a_changed_root_is_said(home: Home) -> None:
    keeping.root(home, NOTHING)
    passphrase, root = home.keys / "vault.passphrase", home.keys / "vault.root"
    right, whole = passphrase.read_text(), root.read_text()
    passphrase.write_text("another passphrase\n")
    with pytest.raises(ConfigError, match="passphrase is wrong"):
        keeping.root(home, NOTHING)
    passphrase.write_text("short\n")
    with pytest.raises(ConfigError, match="expected one passphrase"):
        keeping.root(home, NOTHING)
    passphrase.write_text(right)
    for before, after in (
        ('"n": 131072', '"n": 16384'),
        ('"current": "', '"current": "0'),
        ("vault-root/v1", "v2"),
        ("{", "["),
    ):
        root.write_text(whole.replace(before, after, 1))
        with pytest.raises(ConfigError):
            keeping.root(home, NOTHING)
    passphrase.chmod(0o644)
    root.write_text(whole)
    with pytest.raises(ConfigError, match="others may read the passphrase"):
        keeping.root(home, NOTHING)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"root": "pkcs11:token=a;object=b?module-path=/x"}, "vault_secret_file"),
        ({"root": "file:/x", "secret_file": "/x"}, "expected pkcs11"),
        ({"root": "http://far.example/v1/transit/keys/k", "secret_file": "/x"}, "https only"),
        ({"root": "https://far.example/keys/k", "secret_file": "/x"}, "expected https"),
    ],
)
def test_roots_that_cannot_be(home: Home, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        keeping.root(home, replace(NOTHING, **changes))


@pytest.mark.parametrize(
    ("storage", "secret", "words"),
    [
        ("ftp://x/y", "/x", "expected s3"),
        ("s3+https://host/bucket", "", "vault_storage_secret_file"),
        ("s3+http://far.example/bucket", "/x", "https only"),
        ("s3+https://host/UPPER", "/x", "expected s3"),
    ],
)
def test_places_that_cannot_be(home: Home, storage: str, secret: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        keeping.place(home, replace(NOTHING, storage=storage, storage_secret_file=secret), "MY")


def test_what_a_child_is_told_comes_through_its_command_line(home: Home) -> None:
    said = replace(NOTHING, storage="s3+https://host/bucket", person_mib=7)
    assert keeping.Asked.read(said.text()) == said
    assert said.person_bytes == 7 << 20

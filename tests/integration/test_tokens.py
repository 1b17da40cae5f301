"""An operator's key in a real PKCS#11 token (SoftHSM2): made there, signs there, never comes out."""

from __future__ import annotations

from pathlib import Path

import pkcs11
import pytest
from tests.support.outside_vaults import softhsm_token
from tests.support.service import daulat

from daulat.adapters import operator_key, token_key
from daulat.errors import ConfigError, Conflict
from daulat.tlog.note import Signer, Verifier

pytestmark = pytest.mark.slow
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "482913"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the PIN of a token that is called aminah."""
    folder = tmp_path_factory.mktemp("token")
    (folder / "pin").write_text(f"{PIN}\n")
    softhsm_token(folder, "aminah", PIN)
    return folder


@pytest.fixture(scope="module")
def key(token: Path) -> Path:
    path = token / "aminah.key"
    made = ("--name", "aminah", "--pkcs11", MODULE, "--token", "aminah", "--passphrase-file", str(token / "pin"))
    vkey = daulat("operator", "key", str(path), *made)["vkey"]
    assert vkey == daulat("operator", "vkey", str(path))["vkey"] == operator_key.vkey(path)
    return path


def test_it_signs_as_any_other_key_and_the_file_holds_no_secret(key: Path) -> None:
    with operator_key.opened(key, PIN) as opened:
        signature = opened.sign_bytes(b"some bytes")
    Verifier(opened.vkey).verify_bytes(b"some bytes", signature)
    assert operator_key.secret_name(key) == "PIN of the token"
    assert PIN not in key.read_text()
    assert set(token_key.read(key).__slots__) == {"vkey", "module", "token", "id"}


def test_it_does_not_leave_the_token(key: Path, token: Path) -> None:
    place = token_key.read(key)
    with pkcs11.lib(MODULE).get_token(token_label="aminah").open(user_pin=PIN) as session:
        private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, id=bytes.fromhex(place.id))
        assert private[pkcs11.Attribute.SENSITIVE]
        assert not private[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.AttributeSensitive):
            private[pkcs11.Attribute.VALUE]


def test_what_is_wrong_is_said(key: Path, token: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the PIN is wrong"), operator_key.opened(key, "000000"):
        pass
    with pytest.raises(Conflict, match="exists already"):
        token_key.create(key, "aminah", MODULE, "aminah", PIN)
    for changes, words in (
        (("aminah", "nobody"), "no such token"),
        ((MODULE, "/no/such/library.so"), "cannot be used"),
        ((token_key.read(key).id, "00" * 16), "has no such key"),
    ):
        other = tmp_path / "other"
        text = key.read_text()
        other.write_text(f'"{changes[1]}"'.join(text.rsplit(f'"{changes[0]}"', 1)))
        with pytest.raises(ConfigError, match=words), operator_key.opened(other, PIN):
            pass
    (tmp_path / "swapped").write_text(key.read_text().replace(operator_key.vkey(key), _other()))
    with operator_key.opened(tmp_path / "swapped", PIN) as opened, pytest.raises(ConfigError, match="another key"):
        opened.sign_bytes(b"some bytes")


def _other() -> str:
    return Signer("aminah", bytes(32)).vkey


def test_a_token_takes_part_in_a_ceremony(key: Path, token: Path, tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("a passphrase for tests alone\n")
    vkeys = {"aminah": operator_key.vkey(key)}
    for name in ("bina", "chong"):
        made = ("--name", name, "--passphrase-file", str(tmp_path / "passphrase"))
        vkeys[name] = daulat("operator", "key", str(tmp_path / name), *made)["vkey"]
    seats = [word for name, vkey in vkeys.items() for word in ("--operator", name, "MY", vkey)]
    path = str(tmp_path / "ceremony.json")
    daulat("init", "draft", path, "--name", "ai.example", *seats, home=tmp_path / "home")
    pin = ("--key", str(key), "--passphrase-file", str(token / "pin"), "--yes")
    assert daulat("init", "sign", path, *pin)["missing"] == ["bina", "chong"]

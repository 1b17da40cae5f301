"""An operator's key: opened by its passphrase alone, and by nothing that was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daulat.adapters import sealed_key
from daulat.errors import ConfigError, Conflict
from daulat.tlog.note import Verifier

PASSPHRASE = "three blind mice, and a cat"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daulat.adapters.passphrase.COSTS", {"n": 2, "r": 8, "p": 1})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    sealed_key.create(tmp_path / "key", "aminah", PASSPHRASE)
    return tmp_path / "key"


def test_the_passphrase_opens_it(path: Path) -> None:
    signer = sealed_key.unseal(path, PASSPHRASE)
    assert signer.vkey == sealed_key.vkey(path)
    Verifier(signer.vkey).verify_bytes(b"words", signer.sign_bytes(b"words"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert signer.export().split("+", 4)[-1] not in path.read_text()


def test_a_wrong_passphrase_opens_nothing_and_is_not_repeated(path: Path) -> None:
    for wrong in ("", PASSPHRASE[:-1], PASSPHRASE.upper()):
        with pytest.raises(ConfigError, match="the passphrase is wrong") as caught:
            sealed_key.unseal(path, wrong)
        assert not wrong or wrong not in str(caught.value)


def test_a_key_is_never_written_over(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(Conflict, match="exists already"):
        sealed_key.create(path, "aminah", PASSPHRASE)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "passphrase", "words"), [("aminah", "short", "at least 12"), ("a b", PASSPHRASE, "space")]
)
def test_what_makes_no_key_leaves_no_file(tmp_path: Path, name: str, passphrase: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sealed_key.create(tmp_path / "key", name, passphrase)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["vkey", "salt", "n", "r", "nonce", "sealed"])
def test_nothing_in_the_file_can_be_exchanged(path: Path, tmp_path: Path, field: str) -> None:
    sealed_key.create(tmp_path / "other", "aminah", PASSPHRASE)
    value, other = json.loads(path.read_text()), json.loads((tmp_path / "other").read_text())
    if field in {"salt", "n", "r"}:
        value["scrypt"][field] = {"salt": other["scrypt"]["salt"], "n": 4, "r": 4}[field]
    else:
        value[field] = other[field]
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="the file was changed"):
        sealed_key.unseal(path, PASSPHRASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "another"},
        {"vkey": "nonsense"},
        {"vkey": None},
        {"scrypt": None},
        {"scrypt": {"salt": "AAAA", "n": 3, "r": 8, "p": 1}},
        {"scrypt": {"salt": "AAAA", "n": 2**30, "r": 8, "p": 1}},
        {"scrypt": {"salt": "AAAA", "n": True, "r": 8, "p": 1}},
        {"scrypt": {"n": 2, "r": 8, "p": 1}},
        {"sealed": 7},
    ],
    ids=str,
)
def test_what_is_no_key_is_said_to_be_none(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ConfigError, match="is no key of the format"):
        sealed_key.unseal(path, PASSPHRASE)


def test_what_is_not_base64_or_not_there_is_said(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "nonce": "*"}))
    with pytest.raises(ConfigError, match="not base64"):
        sealed_key.unseal(path, PASSPHRASE)
    with pytest.raises(ConfigError, match="cannot be read"):
        sealed_key.vkey(path.with_name("nowhere"))


@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.dictionaries(st.sampled_from(["format", "vkey", "scrypt", "n", "salt"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_other_bytes_are_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        sealed_key.unseal(path, PASSPHRASE)

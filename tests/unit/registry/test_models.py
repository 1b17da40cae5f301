"""The bounded GGUF reader, what is read from it, and the store."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.gguf_files import KEYS, make, text

from daulat import registry
from daulat.adapters import model_import
from daulat.adapters.model_import import Wishes, take_from_wheel
from daulat.adapters.models import ModelStore
from daulat.catalog.starter import STARTER, StarterModel
from daulat.errors import ConfigError, DaulatError, SealBroken
from daulat.registry import gguf

GOOD = make(KEYS)


def read(data: bytes) -> gguf.Header:
    return gguf.read(io.BytesIO(data), len(data))


def test_a_model_is_what_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GOOD)
    found = registry.facts(path)
    assert (found.name, found.architecture, found.context_length, found.licence) == (
        "a-model",
        "llama",
        2048,
        "apache-2.0",
    )
    assert (found.parameters, found.tensors, found.quantisation, found.embeds) == (8, 1, "F32", False)
    assert found.digest == hashlib.sha256(GOOD).hexdigest()
    assert found.templates[0].sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert found.admission()["files"] == [{"path": "model.gguf", "sha256": found.digest, "size": len(GOOD)}]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends early"),
        (b"PK\x03\x04" + GOOD[4:], "no GGUF"),
        (b"\x80\x04" + bytes(100), "no GGUF"),  # a pickle
        (GOOD[:4] + struct.pack(">I", 3) + GOOD[8:], "version"),
        (GOOD[:8] + struct.pack("<Q", 2**60) + GOOD[16:], "tensors"),
        (GOOD[:16] + struct.pack("<Q", 2**60) + GOOD[24:], "keys"),
        (GOOD[:-1], "cut short"),
        (GOOD[:40], "ends early|inside its header"),
        (make({**KEYS, "general.alignment": 3}), "power of two"),
        (make(KEYS, {"t": ()}), "dimensions"),
        (make(KEYS, {"t": (0,)}), "elements"),
        (make({"k" * 70_000: 1}), "a key of 70000"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(gguf.BadModel, match=said):
        read(data)


def test_a_lie_about_a_length_allocates_nothing() -> None:
    lie = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 2**27)
    with pytest.raises(gguf.BadModel):
        gguf.read(io.BytesIO(lie), 2**40)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=12), st.booleans())
def test_no_bytes_make_the_reader_fail_otherwise(at: int, junk: bytes, cut: bool) -> None:
    data = GOOD[:at] + junk + (b"" if cut else GOOD[at + len(junk) :])
    with suppress(gguf.BadModel):
        read(data)


def test_every_truncation_is_noticed() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(gguf.BadModel):
            read(GOOD[:end])


def test_the_store_keeps_models_under_their_hash_and_notices_a_changed_byte(tmp_path: Path) -> None:
    source, store = tmp_path / "m.gguf", ModelStore(tmp_path / "models")
    source.write_bytes(GOOD)
    facts = model_import.add(store, source, Wishes("mine", origin="here", licence="mit"))
    assert (facts.name, facts.licence) == ("mine", "mit")
    assert model_import.add(store, source, Wishes("mine")).digest == facts.digest  # once more changes nothing
    assert [item.name for item in store.all()] == ["mine"]
    assert store.find("mine").digest == store.find(facts.digest[:10]).digest == facts.digest
    kept = store.verified(facts.digest)
    assert kept.read_bytes() == GOOD
    kept.chmod(0o600)
    kept.write_bytes(GOOD[:-1] + b"x")
    with pytest.raises((SealBroken, ConfigError)):
        store.verified(facts.digest)
    with pytest.raises(DaulatError, match="nothing-like-it"):
        store.find("nothing-like-it")


def wheel(folder: Path, member: str, data: bytes) -> tuple[Path, StarterModel]:
    path = folder / "w.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, data)
    starter = replace(
        STARTER,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        sha256=hashlib.sha256(GOOD).hexdigest(),
        size=len(GOOD),
    )
    return path, starter


def test_the_starter_model_is_taken_from_its_wheel_only_when_every_hash_fits(tmp_path: Path) -> None:
    path, starter = wheel(tmp_path, STARTER.member, GOOD)
    facts = take_from_wheel(ModelStore(tmp_path / "good"), path, starter)
    assert facts.digest == starter.sha256
    changed, _ = wheel(tmp_path, STARTER.member, GOOD[:-1] + b"x")
    with pytest.raises(DaulatError):
        take_from_wheel(ModelStore(tmp_path / "bad"), changed, starter)  # another wheel
    changed, other = wheel(tmp_path, STARTER.member, GOOD[:-1] + b"x")
    with pytest.raises(DaulatError):
        take_from_wheel(ModelStore(tmp_path / "bad"), changed, other)  # that wheel, another file in it
    assert ModelStore(tmp_path / "bad").all() == []

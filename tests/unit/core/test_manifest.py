"""The list of a model's files; the forms are in `tests/vectors/manifest`."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.core import manifest
from daulat.core.manifest import ModelFile
from daulat.errors import VerificationFailed

ONE = ModelFile("model.gguf", "a" * 64, 9)
TWO = (ModelFile("config.json", "b" * 64, 2), ModelFile("model.safetensors", "c" * 64, 9))
PAPER = ModelFile(".daulat/bom.cdx.json", "d" * 64, 5)
LISTED = ModelFile(".daulat/manifest", "e" * 64, 5)


def test_an_admission_holds_when_its_digest_is_that_of_what_it_lists() -> None:
    assert manifest.holds("f" * 64, ())
    assert manifest.holds("a" * 64, (ONE, PAPER))
    assert manifest.holds(manifest.digest((ONE,)), (ONE, PAPER))
    assert manifest.holds(manifest.digest(TWO), (*TWO, PAPER, LISTED))
    assert manifest.holds("e" * 64, (PAPER, LISTED))
    assert not manifest.holds("f" * 64, (ONE,))
    assert not manifest.holds("b" * 64, TWO)
    assert not manifest.holds("f" * 64, (PAPER, LISTED))
    assert not manifest.holds("d" * 64, (PAPER,))
    with pytest.raises(VerificationFailed, match="stands twice"):
        manifest.holds("f" * 64, (ONE, ONE))


def test_the_order_in_which_files_come_does_not_matter() -> None:
    assert manifest.digest(TWO) == manifest.digest(TWO[::-1])


def test_as_many_files_as_may_be() -> None:
    many = [ModelFile(f"{number:05}", "a" * 64, 1) for number in range(manifest.MOST_FILES)]
    assert len(manifest.parse(manifest.text(many).encode())) == manifest.MOST_FILES
    with pytest.raises(VerificationFailed, match="10001 files"):
        manifest.text([*many, ModelFile("more", "a" * 64, 1)])


GOOD = manifest.text(TWO).encode()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8), st.booleans())
def test_what_is_read_is_what_would_be_written(at: int, junk: bytes, cut: bool) -> None:
    data = GOOD[:at] + junk + (b"" if cut else GOOD[at + len(junk) :])
    with suppress(VerificationFailed):
        assert manifest.text(manifest.parse(data)).encode() == data

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daulat.errors import VerificationFailed
from daulat.tlog import checkpoint, note, proof
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.merkle import inclusion_path, leaf_hash, root
from daulat.tlog.note import Signer, Verifier

# The example of c2sp.org/signed-note, *Verifier keys*.
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
SIGNER = Signer("ai.example/2026", bytes(range(32)))


def test_the_specification_s_example_verifies() -> None:
    opened = note.open_note(NOTE, [Verifier(VKEY)])
    assert (opened.text, opened.verified) == (b"This is an example message.\n", ("example.com/foo",))


def test_every_flipped_bit_of_a_note_is_caught() -> None:
    verifier = Verifier(VKEY)
    for position in range(len(NOTE)):
        for bit in range(8):
            changed = NOTE[:position] + bytes([NOTE[position] ^ 1 << bit]) + NOTE[position + 1 :]
            with pytest.raises(VerificationFailed):
                note.open_note(changed, [verifier])


def test_keys_survive_export_and_do_not_show_themselves() -> None:
    again = Signer.load(SIGNER.export())
    assert again.vkey == SIGNER.vkey
    assert SIGNER.export() not in repr(SIGNER)
    assert again.sign_bytes(b"x") == SIGNER.sign_bytes(b"x")
    with pytest.raises(ValueError, match="does not match"):
        Signer.load(SIGNER.export().replace("2026", "2027"))
    for wrong in ("", "PRIVATE+KEY+a+b+c", VKEY):
        with pytest.raises(ValueError, match="key"):
            Signer.load(wrong)


def test_unknown_signatures_are_ignored_and_one_known_is_needed() -> None:
    other = Signer("witness.example", bytes(32))
    signed = note.sign(b"text\n", [SIGNER, other])
    opened = note.open_note(signed, [Verifier(SIGNER.vkey)])
    assert (opened.verified, opened.unknown) == ((SIGNER.name,), 1)
    with pytest.raises(VerificationFailed, match="no signature of a known key"):
        note.open_note(note.sign(b"text\n", [other]), [Verifier(SIGNER.vkey)])


@pytest.mark.parametrize("vkey", ["", "a+b", "a+00000000+AA==", VKEY.replace("foo", "bar"), VKEY[:-4], "a b+c+d"])
def test_malformed_vkeys_are_refused(vkey: str) -> None:
    with pytest.raises(VerificationFailed):
        Verifier(vkey)


@pytest.mark.parametrize("text", [b"", b"no newline", b"tab\t\n", b"cr\r\n"])
def test_texts_that_are_no_note_are_not_signed(text: bytes) -> None:
    with pytest.raises(ValueError, match="newline"):
        note.sign(text, [SIGNER])


@given(
    st.text(st.characters(categories=["L", "N"]), min_size=1),
    st.integers(0, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
)
def test_checkpoints_are_read_back(origin: str, size: int, root: bytes) -> None:
    written = Checkpoint(origin, size, root)
    assert checkpoint.parse(written.text()) == written


@pytest.mark.parametrize(
    "text",
    [
        b"", b"o\n1\n", b"o\n01\nAAAA\n", b"o\n-1\nAAAA\n", b"o\n1\n????\n", b"o\n1\nAAAA\n", b"\n1\nAAAA\n", b"\xff\n",
        b"o\n1\n" + base64.b64encode(bytes(32)), b"o\n1\n" + base64.b64encode(bytes(32)) + b"\n\n",
        "o\n١\n".encode() + base64.b64encode(bytes(32)) + b"\n",
    ],
)  # fmt: skip
def test_malformed_checkpoints_are_refused(text: bytes) -> None:
    with pytest.raises(VerificationFailed):
        checkpoint.parse(text)


def test_a_checkpoint_of_another_origin_is_refused() -> None:
    signed = checkpoint.sign(Checkpoint("other/2026", 0, bytes(32)), [SIGNER])
    with pytest.raises(VerificationFailed, match="other/2026"):
        checkpoint.open_checkpoint(signed, Verifier(SIGNER.vkey))


def test_a_proof_stands_on_its_own_and_breaks_when_touched() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(5)]
    signed = checkpoint.sign(Checkpoint(SIGNER.name, 5, root(leaves)), [SIGNER])
    made = proof.Proof(3, inclusion_path(3, leaves), signed, b"extra")
    read = proof.parse(made.encode())
    assert read == made
    assert read.verify(leaves[3], Verifier(SIGNER.vkey)).size == 5
    with pytest.raises(VerificationFailed):
        read.verify(leaves[2], Verifier(SIGNER.vkey))
    for wrong in (b"", made.encode().replace(b"index 3", b"index 03"), made.encode().replace(b"v1", b"v2")):
        with pytest.raises(VerificationFailed):
            proof.parse(wrong)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parsers(data: bytes) -> None:
    for parse in (checkpoint.parse, proof.parse, lambda raw: note.open_note(raw, [Verifier(VKEY)])):
        for prefix in (b"", b"c2sp.org/tlog-proof@v1\n", b"text\n\n\xe2\x80\x94 "):
            with suppress(VerificationFailed):
                parse(prefix + data)

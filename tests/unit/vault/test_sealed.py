"""A sealed object opens as what it is and as nothing else, whatever is done to its bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from daulat.errors import VerificationFailed
from daulat.vault import sealed
from daulat.vault.sealed import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, Binding, Key, opened, seal

KEY = Key(b"k" * 16, b"s" * 32)
BINDING = Binding("tenant_1", "object_1", 1)
STEP = CHUNK_BYTES + TAG_BYTES
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]


KNOWN = bytes.fromhex(  # "kept", under KEY as BINDING; data key 00..1f, nonce 00..0b, prefix 00..06
    "6461756c6174206f626a65637420310a6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b000102030405060708090a0bb9dc439f"
    "514fc718c94edced754a6cf118fcd7835b18f7e37f67aa4a8587394aca1b197846d4664ff7d6b7f5d437112300010203"
    "0405061e13c52a0978312814ecf83bede64b0bc06d3479"
)


def sealed_bytes(plaintext: bytes) -> bytes:
    return b"".join(seal([plaintext], KEY, BINDING))


def open_whole(data: bytes, key: Key = KEY, binding: Binding = BINDING) -> bytes:
    return b"".join(opened([data], key, binding))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_opens_again_and_has_the_size_that_was_said(size: int) -> None:
    plaintext = os.urandom(size)
    data = sealed_bytes(plaintext)
    assert open_whole(data) == plaintext
    assert len(data) == sealed.size_sealed(size)
    assert size < 64 or plaintext[:64] not in data  # fewer bytes may stand there by chance


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 90_000), max_size=5), st.integers(1, 100_000))
def test_pieces_of_any_size_make_the_same_object(sizes: list[int], cut: int) -> None:
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    data = b"".join(seal(pieces, KEY, BINDING))
    cuts = (data[start : start + cut] for start in range(0, len(data), cut))
    assert b"".join(opened(cuts, KEY, BINDING)) == b"".join(pieces)


def test_the_bytes_are_those_that_the_format_says() -> None:
    """Read by hand, as the module's first lines have it."""
    data = sealed_bytes(b"a" * (CHUNK_BYTES + 1))
    assert data[:16] == b"daulat object 1\n"
    assert data[16:32] == KEY.id
    bound = b"daulat/object/v1\ntenant_1\nobject_1\n1\n"
    data_key = AESGCM(KEY.secret).decrypt(data[32:44], data[44:92], bound)
    prefix, header = data[92:99], data[:99]
    import hashlib  # noqa: PLC0415  beside what it checks

    said = hashlib.sha256(header + bound).digest()
    first = AESGCM(data_key).decrypt(prefix + b"\0\0\0\0" + b"\0", data[99 : 99 + STEP], said)
    last = AESGCM(data_key).decrypt(prefix + b"\0\0\0\1" + b"\1", data[99 + STEP :], said)
    assert (first, last) == (b"a" * CHUNK_BYTES, b"a")


def test_what_was_sealed_once_opens_for_ever() -> None:
    assert open_whole(KNOWN) == b"kept"
    with pytest.raises(VerificationFailed):
        open_whole(KNOWN, binding=Binding("tenant_1", "object_1", 2))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_done_to_its_bytes_only_its_own_beginning_comes_out(data: st.DataObject) -> None:
    plain = b"".join(bytes([number]) * 30_000 for number in range(9))
    before = sealed_bytes(plain)
    at = st.integers(0, len(before)) | st.sampled_from([HEADER_BYTES + STEP * number for number in range(5)])
    start, end, where = data.draw(at), data.draw(at), data.draw(at)
    piece = data.draw(st.sampled_from([before[start:end], b"", b"\0", before[:HEADER_BYTES]]))
    changed = before[:where] + piece + before[max(where, end) :]
    out = bytearray()
    if changed == before:
        assert open_whole(changed) == plain
        return
    with pytest.raises(VerificationFailed):
        take([changed], out)
    assert plain.startswith(out)
    assert len(out) < len(plain)


def take(data: list[bytes], into: bytearray) -> None:
    for piece in opened(data, KEY, BINDING):
        into += piece


@pytest.mark.parametrize(
    "binding",
    [Binding("tenant_2", "object_1", 1), Binding("tenant_1", "object_2", 1), Binding("tenant_1", "object_1", 2)],
)
def test_it_opens_as_no_other_tenants_object_or_version(binding: Binding) -> None:
    with pytest.raises(VerificationFailed, match="put in the place of another"):
        open_whole(sealed_bytes(b"secret"), binding=binding)


def test_it_opens_under_no_other_key() -> None:
    with pytest.raises(VerificationFailed, match="another key"):
        open_whole(sealed_bytes(b"secret"), key=Key(b"x" * 16, KEY.secret))
    with pytest.raises(VerificationFailed, match="does not open"):
        open_whole(sealed_bytes(b"secret"), key=Key(KEY.id, b"t" * 32))


def test_chunks_cannot_be_moved_doubled_left_out_or_cut_off() -> None:
    data = sealed_bytes(b"".join(bytes([number]) * CHUNK_BYTES for number in range(4)))
    head, body = data[:HEADER_BYTES], data[HEADER_BYTES:]
    chunks = [body[start : start + STEP] for start in range(0, len(body), STEP)]
    assert len(chunks) == 4
    a, b, c, d = chunks
    for wrong in ([b, a, c, d], [a, a, b, c, d], [a, c, d], [a, b, c], [a, b], [a], [], [a, b, c, d, d], [a, b, d, c]):
        with pytest.raises(VerificationFailed):
            open_whole(head + b"".join(wrong))
    for cut in range(1, 40):
        with pytest.raises(VerificationFailed):
            open_whole(data[:-cut])
    with pytest.raises(VerificationFailed):
        open_whole(data + b"\0")


def test_a_chunk_of_another_object_of_the_same_key_does_not_open_here() -> None:
    one, other = sealed_bytes(b"1" * (2 * CHUNK_BYTES)), sealed_bytes(b"2" * (2 * CHUNK_BYTES))
    with pytest.raises(VerificationFailed):
        open_whole(one[: HEADER_BYTES + STEP] + other[HEADER_BYTES + STEP :])
    with pytest.raises(VerificationFailed):
        open_whole(other[:HEADER_BYTES] + one[HEADER_BYTES:])


def test_every_flipped_bit_of_a_small_object_is_found() -> None:
    data = sealed_bytes(b"a small secret")
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with pytest.raises(VerificationFailed):
                open_whole(bytes(changed))


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.binary(max_size=400))
def test_whatever_is_no_object_is_refused_in_words(data: bytes) -> None:
    for given_ in (data, sealed.MAGIC + data, sealed.MAGIC + KEY.id + data):
        with pytest.raises(VerificationFailed):
            open_whole(given_)


def test_no_more_than_a_chunk_or_two_is_held_in_memory() -> None:
    """However long it is: what has come out never lags what has gone in by more than two chunks."""
    gone_in = 0

    def pieces() -> Iterator[bytes]:
        nonlocal gone_in
        for _ in range(256):
            gone_in += CHUNK_BYTES
            yield b"\0" * CHUNK_BYTES

    came_out = 0
    for plain in opened(seal(pieces(), KEY, BINDING), KEY, BINDING):
        came_out += len(plain)
        assert gone_in - came_out <= 3 * CHUNK_BYTES
    assert came_out == 256 * CHUNK_BYTES


def test_names_with_newlines_are_not_bound() -> None:
    with pytest.raises(ValueError, match="newline"):
        Binding("a\nb", "c", 1).encode()


def test_a_key_shows_its_id_and_never_itself() -> None:
    assert "s" * 8 not in repr(KEY)
    assert KEY.id.hex() in repr(KEY)

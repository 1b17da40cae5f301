from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daulat.core import commitments
from daulat.core.promise import Promise, headers, leaves, parse_header, signed_text
from daulat.errors import VerificationFailed
from daulat.tlog import merkle

HASH = st.binary(min_size=32, max_size=32)
PROMISES = st.builds(
    Promise,
    request_id=st.from_regex(r"req_[0-9a-f]{32}", fullmatch=True),
    origin=st.just("ai.example/2026"),
    worker=st.integers(0, 10**12),
    batch=st.integers(0, 10**12),
    size=st.integers(1, 4096),
    index=st.integers(0, 4095),
    admission=HASH,
    path=st.lists(HASH, max_size=12).map(tuple),
    root=HASH,
    deadline=st.integers(0, 10**14),
    signature=st.binary(min_size=64, max_size=64),
)


@given(PROMISES)
def test_a_promise_survives_its_header(promise: Promise) -> None:
    assert parse_header(promise.header()) == promise


@pytest.mark.parametrize("size", [*range(1, 40), 255, 256, 257])
def test_the_headers_of_one_commit_are_those_of_its_promises(size: int) -> None:
    members = [f"req_{number:032x}" for number in range(size)]
    admissions = [merkle.leaf_hash(member.encode()) for member in members]
    hashes = leaves(members, admissions)
    said = {"origin": "o/2026", "worker": 7, "batch": 9, "deadline": 5, "signature": b"s" * 64}
    made = headers(members=members, admissions=admissions, tree=merkle.levels(hashes), **said)  # type: ignore[arg-type]
    for index, header in enumerate(made):
        path, root = merkle.inclusion_path(index, hashes), merkle.root(hashes)
        own = {"request_id": members[index], "index": index, "admission": admissions[index], "path": path}
        assert header == Promise(size=size, root=root, **own, **said).header()  # type: ignore[arg-type]


@given(PROMISES, st.data())
def test_a_changed_header_is_another_promise_or_an_error(promise: Promise, data: st.DataObject) -> None:
    header = promise.header()
    position = data.draw(st.integers(0, len(header) - 1))
    changed = header[:position] + data.draw(st.characters(codec="ascii")) + header[position + 1 :]
    try:
        again = parse_header(changed)
    except VerificationFailed:
        return
    # Base64 has spare bits in its last character: such a header says the same thing.
    assert again != promise or changed == header or again.header() == header


@given(st.text(max_size=300))
def test_no_header_breaks_the_parser(text: str) -> None:
    with pytest.raises(VerificationFailed):
        parse_header(text)


def test_signed_text_is_the_documented_bytes() -> None:
    expected = b"daulat/promise/v1\no/2026\n7\n9\n2\n" + base64.b64encode(b"r" * 32) + b"\n5\n"
    assert signed_text("o/2026", 7, 9, 2, b"r" * 32, 5) == expected


def test_commitment_is_the_documented_hash() -> None:
    key, request_id, body = b"k" * 32, "req_1", b'{"a":1}'
    salt = hmac.digest(key, b"daulat/salt/v1\nreq_1\nrequest", "sha256")
    expected = hashlib.sha256(b"daulat/commitment/v1\nrequest\n" + salt + body).digest()
    assert commitments.salt(key, request_id, "request") == salt
    assert commitments.commit(salt, "request", body) == base64.b64encode(expected).decode()


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_commitment_opens_to_one_body_and_one_kind(body: bytes, other: bytes) -> None:
    salt = commitments.salt(b"k" * 32, "req_1", "response")
    sealed = commitments.commit(salt, "response", body)
    assert commitments.opens(sealed, salt, "response", body)
    assert commitments.opens(sealed, salt, "response", other) == (body == other)
    assert not commitments.opens(sealed, salt, "request", body)
    running = commitments.opening(salt, "response")
    running.update(body)
    assert base64.b64encode(running.digest()).decode() == sealed


def test_pseudonyms_differ_by_key_kind_and_id() -> None:
    made = {commitments.pseudonym(key, kind, id_) for key in (b"a", b"b") for kind in ("tenant", "key") for id_ in "xy"}
    assert len(made) == 8
    assert all(len(pseudonym) == 22 for pseudonym in made)

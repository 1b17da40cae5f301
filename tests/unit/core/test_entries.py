from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daulat.core import entries
from daulat.errors import VerificationFailed


def canary(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "time": 1,
        "node": "node_1",
        "replica": "rep_1",
        "started": None,
        "nonce": "n",
        "outcome": "contained",
        "probes": [],
        "counters": None,
    }
    return fields | changes


def inference() -> bytes:
    admission = dict.fromkeys(entries.ADMISSION_FIELDS, 3) | {"lease": None}
    completion = dict.fromkeys(entries.COMPLETION_FIELDS, 4) | {"attempts": [{"replica": 8, "lease": 9}]}
    return entries.join_inference(
        *(json.dumps(part, separators=(",", ":")).encode() for part in (admission, completion))
    )


def test_encode_keeps_the_fixed_order_whatever_the_order_given() -> None:
    fields = canary()
    shuffled = dict(reversed(list(fields.items())))
    assert entries.encode("canary/v1", fields) == entries.encode("canary/v1", shuffled)
    assert list(json.loads(entries.encode("canary/v1", fields))) == list(entries.SHAPES["canary/v1"].fields)


@pytest.mark.parametrize("wrong", [{"extra": 1}, {}])
def test_encode_names_missing_and_unknown_fields(wrong: dict[str, object]) -> None:
    fields = canary(**wrong)
    if not wrong:
        del fields["nonce"]
    with pytest.raises(ValueError, match="extra" if wrong else "nonce"):
        entries.encode("canary/v1", fields)


def test_encode_refuses_what_does_not_fit_a_bundle() -> None:
    with pytest.raises(ValueError, match="65535"):
        entries.encode("canary/v1", canary(nonce="x" * entries.MAX_ENTRY_BYTES))


def test_encode_refuses_numbers_that_json_has_not() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        entries.encode("canary/v1", canary(time=float("nan")))


def test_decode_returns_what_was_encoded() -> None:
    assert entries.decode(entries.encode("canary/v1", canary())) == {"type": "canary/v1", **canary()}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "first key"),
        (b'{"time":1,"type":"canary/v1"}', "first key"),
        (b'{"type":"other/v1"}', "unknown entry type"),
        (b'{"type":["canary/v1"]}', "unknown entry type"),
        (b'{"type":"canary/v1","time":1}', "expected"),
        (b'{"type":"canary/v1","type":"canary/v1"}', "duplicate key"),
        (b'{"type":"inference/v1","admission":1,"completion":{}}', "not an object"),
        (b"[" * 60_000, "not JSON"),
        (b"[" * 100_000, "65535 fit"),
        (b"\xff", "not JSON"),
    ],
)
def test_decode_says_what_is_wrong(entry: bytes, reason: str) -> None:
    with pytest.raises(VerificationFailed, match=reason):
        entries.decode(entry)


def test_references_descend_into_lists_and_skip_optional_nulls() -> None:
    found = list(entries.references(entries.decode(inference())))
    assert ("completion.attempts[].lease", 9, "node.lease/v1") in found
    assert ("admission.worker", 3, "key/v1") in found
    assert all(path != "admission.lease" for path, _, _ in found)


@pytest.mark.parametrize("bad", [None, -1, True, "3", 1.0])
def test_a_reference_that_is_no_index_is_refused(bad: object) -> None:
    entry = {"type": "node.revoked/v1", "time": 1, "node": "n", "lease": bad, "reason": "r"}
    with pytest.raises(VerificationFailed, match="lease"):
        list(entries.references(entry))


def test_admission_bytes_are_the_very_bytes_that_were_joined() -> None:
    admission = b'{"a": 1 ,"b":"\xc3\xa9}{"}'
    assert entries.admission_bytes(entries.join_inference(admission, b"{}")) == admission


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"time":1', b'"time": 1'),
        (b'"time":1', b'"time":1.0e0'),
        (b'"time":1', b'"time":-0'),
        (b'"time":1', b'"time":NaN'),
        (b'"node_1"', b'"node\\u005f1"'),
        (b'"node_1"', b'"\\ud800"'),
        (b'"node_1"', b'"\\/"'),
        (b'"type"', b'"\\u0074ype"'),
    ],
)
def test_an_entry_has_one_form_only(old: bytes, new: bytes) -> None:
    entry = entries.encode("canary/v1", canary())
    assert old in entry
    with pytest.raises(VerificationFailed, match=r"one form|not JSON"):
        entries.decode(entry.replace(old, new, 1))
    for coded in (entry + b"\n", b"\xef\xbb\xbf" + entry, entry.decode().encode("utf-16")):
        with pytest.raises(VerificationFailed):
            entries.decode(coded)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_survives_encoding(text: str) -> None:
    assert entries.decode(entries.encode("canary/v1", canary(node=text)))["node"] == text


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parsers_fail_otherwise(data: bytes) -> None:
    for prefix in (b"", b'{"type":"inference/v1","admission":'):
        for parse in (entries.decode, entries.admission_bytes):
            with suppress(VerificationFailed):
                parse(prefix + data)

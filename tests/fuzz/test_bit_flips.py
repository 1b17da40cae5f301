"""One bit, anywhere: in a receipt, a promise, a checkpoint, a tile or an entry bundle. Each is caught."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.support import lies, logs
from tests.support.logs import REQUEST, RESPONSE, T0, VERIFIER, Published

from daulat.audit import promises
from daulat.audit import receipt as receipts
from daulat.audit.log import audit
from daulat.audit.receipt import Given
from daulat.audit.walk import Terms
from daulat.core.entries import admission_bytes
from daulat.core.promise import parse_header
from daulat.errors import VerificationFailed
from daulat.tlog import checkpoint
from daulat.tlog.note import Verifier

TERMS = Terms(now=T0 + logs.DAY)
GIVEN = Given(REQUEST, RESPONSE)
TREE = {"root", "tile", "log"}


def flips(data: bytes, bits: range = range(8), step: int = 1, first: int = 0) -> Iterator[bytes]:
    """The data with one bit changed, for every bit of every byte (or every `step`th)."""
    for position in range(first, len(data), step):
        for bit in bits:
            yield data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def small() -> Published:
    """A log whose receipts are short: rules of one line."""
    rule = logs.policy_file("a.cedar", "// none")
    return logs.write({"policy": {"files": [rule]}})


def receipt(*, indent: int | None = None) -> bytes:
    return json.dumps(small().receipt("answer"), ensure_ascii=False, indent=indent).encode()


def accepted(data: bytes) -> bool:
    with suppress(VerificationFailed):
        receipts.verify(data, VERIFIER, GIVEN)
        return True
    return False


def unharmed(original: bytes, changed: bytes) -> bool:
    """Whether both are the same JSON: what is allowed to be accepted (white space, say)."""
    value: Any = json.loads(changed)
    return bool(value == json.loads(original))


def test_a_bit_of_every_byte_of_a_receipt() -> None:
    whole = receipt()
    assert accepted(whole)
    for position in range(len(whole)):
        bit = 1 << position % 8
        changed = whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :]
        assert not accepted(changed), f"byte {position}, bit {bit}: {whole[max(0, position - 20) : position + 20]!r}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("indent", [None, 1])
def test_every_bit_of_a_receipt(part: int, indent: int | None) -> None:
    whole = receipt(indent=indent)
    for changed in flips(whole, range(part, part + 1)):
        assert not accepted(changed) or unharmed(whole, changed)


def test_every_bit_of_a_promise() -> None:
    log = small()
    promise = log.promise("denied", "stream", of="answer")
    header, worker = promise.header().encode(), Verifier(logs.WORKER.vkey)

    def holds(text: str) -> bool:
        found = parse_header(text)
        promises.check_signature(found, worker)
        promises.check_kept(found, admission_bytes(log.entries[log.names["answer"]]))
        return found.header() == text and found.request_id == promise.request_id

    assert holds(header.decode())
    for changed in flips(header):
        with suppress(VerificationFailed):
            assert not holds(changed.decode("latin-1"))
    body = json.dumps(log.receipt("answer")).encode()
    for changed in flips(header, range(4, 5), step=7):
        with pytest.raises(VerificationFailed, match="step 8"):
            receipts.verify(body, VERIFIER, Given(promise=changed.decode("latin-1")))


def test_every_bit_of_a_checkpoint() -> None:
    signed = small().signed
    for changed in flips(signed):
        with pytest.raises(VerificationFailed):
            checkpoint.open_checkpoint(changed, VERIFIER)


def caught(log: Published, path: str, changed: bytes) -> bool:
    kept, log.files[path] = log.files[path], changed
    found = {finding.kind for finding in audit(log, VERIFIER, TERMS).findings.kept if finding.lie}
    log.files[path] = kept
    return bool(found & TREE)


@pytest.mark.parametrize("path", ["tile/entries/000.p/5", "tile/0/000.p/5"])
def test_every_bit_of_a_bundle_and_a_tile(path: str) -> None:
    """Over entries of a few bytes, so that every bit can be tried; that they are no entries is another finding."""
    log = logs.publish([b'{"n":%d}' % number for number in range(5)])
    assert not caught(log, path, log.files[path])
    for changed in flips(log.files[path]):
        assert caught(log, path, changed)


def test_every_bit_of_an_upper_tile_and_some_of_full_ones() -> None:
    log = lies.long_log()
    assert audit(log, VERIFIER, TERMS).holds
    for changed in flips(log.files["tile/1/000.p/2"], range(0, 8, 3)):
        assert caught(log, "tile/1/000.p/2", changed)
    for path in ("tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/entries/000", "tile/entries/002.p/88"):
        for changed in flips(log.files[path], range(5, 6), step=len(log.files[path]) // 25, first=3):
            assert caught(log, path, changed), path


@pytest.mark.slow
def test_every_byte_of_a_real_bundle() -> None:
    log = small()
    for number, changed in enumerate(flips(log.files["tile/entries/000.p/20"], range(1))):
        assert caught(log, "tile/entries/000.p/20", changed), f"byte {number}"

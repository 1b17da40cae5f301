"""Each step of a receipt's verification, and the words in which it refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.support import logs
from tests.support.logs import REQUEST, RESPONSE, STRANGER, VERIFIER, Step, write

from daulat.audit import promises, receipt
from daulat.audit.receipt import Given, Verdict
from daulat.errors import VerificationFailed
from daulat.policy.cedar import CedarDecider
from daulat.tlog import tiles
from daulat.tlog.note import Signer, Verifier
from daulat.tlog.proof import Proof

LOG = write()
GOOD = LOG.receipt("answer")


def verify(value: Any, **given: Any) -> Verdict:
    data = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return receipt.verify(data, VERIFIER, Given(**given))


def with_entry(**changes: Any) -> dict[str, Any]:
    first, *rest = GOOD["entries"]
    return {**GOOD, "entries": [{**first, **changes}, *rest]}


def proof_with_another_checkpoint() -> dict[str, Any]:
    witness = Signer("witness.example", bytes(32))
    text = LOG.signed.partition(b"\n\n")[0] + b"\n"
    more = LOG.signed + witness.sign(text).encode() + b"\n"
    index = LOG.names["answer"]
    path = tiles.inclusion_proof(index, tiles.Hashes(len(LOG.entries), LOG))
    return {**GOOD, "tlog_proof": Proof(index, path, more).encode().decode()}


def about_a_lease() -> dict[str, Any]:
    """A receipt whose first entry is no request."""
    by_index = {item["index"]: item for item in GOOD["entries"]}
    index = LOG.names["lease"]
    path = tiles.inclusion_proof(index, tiles.Hashes(len(LOG.entries), LOG))
    rest = [by_index[number] for number in sorted(by_index) if number < index]
    proof = Proof(index, path, LOG.signed).encode().decode()
    return {**GOOD, "entries": [by_index[index], *rest], "tlog_proof": proof}


def text(old: str, new: str) -> Callable[[], bytes]:
    data = json.dumps(GOOD, ensure_ascii=False)
    assert old in data
    return lambda: data.replace(old, new, 1).encode()


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "too long": (lambda: b" " * (receipt.MAX_BYTES + 1), r"step 1 .*at most"),
    "no number": (text('"index": 9', '"index": NaN'), r"step 1 .*not a JSON number"),
    "two ways to write a letter": (text("daulat/receipt", "daulat\\u002Freceipt"), r"step 1 .*small letters"),
    "no entries": (lambda: {**GOOD, "entries": []}, r"step 1 .*list of 1 to"),
    "too many entries": (lambda: {**GOOD, "entries": [0] * (receipt.MAX_ENTRIES + 1)}, r"step 1 .*list of 1 to"),
    "an entry of another form": (lambda: with_entry(more=1), r"step 1 .*index, entry and proof"),
    "a negative index": (lambda: with_entry(index=-1), r"step 1 .*natural number"),
    "an index that is a truth": (lambda: with_entry(index=True), r"step 1 .*natural number"),
    "an entry that is no text": (lambda: with_entry(entry=1), r"step 1 .*not a string"),
    "half a character": (lambda: with_entry(entry="\\ud800"), r"step 3"),
    "a proof that is no list": (lambda: with_entry(proof="x"), r"step 1 .*list of at most"),
    "a proof without end": (lambda: with_entry(proof=["A"] * 65), r"step 1 .*list of at most"),
    "a hash that is none": (lambda: with_entry(proof=["AAAA"]), r"step 1 .*canonical base64"),
    "salts of another kind": (lambda: {**GOOD, "salts": {"answer": ""}}, r"step 1 .*request and response"),
    "another origin": (lambda: {**GOOD, "origin": "ai.other/2026"}, r"step 2 .*says origin"),
    "a proof with another checkpoint": (proof_with_another_checkpoint, r"step 3 .*not about this receipt"),
    "not about a request": (about_a_lease, r"step 4 .*expected inference/v1"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name: str) -> None:
    make, words = REFUSALS[name]
    with pytest.raises(VerificationFailed, match=words):
        verify(make())


def test_promises_are_held_against_this_very_request() -> None:
    steps = logs.after(logs.story(), "worker", Step("worker-2", "key/v1", logs.key(35, "worker", STRANGER.vkey)))
    log = write(steps=steps)
    good = log.receipt("answer")
    for made, words in (
        (log.promise(of="stream").header(), "another request"),
        (log.promise(of="answer", origin="ai.other/2026").header(), "another log"),
        (log.promise(of="answer", worker=log.names["worker-2"], signer=STRANGER).header(), "admitted by worker"),
        (log.promise(of="answer", admission=bytes(32), path=(), root=bytes(32)).header(), "another root"),
        (log.promise(of="answer").header() + ", ", "canonical"),
    ):
        with pytest.raises(VerificationFailed, match=rf"step 8 .*{words}"):
            verify(good, promise=made)
    promise = log.promise("denied", of="answer")
    for now, words in ((promise.deadline, "kept in time"), (promise.deadline + 1, "when, this receipt does not show")):
        assert any(words in line for line in verify(good, promise=promise.header(), now=now).proven)


def test_a_promise_has_a_bounded_path() -> None:
    promise = LOG.promise(of="answer", path=(bytes(32),) * 33, size=2**33)
    with pytest.raises(VerificationFailed, match="at most 32"):
        promises.check_signature(promise, Verifier(logs.WORKER.vkey))


def test_decisions_are_run_again_where_something_can_run_them() -> None:
    assert any("run again here" in words for words in verify(GOOD, decider=CedarDecider).proven)
    for changes in (
        {"answer": {"admission.attributes.roles": []}},
        {"lease": {"decision.policies": ["use.permit"]}},
        {"model": {"decision.policies": ["use.permit"]}},
    ):
        lying = write(changes).receipt("answer")
        verify(lying)
        with pytest.raises(VerificationFailed, match=r"step 9 .*the policy says"):
            verify(lying, decider=CedarDecider)
    limited = verify(LOG.receipt("limited"), decider=CedarDecider)
    assert any("the gateway's own" in words for words in limited.proven)


def test_rules_that_are_not_at_hand_are_fetched_or_said_to_be_missing() -> None:
    rules = logs.rules()
    long = rules[-1]
    log = write({"policy": {"files": [*rules[:-1], {**long, "text": None}]}})
    value = log.receipt("answer")

    def blob(data: bytes) -> Callable[[str], bytes]:
        return lambda _digest: data

    assert any("policy decides" in words for words in verify(value, decider=CedarDecider).unproven)
    found = verify(value, decider=CedarDecider, blob=blob(long["text"].encode()))
    assert any("run again here" in words for words in found.proven)
    with pytest.raises(VerificationFailed, match=r"step 9 .*another SHA-256"):
        verify(value, decider=CedarDecider, blob=blob(b"other"))
    digest = hashlib.sha256(b"\xff").hexdigest()
    binary = write({"policy": {"files": [*rules[:-1], {"name": "a.cedar", "sha256": digest, "text": None}]}})
    with pytest.raises(VerificationFailed, match=r"step 9 .*not UTF-8"):
        verify(binary.receipt("answer"), decider=CedarDecider, blob=blob(b"\xff"))


def test_bodies_that_cannot_be_opened() -> None:
    with pytest.raises(VerificationFailed, match=r"step 7 .*no salt"):
        verify({**GOOD, "salts": {}}, request=REQUEST)
    silent = write({"failed": {"completion.response": None}}).receipt("failed")
    with pytest.raises(VerificationFailed, match=r"step 7 .*none was sent"):
        verify(silent, response=RESPONSE)
    whole = verify(GOOD, request=REQUEST, response=RESPONSE)
    assert not any("give both bodies" in words for words in whole.unproven)


def test_witnesses_that_nobody_knows_do_not_count() -> None:
    log = write()
    log.signed += Signer("witness.example", bytes(32)).sign(log.signed.partition(b"\n\n")[0] + b"\n").encode() + b"\n"
    (words,) = [words for words in verify(log.receipt("answer")).short if "unwitnessed" in words]
    assert "1 signatures of keys not known here" in words

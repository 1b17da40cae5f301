"""A receipt holds its entry and all that made it lawful, each under one checkpoint, in whichever tree it stands."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import logs
from tests.support.ledger import MemoryStore
from tests.support.logs import ORIGIN, SIGNER, VERIFIER

from daulat.audit import receipt as verify
from daulat.core import entries
from daulat.errors import NotFound, VerificationFailed
from daulat.ledger import receipts
from daulat.ledger.edge import RightEdge
from daulat.tlog.checkpoint import Checkpoint, sign
from daulat.tlog.merkle import leaf_hash, verify_inclusion

STORY = logs.write()


def published(filler: int) -> tuple[MemoryStore, Checkpoint, bytes]:
    """The story, and so many other entries behind it."""
    store = MemoryStore()
    edge = RightEdge(0, store)
    store.write(dict(edge.extend([*STORY.entries, *(b"other %d" % number for number in range(filler))])))
    head = Checkpoint(ORIGIN, edge.size, edge.root())
    return store, head, sign(head, [SIGNER])


def test_everything_an_answer_rests_on_is_gathered_and_history_is_not() -> None:
    store, head, _ = published(0)
    names = {index: name for name, index in STORY.names.items()}
    gathered = receipts.gather(store, head.size, STORY.names["answer-2"])
    # The renewed lease and its canary; not the lease that it replaced, but the one its replica was started under.
    assert {names[index] for index in gathered} >= {"charter", "policy", "model", "started", "renewed", "answer-2"}
    for index, entry in gathered.items():
        for path, target, type_ in entries.references(entries.decode(entry)):
            if path not in entries.HISTORY:
                assert entries.decode(gathered[target])["type"] == type_, (index, path)
    unrelated = {"refusals", "answer", "failed", "stopped"}
    assert not unrelated & {names[index] for index in gathered}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 700))
def test_the_receipt_verifies_in_a_tree_of_any_size(filler: int) -> None:
    store, head, signed = published(filler)
    index = STORY.names["answer"]
    gathered = receipts.gather(store, head.size, index)
    built = receipts.build(store, head, signed, SIGNER.vkey, index, gathered, {})
    assert built["origin"] == ORIGIN
    assert [item["index"] for item in built["entries"]] == [index, *sorted(set(gathered) - {index})]
    for item in built["entries"]:
        path = [base64.b64decode(node) for node in item["proof"]]
        verify_inclusion(leaf_hash(item["entry"].encode()), item["index"], head.size, path, head.root)
    text = json.dumps(built).encode()
    assert verify.verify(text, VERIFIER, verify.Given()) is not None


def test_an_entry_that_no_checkpoint_covers_yet_has_no_receipt() -> None:
    store, head, _ = published(0)
    with pytest.raises(NotFound) as caught:
        receipts.gather(store, head.size, head.size)
    assert caught.value.code == "receipt_pending"


def test_a_reference_into_nowhere_is_no_receipt() -> None:
    changed = logs.write({"answer": {"admission.lease": 4000}})
    store = MemoryStore()
    edge = RightEdge(0, store)
    store.write(dict(edge.extend(changed.entries)))
    with pytest.raises((NotFound, VerificationFailed)):
        receipts.gather(store, edge.size, changed.names["answer"])

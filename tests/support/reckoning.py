"""What clients saw against what the log says: the two promises of the request path, and the log's own."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.support.load import Exchange

from daulat.adapters.log_files import LogFiles, LogFolder, current_period
from daulat.adapters.snapshot_file import SnapshotFile
from daulat.audit.log import Report, audit
from daulat.audit.walk import Terms
from daulat.core import commitments, entries
from daulat.core.promise import parse_header
from daulat.ledger.reading import read_entries
from daulat.policy.cedar import CedarDecider
from daulat.settings import Home
from daulat.tlog.checkpoint import open_checkpoint
from daulat.tlog.merkle import verify_consistency
from daulat.tlog.note import Verifier
from daulat.tlog.tiles import Hashes, consistency_proof

LATER_MS = 3_600_000  # by then every promise is due and nothing can be in flight


@dataclass(frozen=True)
class Reckoning:
    """A log that has been read to its end."""

    report: Report
    inferences: dict[str, dict[str, Any]]  # by request id
    outcomes: Counter[str]


def reckon(home: Home, exchanges: Iterable[Exchange]) -> Reckoning:
    """Audit the log an hour from now with the clients' promises, then hold every exchange against its entry."""
    exchanges = list(exchanges)
    log = home.log
    folder = LogFolder(log / current_period(log))
    verifier = Verifier(folder.vkey())
    promises = tuple(parse_header(exchange.promise) for exchange in exchanges if exchange.promise)
    now = round(time.time() * 1000) + LATER_MS
    terms = Terms(now=now, promises=promises, decider=CedarDecider)
    report = audit(LogFiles(folder, log / "blob"), verifier, terms)
    assert report.holds, [str(finding) for finding in report.findings.kept if finding.lie][:20]
    assert report.promises_pending == 0
    assert report.promises_kept == len(promises)
    inferences = _inferences(folder, report.size)
    keys = _epoch_keys(home)
    for exchange in exchanges:
        _accounted(exchange, inferences, keys)
    outcomes = Counter(entry["completion"]["outcome"] for entry in inferences.values())
    return Reckoning(report, inferences, outcomes)


def _inferences(folder: LogFolder, size: int) -> dict[str, dict[str, Any]]:
    """Every inference entry; none stands twice, by request or by a worker's sequence."""
    found: dict[str, dict[str, Any]] = {}
    numbers: set[tuple[int, int]] = set()
    for start in range(0, size, 4096):
        for entry in read_entries(folder, start, min(size, start + 4096), size):
            if not entry.startswith(b'{"type":"inference/v1"'):
                continue
            value = entries.decode(entry)
            admission = value["admission"]
            number = (admission["worker"], admission["sequence"])
            assert admission["request_id"] not in found, f"{admission['request_id']} was integrated twice"
            assert number not in numbers, f"{number} was integrated twice"
            found[admission["request_id"]] = value
            numbers.add(number)
    return found


def _epoch_keys(home: Home) -> dict[str, bytes]:
    """By the person's pseudonym. Salts are made of these; clients have theirs from receipts."""
    snapshot = SnapshotFile(home.snapshot).poll()
    assert snapshot is not None
    houses = {row.id: base64.b64decode(row.epoch_key) for row in snapshot.roll.tenants}
    return {row.pseudonym: commitments.personal(houses[row.tenant], row.id) for row in snapshot.roll.people}


def _accounted(exchange: Exchange, inferences: dict[str, dict[str, Any]], keys: dict[str, bytes]) -> None:
    """A client that saw a byte has an admission; one that saw the end has the completion of those very bytes."""
    if exchange.status == 0 or (exchange.status != 200 and not exchange.promise):
        return  # nothing came; or a refusal that became a count
    assert exchange.promise, f"bytes of {exchange.request_id} were seen without a promise"
    entry = inferences.get(exchange.request_id)
    assert entry is not None, f"bytes of {exchange.request_id} were seen, and the log has no entry"
    admission, completion = entry["admission"], entry["completion"]
    key = keys[admission["principal"]]
    salt = commitments.salt(key, exchange.request_id, "request")
    assert commitments.opens(admission["request"], salt, "request", exchange.request)
    if exchange.whole:
        salt = commitments.salt(key, exchange.request_id, "response")
        assert completion["status"] == exchange.status, (exchange.request_id, completion)
        assert completion["response"] is not None, (exchange.request_id, completion)
        assert commitments.opens(completion["response"], salt, "response", bytes(exchange.body)), completion


def grows(home: Home, seen: Iterable[bytes]) -> int:
    """Every checkpoint that was ever published is a prefix of the next; how many there were."""
    folder = LogFolder(home.log / current_period(home.log))
    verifier = Verifier(folder.vkey())
    heads = [open_checkpoint(signed, verifier) for signed in seen]
    newest = open_checkpoint(folder.published(), verifier)
    for before, after in zip(heads, [*heads[1:], newest], strict=True):
        assert before.size <= after.size, "a smaller tree was published"
        proof = consistency_proof(before.size, Hashes(after.size, folder))
        verify_consistency(before.size, before.root, after.size, after.root, proof)
    return len(heads)

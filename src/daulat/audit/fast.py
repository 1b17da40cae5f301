"""The layout of an `inference/v1` entry as every worker writes it, for reading 100,000 a second.

An entry falls into parts. The *route* (the caller's attributes, decision and references: everything between the
caller's pseudonyms and the sequence number, and the action before them) and the *ending* (outcome, status, error and
attempts) are the same for many requests, so each distinct one is decoded and checked once, in full, and then known by
its bytes. What remains are pseudonyms, digits and base64, which two regular expressions read.

Why that is sound: `HEAD` and `TAIL` match complete JSON members up to the entry's last byte, so a route or ending that
made a valid entry of the right shape between them once makes one between any others. No rule looks at a pseudonym, but
for a decision that is run again: that is asked once for each caller; and the name that was asked for is looked up once
for each route. Whatever does not match, or is not known yet,
takes the slow way through `core.entries.decode`; the fast way only ever says "as before".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from daulat.audit.counters import Account
from daulat.audit.facts import InferenceFacts
from daulat.audit.sequences import Worker

_NUMBER: Final = rb"(0|[1-9][0-9]{0,14})"
_COMMITMENT: Final = rb"[A-Za-z0-9+/]{43}="
_STRING: Final = rb'"[ !#-\[\]-~]*"'
_PSEUDONYM: Final = rb'"[A-Za-z0-9_-]{22}"'
HEAD: Final = re.compile(
    rb'\{"type":"inference/v1","admission":\{"request_id":"(req_[0-9a-f]{32})","time":([1-9][0-9]{12}),'
    rb'"action":"([a-z.]{1,32})",("tenant":' + _PSEUDONYM + rb',"principal":' + _PSEUDONYM + rb'),"key":' + _PSEUDONYM
    + rb',(?="attributes":)'
)  # fmt: skip
TAIL: Final = re.compile(
    rb',"sequence":' + _NUMBER + rb',"requested_model":(' + _STRING + rb'),"stream":'
    rb'(?:true|false),"request":"' + _COMMITMENT + rb'"\},"completion":\{"time":([1-9][0-9]{12}),'
    rb'("outcome":"[a-z]+","status":[0-9]+,"error":(?:null|' + _STRING + rb'),"attempts":\[[^\]]*\]),'
    rb'"usage":\{"prompt_tokens":' + _NUMBER + rb',"cached_tokens":' + _NUMBER + rb',"completion_tokens":' + _NUMBER
    + rb'\},"overhead":' + _NUMBER + rb',"response":(null|"' + _COMMITMENT + rb'")\}\}\Z'
)  # fmt: skip
ROUTE_ENDS: Final = b',"sequence":'
REFUSED: Final = "engine_refused"  # the error of what an engine answered, and not with 200
_CLIENTS: Final = range(400, 500)


@dataclass(slots=True)
class Ending:
    """One way a route's requests end."""

    last: Account | None  # the replica of the last attempt; None: no engine was asked, all tokens must be zero
    unknown: int  # 1 where that replica's tokens are not fully known
    earlier: tuple[Account, ...]  # the replicas of attempts before it
    responded: bool  # a response commitment must be there


@dataclass(slots=True)
class Route:
    """One checked route, and the admission times for which that check holds. Times are Unix milliseconds."""

    worker: Worker
    not_before: int
    not_after: int
    endings: dict[bytes, Ending] = field(default_factory=dict)
    callers: set[bytes] = field(default_factory=set)  # those about whom the decision was run again
    names: set[bytes] = field(default_factory=set)  # those asked for that this route's model may answer to


def ending(request: InferenceFacts, accounts: dict[int, Account]) -> Ending:
    """How a checked request ended, for every other that ends alike."""
    asked = [accounts[attempt.replica] for attempt in request.attempts]
    ok = request.outcome == "ok"
    # What the engine refuses as the client's mistake (4xx, handed on), it has not begun to compute.
    refused = request.outcome == "failed" and request.error == REFUSED and request.status in _CLIENTS
    return Ending(asked[-1] if asked else None, int(not ok and not refused), tuple(asked[:-1]), ok)


def split(entry: bytes) -> tuple[tuple[bytes, bytes], bytes, bytes, bytes] | None:
    """The route's, the ending's, the caller's and the name's bytes of an entry in the fixed layout, or None."""
    head = HEAD.match(entry)
    cut = entry.find(ROUTE_ENDS, head.end()) if head is not None else -1
    tail = TAIL.match(entry, cut) if cut > 0 else None
    if head is None or tail is None:
        return None
    return (head[3], entry[head.end() : cut]), tail[4], head[4], tail[2]

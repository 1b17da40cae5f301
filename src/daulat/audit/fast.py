"""The layout of an `inference/v1` entry as every worker writes it, for reading 100,000 a second.

An entry falls into parts. The *route* (action, caller, decision and references: everything between the admission's time
and its sequence number) and the *ending* (outcome, status, error and attempts) are the same for many requests, so each
distinct one is decoded and checked once, in full, and then known by its bytes. What remains are digits and base64,
which one regular expression reads.

Why that is sound: `HEAD` and `TAIL` match complete JSON members up to the entry's last byte, so a route or ending that
made a valid entry of the right shape between them once makes one between any others. Whatever does not match, or is
not known yet, takes the slow way through `core.entries.decode`; the fast way only ever says "as before".
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
HEAD: Final = re.compile(
    rb'\{"type":"inference/v1","admission":\{"request_id":"(req_[0-9a-f]{32})","time":([1-9][0-9]{12}),(?="action":)'
)
TAIL: Final = re.compile(
    rb',"sequence":' + _NUMBER + rb',"requested_model":' + _STRING + rb',"stream":'
    rb'(?:true|false),"request":"' + _COMMITMENT + rb'"\},"completion":\{"time":([1-9][0-9]{12}),'
    rb'("outcome":"[a-z]+","status":[0-9]+,"error":(?:null|' + _STRING + rb'),"attempts":\[[^\]]*\]),'
    rb'"usage":\{"prompt_tokens":' + _NUMBER + rb',"cached_tokens":' + _NUMBER + rb',"completion_tokens":' + _NUMBER
    + rb'\},"overhead":' + _NUMBER + rb',"response":(null|"' + _COMMITMENT + rb'")\}\}\Z'
)  # fmt: skip
ROUTE_AT: Final = len(b'{"type":"inference/v1","admission":{"request_id":"req_","time":,') + 32 + 13
ROUTE_ENDS: Final = b',"sequence":'


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


def ending(request: InferenceFacts, accounts: dict[int, Account]) -> Ending:
    """How a checked request ended, for every other that ends alike."""
    asked = [accounts[attempt.replica] for attempt in request.attempts]
    ok = request.outcome == "ok"
    return Ending(asked[-1] if asked else None, int(not ok), tuple(asked[:-1]), ok)


def split(entry: bytes) -> tuple[bytes, bytes] | None:
    """The route's and the ending's bytes of an entry in the fixed layout, or None for any other."""
    head = HEAD.match(entry)
    cut = entry.find(ROUTE_ENDS, ROUTE_AT)
    tail = TAIL.match(entry, cut) if cut > 0 else None
    if head is None or tail is None:
        return None
    return entry[ROUTE_AT:cut], tail[3]

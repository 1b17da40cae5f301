"""What operators sign before something is done that could weaken the promise: nobody manages alone.

A proposal names an act by the digest of its payload, the exact bytes of what will be done, and the state it was made
for by that state's digest. Whoever proposes and whoever approves signs the same seven lines, under a domain each:

    "daulat/proposal/v1\\n" origin "\\n" proposal "\\n" action "\\n" prior "\\n" payload "\\n" expires "\\n"
    "daulat/approval/v1\\n" ... the same ...

with `origin` the log's, `proposal` its id, `prior` and `payload` SHA-256 in lower-case hex, and `expires` decimal Unix
milliseconds. So a signature holds in one log, for one proposal, for those bytes, on that state, and for a while.

An operator's key stands in the log (`key/v1`, purpose "operator") under the pseudonym of its holder as its name. That
two pseudonyms are two people is what the vouching of them says: no signature can show it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal

OPERATOR: Final = "operator"  # the purpose of an operator's key
LONGEST_MS: Final = 31 * 86_400_000  # from a proposal to its end
Kind = Literal["proposal", "approval"]


def key_of(vkey: str) -> str:
    """The public key in base64, which has a "+" of its own, of a vkey: whatever name it gives the key."""
    return vkey.split("+", 2)[-1]


# What one operator may do alone, because it cannot weaken the promise: it uses what was consented to, or takes away.
ALONE: Final = frozenset(
    {
        "adminkey.create",  # for what one may do alone anyway
        "adminkey.revoke",
        "auditor.create",
        "auditor.revoke",
        "breach.close",  # clocks and notices: what happened stands in the log
        "breach.notified",
        "breach.open",
        "deployment.apply",  # of a model that is admitted
        "deployment.stop",
        "directory.create",  # says who is there, and nothing that a rule asks for
        "directory.revoke",
        "key.create",
        "key.revoke",
        "person.invite",  # for a user to prove who they are
        "limit.remove",
        "limit.set",
        "person.add",  # a user; `operator.add` is another act
        "person.change",  # of a user
        "person.correct",  # the name of a user, which the log does not learn
        "person.end",
        "prices.set",  # what tokens cost, as `prices.toml` had it at a start
        "replica.drain",
        "session.revoke",
        "tenant.add",
        "vault.rotate",  # new keys for old ones: nothing is lost, nobody sees more
    }
)
# Acts whose payload is `naming` what other entries then bring into force, so that anybody can tell these agree.
CHARTER, POLICY, MODEL = "charter.change", "policy.change", "model.admit"
RESTORE: Final = "backup.restore"  # its payload is `naming` the backup's file; done with the service stopped
LOG_KEY: Final = "logkey.rotate"  # its payload is `core.rotation.statement`; done with the service stopped

ERASURES: Final = {"person.erase": "person", "tenant.erase": "tenant"}  # by act, what `erasure/v1` says of its scope

_ACTION: Final = re.compile(r"[a-z]+(\.[a-z]+)+\Z")
_ID: Final = re.compile(r"proposal_[0-9a-f]{32}\Z")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


def naming(digest: str) -> bytes:
    """The payload of a proposal to bring into force what has this digest: a charter's, rules', a model's."""
    return f"{digest}\n".encode()


@dataclass(frozen=True, slots=True)
class Proposed:
    """What is to be done, to what, and until when."""

    origin: str
    proposal: str  # "proposal_" and 32 hex digits
    action: str
    prior: str  # hex SHA-256
    payload: str  # hex SHA-256
    expires: int  # Unix milliseconds

    @classmethod
    def of(cls, origin: str, proposal: str, action: str, prior: str, payload: str, expires: int) -> Proposed:
        """From the payload itself."""
        return cls(origin, proposal, action, prior, hashlib.sha256(payload.encode()).hexdigest(), expires)

    def wrong(self) -> str | None:
        """Why this can be no proposal, in words, or None."""
        for what, value, form in (("id", self.proposal, _ID), ("action", self.action, _ACTION)):
            if not form.match(value):
                return f"a proposal's {what} is {value[:80]!r}"
        for what, value in (("prior", self.prior), ("payload", self.payload)):
            if not _DIGEST.match(value):
                return f"a proposal's {what} is {value[:80]!r}, expected 64 hex digits"
        return None

    def statement(self, kind: Kind) -> bytes:
        """The bytes that are signed. Only of what is not `wrong`: no value holds a newline then."""
        lines = (self.origin, self.proposal, self.action, self.prior, self.payload, str(self.expires))
        return "".join(f"{line}\n" for line in (f"daulat/{kind}/v1", *lines)).encode()

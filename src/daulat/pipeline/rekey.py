"""A new key for the log: others agree to its public half before a shard begins with it.

The payload is the statement that the old and the new key will both sign in the new shard (`core.rotation`), so whoever
has both shards can tell from them alone what was agreed to. The agreement is the act: it is looked for, in the shard in
which it was made, when the next one begins (`processes.log_keys`), with the service stopped. An agreement for a shard
that never begins, or that begins with the old key, is good for nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daulat.core.rotation import parse, statement
from daulat.errors import InvalidRequest, VerificationFailed
from daulat.pipeline.consent import Prepared
from daulat.tlog.note import Verifier


@dataclass(frozen=True, slots=True)
class Rekeying:
    """`logkey.rotate`: {"old", "new"}, two vkeys under the next shard's name."""

    key: Callable[[], str]
    """The log's vkey now, under this shard's name."""
    check: Callable[[str], None]
    """Raises InvalidRequest where no shard can begin under this period."""

    def payload(self, arguments: Mapping[str, Any]) -> str:
        return statement(arguments["old"], arguments["new"]).decode()

    def read(self, payload: str) -> Mapping[str, Any]:
        """Raises InvalidRequest: it states no change of keys."""
        try:
            old, new = parse(payload)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        return {"old": old, "new": new}

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """Raises InvalidRequest: the old one is not the log's, or the new one none for the next shard."""
        if set(arguments) != {"old", "new"} or not all(isinstance(vkey, str) for vkey in arguments.values()):
            raise InvalidRequest("this act takes the old and the new vkey of the log")
        now = Verifier(self.key())
        try:
            new = Verifier(arguments["new"])
        except VerificationFailed as error:
            raise InvalidRequest(f"the new key: {error.message}") from None
        log, _, period = new.name.rpartition("/")
        if log != now.name.rpartition("/")[0] or new.vkey != arguments["new"]:
            raise InvalidRequest(f"the new key is for {new.name!r}; make it here: daulat log new-key PERIOD")
        self.check(period)
        if (old := now.renamed(new.name).vkey) != arguments["old"]:
            raise InvalidRequest(f"the log's key is {old} under that shard's name, and not the old one that is given")
        if old == new.vkey:
            raise InvalidRequest("the new key is the one that the log has")
        return old

    def vouches_for(self, _arguments: Mapping[str, Any]) -> str:
        return ""

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        async def carry_out() -> Mapping[str, Any]:
            return arguments

        return Prepared(hashlib.sha256(self.payload(arguments).encode()).hexdigest(), dict(arguments), carry_out)

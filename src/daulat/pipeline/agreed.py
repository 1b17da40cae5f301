"""What may come into force where several have to agree to it: a charter, rules, a model, named by its digest.

The act is the agreement itself. What was agreed to comes into force where it always does: charter and rules at the next
start, a model when it is admitted. An agreement to a charter or rules is good for once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from daulat.core.consent import naming
from daulat.errors import InvalidRequest
from daulat.pipeline.consent import Prepared

_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Naming:
    """`charter.change`, `policy.change`, `model.admit`: {"digest"}."""

    check: Callable[[str], None]
    """Raises InvalidRequest or NotFound where nothing of that digest is there to come into force."""

    def payload(self, arguments: Mapping[str, Any]) -> str:
        return naming(arguments["digest"]).decode()

    def read(self, payload: str) -> Mapping[str, Any]:
        """Raises InvalidRequest: it names no digest."""
        digest = payload.removesuffix("\n")
        if not _DIGEST.match(digest) or payload != f"{digest}\n":
            raise InvalidRequest("the payload of this act is a SHA-256 in 64 hex digits, and a newline")
        return {"digest": digest}

    def prior(self, arguments: Mapping[str, Any]) -> str:
        """Raises InvalidRequest, NotFound: there is nothing of that digest."""
        if set(arguments) != {"digest"} or not _DIGEST.match(str(arguments["digest"])):
            raise InvalidRequest("this act takes a digest: 64 hex digits")
        self.check(arguments["digest"])
        return ""

    def vouches_for(self, _arguments: Mapping[str, Any]) -> str:
        return ""

    def prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        async def carry_out() -> Mapping[str, Any]:
            return arguments

        return Prepared(arguments["digest"], {}, carry_out)


class Tables(Protocol):
    """Port: the control database."""

    def rows(self, table: str) -> list[dict[str, Any]]: ...

    def live(self, kind: str, name: str = "") -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Agreed:
    """What has been agreed to, and what need not be."""

    tables: Tables
    now: int = 1 << 62  # Unix milliseconds: what glass was broken for holds until its end

    @property
    def needed(self) -> int:
        """How many others must agree now: the charter in force says so. 0 before there is one."""
        held = self.tables.live("charter/v1")
        return 0 if held is None else int(held["value"]["approvals"])

    def charter(self, digest: str) -> bool:
        """Whether this charter may come into force, by its text's SHA-256."""
        return self._next("charter.change", "charter/v1", "sha256", digest)

    def policy(self, version: str) -> bool:
        """Whether these rules may come into force."""
        return self._next("policy.change", "policy/v1", "version", version)

    def model(self, digest: str) -> bool:
        """Whether this model may be admitted: it was before, or others agreed, in the key ceremony or since."""
        ceremony = self.tables.live("ceremony/v1")
        named = ceremony is not None and digest in ceremony["value"]["models"]
        there = named or self.tables.live("admitted", digest) is not None
        return not self.needed or there or self._done("model.admit", digest)

    def _next(self, action: str, type_: str, field: str, digest: str) -> bool:
        held = self.tables.live(type_)
        if held is None or not self.needed or held["value"][field] == digest:
            return True
        return self._done(action, digest, held["origin"], held["position"])

    def _done(self, action: str, digest: str, origin: str = "", after: int = -1) -> bool:
        payload = naming(digest).decode()
        broken = [{**row, "origin": row["shard"]} for row in self.tables.rows("glasses") if self.now <= row["expires"]]
        return any(
            row["action"] == action
            and row["payload"] == payload
            and row["done"] is not None
            and (not origin or (row["origin"] == origin and row["position"] > after))
            for row in (*self.tables.rows("proposals"), *broken)
        )


def sha256(text: str) -> str:
    """The digest of a charter's text."""
    return hashlib.sha256(text.encode()).hexdigest()

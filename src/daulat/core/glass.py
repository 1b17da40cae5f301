"""Breaking glass: what one operator does alone in an emergency, and what two others say of it afterwards.

The act is named as a proposal names it (`core.consent`), by the digest of the very same payload. Whoever breaks the glass
signs these lines, and each of those who review it signs them under a domain of their own, with a verdict behind:

    "daulat/break-glass/v1\\n" origin "\\n" proposal "\\n" action "\\n" prior "\\n" payload "\\n" expires "\\n" cause "\\n" reason "\\n"
    "daulat/review/v1\\n"      ... the same ...  verdict "\\n"

`cause` is one word of `CAUSES`; the words themselves may name people and stay in the control database: `reason` is the
SHA-256 of them and a nonce, in lower-case hex. Operators, charter and what cannot be undone are never behind glass: who
could change who decides would be alone for good.
"""  # noqa: E501  the lines that are signed, whole

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from daulat.core.consent import MODEL, POLICY, RESTORE, Proposed

LONGEST_MS: Final = 86_400_000  # from breaking the glass to the end of what it is for
REVIEWERS: Final = 2
CAUSES: Final = ("outage", "security", "data-loss", "legal", "safety")
VERDICTS: Final = ("justified", "not-justified")
BREAKABLE: Final = frozenset({POLICY, MODEL, RESTORE})
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Broken:
    """What one operator does alone, why, and until when."""

    made: Proposed
    cause: str
    reason: str  # hex SHA-256

    def wrong(self) -> Iterator[str]:
        """Why this can be no breaking of glass, in words."""
        if words := self.made.wrong():
            yield words
        if self.made.action not in BREAKABLE:
            yield f"{self.made.action[:40]!r} is never done by breaking glass: it is proposed, and others agree"
        if self.cause not in CAUSES or not _DIGEST.match(self.reason):
            yield f"glass broken without a reason: a cause is one of {', '.join(CAUSES)}, and the reason a digest"

    def statement(self) -> bytes:
        """The bytes that whoever breaks the glass signs. Only of what is not `wrong`."""
        return self._lines("daulat/break-glass/v1")

    def review(self, verdict: str) -> bytes:
        """The bytes that whoever reviews it signs; `verdict` is one of `VERDICTS`."""
        return self._lines("daulat/review/v1", verdict)

    def _lines(self, domain: str, *more: str) -> bytes:
        _, *lines = self.made.statement("proposal").decode().split("\n")[:-1]
        return "".join(f"{line}\n" for line in (domain, *lines, self.cause, self.reason, *more)).encode()


def reason(words: str, nonce: str) -> str:
    """The digest of the words: nobody finds them by trying some out."""
    value = json.dumps({"words": words, "nonce": nonce}, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(value.encode()).hexdigest()

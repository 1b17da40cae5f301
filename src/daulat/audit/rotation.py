"""A key that replaces another is vouched for by both: `core.rotation` says what they sign."""

from __future__ import annotations

from typing import Any

from daulat.audit.facts import KeyFacts
from daulat.core.rotation import statement
from daulat.errors import VerificationFailed
from daulat.tlog.note import Verifier, open_note


def wrong(old: KeyFacts, new: KeyFacts, lines: Any) -> str | None:
    """Why the change from one key to the other does not hold, or None."""
    if old.purpose != new.purpose:
        return f"a key for {new.purpose[:20]!r} replaces one for {old.purpose[:20]!r}"
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        return "the signatures of a key's change are not a list of lines"
    note = statement(old.vkey, new.vkey) + b"\n" + "".join(f"{line}\n" for line in lines).encode()
    for which, key in (("old", old), ("new", new)):
        try:
            open_note(note, (Verifier(key.vkey),))
        except VerificationFailed as error:
            return f"the {which} key has not signed the change: {error.message}"
    return None

"""What an auditor remembers: the newest checkpoint of each log it has audited, so that no log can change its past.

{"format": "daulat/audit-state/v1", "logs": {origin: signed checkpoint}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from daulat.audit.finding import Finding
from daulat.errors import SplitView, VerificationFailed
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.note import Verifier

FORMAT: Final = "daulat/audit-state/v1"


def parse(text: bytes) -> dict[str, str]:
    """Signed checkpoints by origin. An empty file is an auditor who remembers nothing.

    Raises:
        VerificationFailed: the state file is malformed.
    """
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"the state file is not JSON: {error}") from None
    if not isinstance(value, dict) or set(value) != {"format", "logs"} or value["format"] != FORMAT:
        raise VerificationFailed(f"the state file is not of the format {FORMAT!r}")
    logs = value["logs"]
    if not isinstance(logs, dict) or not all(isinstance(note, str) for note in logs.values()):
        raise VerificationFailed("the state file's logs are not checkpoints by origin")
    return logs


def encode(logs: Mapping[str, str]) -> bytes:
    return json.dumps({"format": FORMAT, "logs": dict(sorted(logs.items()))}, indent=1).encode() + b"\n"


def remembered(logs: Mapping[str, str], verifier: Verifier) -> Checkpoint | None:
    """The checkpoint remembered for this log, its signature checked again.

    Raises:
        VerificationFailed: the remembered checkpoint is not signed by this key.
    """
    signed = logs.get(verifier.name)
    if signed is None:
        return None
    try:
        return checkpoints.open_checkpoint(signed.encode(), verifier)
    except (VerificationFailed, UnicodeEncodeError) as error:
        raise VerificationFailed(f"the remembered checkpoint of {verifier.name} does not verify: {error}") from None


def unreached(logs: Mapping[str, str], audited: Sequence[str]) -> list[str]:
    """Remembered shards of the audited logs to which none of those audited (by origin) has led back."""
    names = {origin.rpartition("/")[0] for origin in audited}
    return sorted(origin for origin in logs.keys() - set(audited) if origin.rpartition("/")[0] in names)


def begun_anew(logs: Mapping[str, str], audited: Sequence[str]) -> Finding | None:
    """Whether a log was begun beside the one remembered. `audited`: all its shards, newest first, to one without older.

    An audit remembers a shard with all those before it. So a newest shard that is not remembered comes before none that
    is; and none comes before it that it does not lead back to.
    """
    missing = unreached(logs, audited)
    if not missing or audited[0] in logs:  # of an older shard's key, a later one may be remembered
        return None
    words = f"{', '.join(missing)} was audited before, and this log does not go on from there: it was begun anew"
    return Finding("split", words, 0)


def compare(old: Checkpoint, new: Checkpoint, root_then: bytes | None) -> None:
    """The log of now continues the log of then. `root_then`: of its first `old.size` entries, as they are now.

    Raises:
        SplitView: it does not.
    """
    if new.size < old.size:
        raise SplitView(f"the log was shown with {old.size} entries before, and has {new.size} now: it was cut")
    if root_then != old.root:
        raise SplitView(f"the first {old.size} entries are not those shown before: the past was rewritten")

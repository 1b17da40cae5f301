"""The log's key changes where a new shard begins; the old and the new key both sign that it does.

The shard's `key/v1` entry of the new key names, in `replaces`, one that restates the old key, and carries in
`signatures` two signature lines (signed-note), the old key's first, over

    "daulat/key-rotation/v1\\n" old vkey "\\n" new vkey "\\n"

both vkeys being those under the new shard's name. Whoever trusts the old key learns the new one from it, and whoever
was given the new one can go back to the shards before.

Where the charter asks for approvals, others agree to these very bytes before: they are the payload of `logkey.rotate`.
As both vkeys bear the new shard's name, an agreement is good for the beginning of that shard and for nothing else.
"""

from __future__ import annotations

from typing import Final

_DOMAIN: Final = "daulat/key-rotation/v1"


def statement(old_vkey: str, new_vkey: str) -> bytes:
    """What both keys sign."""
    return f"{_DOMAIN}\n{old_vkey}\n{new_vkey}\n".encode()


def parse(text: str) -> tuple[str, str]:
    """The old and the new vkey of a statement; whether they are any, nobody has looked at.

    Raises:
        ValueError: it is none.
    """
    domain, *vkeys = text.split("\n")
    if domain != _DOMAIN or len(vkeys) != 3 or vkeys[2]:  # noqa: PLR2004  two, and what follows the last newline
        raise ValueError("a key's change is stated in three lines: its domain, the old vkey, the new vkey")
    return vkeys[0], vkeys[1]

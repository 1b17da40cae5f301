"""The log's key changes where a new shard begins; the old and the new key both sign that it does.

The shard's `key/v1` entry of the new key names, in `replaces`, one that restates the old key, and carries in
`signatures` two signature lines (signed-note), the old key's first, over

    "daulat/key-rotation/v1\\n" old vkey "\\n" new vkey "\\n"

both vkeys being those under the new shard's name. Whoever trusts the old key learns the new one from it, and whoever
was given the new one can go back to the shards before.
"""

from __future__ import annotations


def statement(old_vkey: str, new_vkey: str) -> bytes:
    """What both keys sign."""
    return f"daulat/key-rotation/v1\n{old_vkey}\n{new_vkey}\n".encode()

"""Operators' public keys whole: base64 has a '+' of its own, and what stood before the last one was cut off."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0012_whole_keys"
down_revision = "r0011_own_keys"

_KEYS = sa.table("operator_keys", sa.column("id"), sa.column("name"), sa.column("vkey"))


def upgrade() -> None:
    connection = op.get_bind()
    for row in connection.execute(sa.select(_KEYS.c.id, _KEYS.c.vkey)).all():
        _, _, rest = row.vkey.partition("+")
        _, _, key = rest.partition("+")
        if key:
            connection.execute(sa.update(_KEYS).where(_KEYS.c.id == row.id).values(name=key))


def downgrade() -> None:
    """Nothing: a whole key is what was meant before, too."""

"""Who has ever signed in themselves, and which keys somebody made with a session of their own.

Of keys from before nobody can say it here: they count as another's, and their holders make new ones where they sign in.
Whoever has an identity counts as signed in.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0011_own_keys"
down_revision = "r0010_placed"


def upgrade() -> None:
    op.add_column("people", sa.Column("proven", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("keys", sa.Column("own", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE people SET proven = 1 WHERE id IN (SELECT person FROM identities)")


def downgrade() -> None:
    op.drop_column("keys", "own")
    op.drop_column("people", "proven")

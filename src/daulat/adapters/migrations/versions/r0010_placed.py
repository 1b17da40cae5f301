"""Whose mapping placed somebody in their tenant, and until when."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "r0010_placed"
down_revision = "r0009_directories"

# Whoever was placed is called by their id; whom a directory deleted is so, too. Whose time an operator has set since
# has the operator for an issuer; whose time is over stays as it is: an operator may have ended it.
_PLACED = """
UPDATE people SET placed_by = issuer, placed_until = expires
WHERE name = id AND issuer <> 'operator' AND expires > :now AND id NOT IN (SELECT person FROM provisioned)
"""


def upgrade() -> None:
    op.add_column("people", sa.Column("placed_by", sa.String))
    op.add_column("people", sa.Column("placed_until", sa.BigInteger))
    op.execute(sa.text(_PLACED).bindparams(now=int(time.time() * 1000)))


def downgrade() -> None:
    op.drop_column("people", "placed_until")
    op.drop_column("people", "placed_by")

"""Limits of keys, tenants and models have a table. A key's own requests a minute stay in its row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003_limits"
down_revision = "r0002_ordinals"


def upgrade() -> None:
    op.create_table(
        "limits",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("bounds", sa.JSON, nullable=False),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_index("ix_limits_ordinal", "limits", ["ordinal"], unique=True)


def downgrade() -> None:
    op.drop_table("limits")

"""How long each tenant's objects are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0007_retention"
down_revision = "r0006_identities"


def upgrade() -> None:
    op.create_table(
        "retentions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("tenant", sa.String, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("files", sa.Integer),
        sa.Column("completions", sa.Integer),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_index("ix_retentions_ordinal", "retentions", ["ordinal"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_retentions_ordinal", "retentions")
    op.drop_table("retentions")

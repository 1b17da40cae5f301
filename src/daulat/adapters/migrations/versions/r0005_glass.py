"""What one operator did by breaking glass, and the reviews of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0005_glass"
down_revision = "r0004_admin_api"


def upgrade() -> None:
    op.create_table(
        "glasses",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("prior", sa.String, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("cause", sa.String, nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("nonce", sa.String, nullable=False),
        sa.Column("key", sa.String, sa.ForeignKey("operator_keys.id"), nullable=False),
        sa.Column("signature", sa.String, nullable=False),
        sa.Column("shard", sa.String, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("done", sa.BigInteger),
        sa.Column("closed", sa.BigInteger),
        sa.Column("untold", sa.JSON, nullable=False),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("glass", sa.String, sa.ForeignKey("glasses.id"), nullable=False),
        sa.Column("key", sa.String, sa.ForeignKey("operator_keys.id"), nullable=False),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("shard", sa.String, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    for name in ("glasses", "reviews"):
        op.create_index(f"ix_{name}_ordinal", name, ["ordinal"], unique=True)


def downgrade() -> None:
    for name in ("reviews", "glasses"):
        op.drop_index(f"ix_{name}_ordinal", name)
        op.drop_table(name)

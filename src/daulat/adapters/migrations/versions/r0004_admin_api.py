"""Credentials for the admin API, and creations over it that are to happen once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004_admin_api"
down_revision = "r0003_limits"


def upgrade() -> None:
    op.create_table(
        "admin_keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("person", sa.String, sa.ForeignKey("people.id"), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_table(
        "idempotency",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    for name in ("admin_keys", "idempotency"):
        op.create_index(f"ix_{name}_ordinal", name, ["ordinal"], unique=True)


def downgrade() -> None:
    for name in ("idempotency", "admin_keys"):
        op.drop_index(f"ix_{name}_ordinal", name)
        op.drop_table(name)

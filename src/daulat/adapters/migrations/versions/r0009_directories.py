"""Tenants' directories, and whom they have brought."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0009_directories"
down_revision = "r0008_exports"


def upgrade() -> None:
    op.create_table(
        "directories",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("tenant", sa.String, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("issuer", sa.String, nullable=False),
        sa.Column("person_days", sa.Integer, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_index("ix_directories_ordinal", "directories", ["ordinal"], unique=True)
    op.create_table(
        "provisioned",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("person", sa.String, sa.ForeignKey("people.id"), nullable=False),
        sa.Column("external", sa.String, unique=True),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("gone", sa.BigInteger),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_index("ix_provisioned_ordinal", "provisioned", ["ordinal"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_provisioned_ordinal", "provisioned")
    op.drop_table("provisioned")
    op.drop_index("ix_directories_ordinal", "directories")
    op.drop_table("directories")

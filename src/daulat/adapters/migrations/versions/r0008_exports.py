"""Archives of what is held about somebody, that operators have agreed to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0008_exports"
down_revision = "r0007_retention"


def upgrade() -> None:
    op.create_table(
        "exports",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("person", sa.String, sa.ForeignKey("people.id"), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("done", sa.BigInteger),
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_index("ix_exports_ordinal", "exports", ["ordinal"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_exports_ordinal", "exports")
    op.drop_table("exports")

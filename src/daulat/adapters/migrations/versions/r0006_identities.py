"""A citizenship's issuer and end, keys' networks; identities, invitations and sessions of people who sign in."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0006_identities"
down_revision = "r0005_glass"

_ADDED = (
    ("people", "issuer", sa.String, "operator"),
    ("people", "until", sa.BigInteger, "0"),
    ("people", "lapsed", sa.BigInteger, "0"),
)


def upgrade() -> None:
    for table, name, kind, usual in _ADDED:
        op.add_column(table, sa.Column(name, kind, nullable=False, server_default=usual))
    op.add_column("keys", sa.Column("networks", sa.JSON))
    _create("identities")
    _create("invitations", sa.Column("expires", sa.BigInteger, nullable=False), sa.Column("revoked", sa.BigInteger))
    _create(
        "sessions",
        sa.Column("issuer", sa.String, nullable=False),
        sa.Column("binding", sa.String, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
    )


def downgrade() -> None:
    for table in ("sessions", "invitations", "identities"):
        op.drop_table(table)
    op.drop_column("keys", "networks")
    for table, name, _kind, _usual in reversed(_ADDED):
        op.drop_column(table, name)


def _create(table: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("person", sa.String, sa.ForeignKey("people.id"), nullable=False),
        *columns,
        sa.Column("ordinal", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index(f"ix_{table}_ordinal", table, ["ordinal"], unique=True)

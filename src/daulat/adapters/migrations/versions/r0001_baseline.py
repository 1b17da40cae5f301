"""The schema as it was before there were revisions.

A database from then has these tables already, or, if it is older still, some of them: what is there stays as it is.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001_baseline"
down_revision = None


def upgrade() -> None:
    _people()
    _service()
    _consent()


def _people() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("epoch_key", sa.String, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "people",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("citizenship", sa.String, nullable=False),
        sa.Column("assurance", sa.String, nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.UniqueConstraint("tenant", "name"),
        if_not_exists=True,
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("person", sa.String, sa.ForeignKey("people.id"), nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("requests_per_minute", sa.Integer, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        if_not_exists=True,
    )
    op.create_table(
        "auditors",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        if_not_exists=True,
    )


def _service() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "live",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("entry", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("good", sa.Integer),
        sa.Column("good_spec", sa.JSON),
        sa.Column("failed", sa.String, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )


def _consent() -> None:
    op.create_table(
        "operator_keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("person", sa.String, sa.ForeignKey("people.id"), nullable=False),
        sa.Column("vkey", sa.String, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        if_not_exists=True,
    )
    op.create_table(
        "proposals",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("prior", sa.String, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("key", sa.String, sa.ForeignKey("operator_keys.id"), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("done", sa.BigInteger),
        if_not_exists=True,
    )
    op.create_table(
        "approvals",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("proposal", sa.String, sa.ForeignKey("proposals.id"), nullable=False),
        sa.Column("key", sa.String, sa.ForeignKey("operator_keys.id"), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("proposal", "key"),
        if_not_exists=True,
    )


def downgrade() -> None:
    for table in ("live", "approvals", "proposals", "operator_keys", "deployments", "auditors", "keys", "people"):
        op.drop_table(table)
    op.drop_table("tenants")
    op.drop_table("meta")

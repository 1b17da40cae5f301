"""Rows keep the order of their insertion by a column of their own; SQLite's rowid, used before, is SQLite's alone.

`schema_version`, which a Daulat from before there were revisions looks at, becomes one that it does not open.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0002_ordinals"
down_revision = "r0001_baseline"

_TABLES = ("tenants", "people", "keys", "auditors", "deployments", "operator_keys", "proposals", "approvals")
_META = sa.table("meta", sa.column("name", sa.String), sa.column("value", sa.String))


def upgrade() -> None:
    before = "rowid" if op.get_bind().dialect.name == "sqlite" else "id"
    for name in _TABLES:
        op.add_column(name, sa.Column("ordinal", sa.BigInteger, nullable=False, server_default=sa.text("0")))
        numbered = f"SELECT id, row_number() OVER (ORDER BY {before}) AS number FROM {name}"  # noqa: S608
        op.execute(f"UPDATE {name} SET ordinal = n.number FROM ({numbered}) AS n WHERE n.id = {name}.id")  # noqa: S608
        op.create_index(f"ix_{name}_ordinal", name, ["ordinal"], unique=True)
    _schema_version("2")


def downgrade() -> None:
    for name in _TABLES:
        op.drop_index(f"ix_{name}_ordinal", name)
        op.drop_column(name, "ordinal")
    _schema_version("1")


def _schema_version(value: str) -> None:
    op.execute(sa.delete(_META).where(_META.c.name == "schema_version"))
    op.execute(sa.insert(_META).values(name="schema_version", value=value))

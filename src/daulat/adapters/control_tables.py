"""The control database's tables, for SQLite and PostgreSQL alike.

A change here comes with a revision in `migrations`, whose docstring says how to write one.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

ORDINAL: Final = "ordinal"  # the column by which `ControlDatabase.rows` keeps the order of insertion
metadata: Final = sa.MetaData()


def _listed(name: str, one: str, *columns: sa.schema.SchemaItem) -> None:
    """A table whose rows have an id and an order; `one` of them is called so. The ordinal stays inside the database."""
    ordinal = sa.Column(ORDINAL, sa.BigInteger, nullable=False, server_default=sa.text("0"), index=True, unique=True)
    sa.Table(name, metadata, *columns, ordinal, info={"one": one})


meta: Final = sa.Table(
    "meta", metadata, sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.String, nullable=False)
)
_listed(
    "tenants",
    "tenant",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("epoch_key", sa.String, nullable=False),  # base64 of 32 bytes
)
_listed(
    "people",
    "person",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("tenant", sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("citizenship", sa.String, nullable=False),
    sa.Column("assurance", sa.String, nullable=False),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("issuer", sa.String, nullable=False, server_default="operator"),  # who says so of the citizenship
    sa.Column("until", sa.BigInteger, nullable=False, server_default="0"),  # when that ends; 0: as the person
    sa.Column("lapsed", sa.BigInteger, nullable=False, server_default="0"),  # the `until` that the log was told of
    sa.Column("placed_by", sa.String),  # the issuer whose mapping has put them here; null: nobody's
    sa.Column("placed_until", sa.BigInteger),  # the `expires` that it has set
    sa.Column("proven", sa.BigInteger, nullable=False, server_default="0"),  # when they first signed in; 0: never
    sa.UniqueConstraint("tenant", "name"),
)
_listed(
    "keys",
    "key",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("requests_per_minute", sa.Integer, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("networks", sa.JSON),  # CIDR; none, or null: from anywhere
    sa.Column("revoked", sa.BigInteger),
    sa.Column("own", sa.Integer, nullable=False, server_default="0"),  # 1: made by its holder, who had signed in
)
# Who somebody is when they sign in: `name` is a keyed hash (`identity.claims.hashed`), never a number or a name.
_listed(
    "identities",
    "identity",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
)
_listed(
    "invitations",
    "invitation",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # hex SHA-256 of the secret
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),  # or used
)
_listed(
    "sessions",
    "session",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # hex SHA-256 of the secret
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("issuer", sa.String, nullable=False),
    sa.Column("binding", sa.String, nullable=False),  # a hash of what the client was
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),
)
_listed(
    "auditors",
    "auditor",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),
)
_listed(
    "admin_keys",
    "admin key",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),  # its label
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),
)
# Creations that are to happen once (`pipeline.once`).
_listed(
    "idempotency",
    "request",
    sa.Column("id", sa.String, primary_key=True),  # SHA-256 of who asked and their key
    sa.Column("fingerprint", sa.String, nullable=False),  # SHA-256 of the request
    sa.Column("created", sa.BigInteger, nullable=False),
)
_listed(
    "deployments",
    "deployment",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # what clients call its model
    sa.Column("spec", sa.JSON, nullable=False),  # core.deployment.Spec
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # the generation that last changed the template
    sa.Column("good", sa.Integer),  # the last revision that was up as wished, and its spec
    sa.Column("good_spec", sa.JSON),
    sa.Column("failed", sa.String, nullable=False),  # why the newest revision was given up, else empty
    sa.Column("created", sa.BigInteger, nullable=False),
)
_listed(
    "operator_keys",
    "operator's key",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # the public key, base64: one key is one operator's
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("vkey", sa.String, nullable=False),  # under the holder's pseudonym
    sa.Column("origin", sa.String, nullable=False),  # of the log that it stands in
    sa.Column("position", sa.BigInteger, nullable=False),  # of its key/v1
    sa.Column("revoked", sa.BigInteger),
)
_listed(
    "proposals",
    "proposal",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # the id once more
    sa.Column("origin", sa.String, nullable=False),  # of the log that it stands in
    sa.Column("action", sa.String, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),  # the exact bytes of what will be done
    sa.Column("prior", sa.String, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("key", sa.ForeignKey("operator_keys.id"), nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),  # of its proposal/v1
    sa.Column("done", sa.BigInteger),
)
_listed(
    "approvals",
    "approval",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("proposal", sa.ForeignKey("proposals.id"), nullable=False),
    sa.Column("key", sa.ForeignKey("operator_keys.id"), nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),  # of its approval/v1
    sa.UniqueConstraint("proposal", "key"),
)
_listed(
    "limits",
    "limit",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # "<scope>:<subject>"
    sa.Column("scope", sa.String, nullable=False),  # "key" | "tenant" | "model"
    sa.Column("subject", sa.String, nullable=False),  # an id; what clients call the model
    sa.Column("bounds", sa.JSON, nullable=False),  # by core.quota.Limit's names; the budget in 10^-12
)
_listed(
    "glasses",
    "broken glass",
    sa.Column("id", sa.String, primary_key=True),  # of what would have been a proposal
    sa.Column("name", sa.String, nullable=False, unique=True),  # the id once more
    sa.Column("origin", sa.String, nullable=False),  # of the log that it was broken in, which is signed
    sa.Column("action", sa.String, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("prior", sa.String, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("cause", sa.String, nullable=False),
    sa.Column("words", sa.Text, nullable=False),  # why
    sa.Column("nonce", sa.String, nullable=False),  # with which their digest is made
    sa.Column("key", sa.ForeignKey("operator_keys.id"), nullable=False),
    sa.Column("signature", sa.String, nullable=False),
    sa.Column("shard", sa.String, nullable=False),  # the log that its entry stands in now, and where
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("done", sa.BigInteger),
    sa.Column("closed", sa.BigInteger),
    sa.Column("untold", sa.JSON, nullable=False),  # who has not been told of it yet
)
_listed(
    "reviews",
    "review",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("glass", sa.ForeignKey("glasses.id"), nullable=False),
    sa.Column("key", sa.ForeignKey("operator_keys.id"), nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("shard", sa.String, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),  # of its review/v1
)
# How long a tenant's objects are kept (`core.retention`).
_listed(
    "retentions",
    "retention rule",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # the tenant's id once more
    sa.Column("tenant", sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("files", sa.Integer),  # days; null: until deleted
    sa.Column("completions", sa.Integer),
)
# Archives of what is held about somebody, that were agreed to (`pipeline.export`).
_listed(
    "exports",
    "export",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # the id once more
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("done", sa.BigInteger),
)
# Credentials of tenants' directories, and whom these have brought (`pipeline.provision`).
_listed(
    "directories",
    "directory",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),  # its label
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("tenant", sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("issuer", sa.String, nullable=False),  # whose names for people it knows; empty: nobody's
    sa.Column("person_days", sa.Integer, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),
)
_listed(
    "provisioned",
    "provisioned person",
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),  # the person's id once more
    sa.Column("person", sa.ForeignKey("people.id"), nullable=False),
    sa.Column("external", sa.String, unique=True),  # a keyed hash of the directory's own id
    sa.Column("until", sa.BigInteger, nullable=False),  # the end of their time as a directory has set it
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Column("gone", sa.BigInteger),  # when a directory deleted them
)
# Entries in force, by what they are about: where they stand in which log, and their text.
live: Final = sa.Table(
    "live",
    metadata,
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("origin", sa.String, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("entry", sa.Text, nullable=False),
)

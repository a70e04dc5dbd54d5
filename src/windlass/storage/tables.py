"""The registry's tables, as SQLAlchemy Core sees them: SQLite and PostgreSQL alike.

Read by the registry's SQL. Must never create anything: `migrations/` does that, and a test keeps the two equal.
Times are seconds since the epoch, UTC; JSON is canonical text; digests are `sha256:<hex>`.
"""

from __future__ import annotations

import sqlalchemy as sa

# The newest migration: compared with the database's own at each open, so that Alembic is loaded only to migrate.
REVISION = "0002"

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

alembic_version = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))

model = sa.Table(
    "model",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("created_at", sa.Double, nullable=False),
)

version = sa.Table(
    "version",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model_id", sa.Integer, sa.ForeignKey("model.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(71), nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("parent", sa.String(71), nullable=False, index=True),
    sa.Column("lineage", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("model_id", "number"),
)

# The same bytes are one version, unless that version was deleted.
sa.Index(
    "uq_version_model_id_digest_live",
    version.c.model_id,
    version.c.digest,
    unique=True,
    sqlite_where=version.c.status != "DELETED",
    postgresql_where=version.c.status != "DELETED",
)

tag = sa.Table(
    "tag",
    metadata,
    sa.Column("version_id", sa.Integer, sa.ForeignKey("version.id"), primary_key=True),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# Every blob a push has announced, needed or not: garbage is found here, never by listing the store.
blob = sa.Table(
    "blob",
    metadata,
    sa.Column("digest", sa.String(71), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("touched_at", sa.Double, nullable=False, index=True),
    sa.Column("trashed_at", sa.Double),
)

version_blob = sa.Table(
    "version_blob",
    metadata,
    sa.Column("version_id", sa.Integer, sa.ForeignKey("version.id"), primary_key=True),
    sa.Column("digest", sa.String(71), sa.ForeignKey("blob.digest"), primary_key=True, index=True),
)

alias = sa.Table(
    "alias",
    metadata,
    sa.Column("model_id", sa.Integer, sa.ForeignKey("model.id"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer),
    sa.Column("generation", sa.Integer, nullable=False),
)

alias_event = sa.Table(
    "alias_event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model_id", sa.Integer, sa.ForeignKey("model.id"), nullable=False),
    sa.Column("alias", sa.String(64), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("from_version", sa.Integer),
    sa.Column("to_version", sa.Integer),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.UniqueConstraint("model_id", "alias", "generation"),
)

evidence = sa.Table(
    "evidence",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(71), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("statistics", sa.Text, nullable=False),
    sa.Column("window", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Double, nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
)

# What was answered under a caller's key, so that a retry is answered alike.
answer = sa.Table(
    "answer",
    metadata,
    sa.Column("key", sa.String(256), primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False, index=True),
)

# Revoked keys stay, for whoever asks who had one; a live one has its name alone.
api_key = sa.Table(
    "api_key",
    metadata,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("hmac", sa.String(64), nullable=False),
    sa.Column("second_hmac", sa.String(64), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("rate", sa.Double, nullable=False),
    sa.Column("burst", sa.Integer, nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("quota", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

sa.Index(
    "uq_api_key_name_live",
    api_key.c.name,
    unique=True,
    sqlite_where=api_key.c.revoked_at.is_(None),
    postgresql_where=api_key.c.revoked_at.is_(None),
)

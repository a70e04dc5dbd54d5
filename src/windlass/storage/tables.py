"""The tables of a home, as SQLAlchemy Core sees them: SQLite and PostgreSQL alike.

Read by the SQL of the registry and of the records. Must never create anything: `migrations/` does that, and a test
keeps the two equal.
Times are seconds since the epoch, UTC; JSON is canonical text; digests are `sha256:<hex>`.
"""

from __future__ import annotations

import sqlalchemy as sa

# The newest migration: compared with the database's own at each open, so that Alembic is loaded only to migrate.
REVISION = "0003"

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

# How many live versions a model has, and the newest's number, are read here, without a look at the versions.
sa.Index(
    "ix_version_model_id_number_live",
    version.c.model_id,
    version.c.number,
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

# Bytes that are to run nowhere any more, whatever is pushed or verified.
revocation = sa.Table(
    "revocation",
    metadata,
    sa.Column("digest", sa.String(71), primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
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
    sa.Column("next_at", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    # Where it is still to be delivered; without a value: nobody has tried yet.
    sa.Column("missing", sa.Text),
    sa.Column("done_at", sa.Double),
)

sa.Index(
    "ix_outbox_next_at_due",
    outbox.c.next_at,
    sqlite_where=outbox.c.done_at.is_(None),
    postgresql_where=outbox.c.done_at.is_(None),
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

# A removed deployment stays, so that its generation never starts over.
deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("desired", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("removed_at", sa.Double),
)

rollout = sa.Table(
    "rollout",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("deployment", sa.String(128), sa.ForeignKey("deployment.name"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("old", sa.Text),
    sa.Column("new", sa.Text, nullable=False),
    sa.Column("against", sa.Text, nullable=False),
    sa.Column("strategy", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.UniqueConstraint("deployment", "number"),
)

# One rollout at a time.
sa.Index(
    "uq_rollout_deployment_open",
    rollout.c.deployment,
    unique=True,
    sqlite_where=rollout.c.ended_at.is_(None),
    postgresql_where=rollout.c.ended_at.is_(None),
)

rollout_step = sa.Table(
    "rollout_step",
    metadata,
    sa.Column("rollout_id", sa.Integer, sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("wanted", sa.Text, nullable=False),
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Index("ix_job_state_id", "state", "id"),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)

# Numbered without a gap; each entry's hash is over the one before.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Double, nullable=False, index=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(256), nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

# One row: where the chain ends. Whoever appends holds it until the commit.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

# What came of a request, told afterwards: by the request's id, or by its sticky key. A revision never replaces a row.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("deployment", sa.String(128), nullable=False),
    sa.Column("request", sa.String(128), nullable=False),
    sa.Column("key", sa.String(256), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("arm", sa.String(64), nullable=False),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("labelled_at", sa.Double, nullable=False),
    sa.Column("joined_at", sa.Double),
    sa.UniqueConstraint("deployment", "request", "key", "revision"),
    sa.Index("ix_feedback_deployment_joined_at", "deployment", "joined_at"),
)

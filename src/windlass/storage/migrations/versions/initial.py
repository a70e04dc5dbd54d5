"""The first schema: models, versions, tags, blobs, aliases and their events, evidence, outbox, answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from windlass import errors

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "model",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        sa.UniqueConstraint("name", name="uq_model_name"),
    )
    op.create_table(
        "version",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("parent", sa.String(71), nullable=False),
        sa.Column("lineage", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_version"),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_version_model_id"),
        sa.UniqueConstraint("model_id", "number", name="uq_version_model_id_number"),
    )
    op.create_index("ix_version_digest", "version", ["digest"])
    op.create_index("ix_version_parent", "version", ["parent"])
    live = sa.text("status != 'DELETED'")
    op.create_index(
        "uq_version_model_id_digest_live",
        "version",
        ["model_id", "digest"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
    op.create_table(
        "tag",
        sa.Column("version_id", sa.Integer, nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("version_id", "key", name="pk_tag"),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name="fk_tag_version_id"),
    )
    op.create_table(
        "blob",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("touched_at", sa.Double, nullable=False),
        sa.Column("trashed_at", sa.Double),
        sa.PrimaryKeyConstraint("digest", name="pk_blob"),
    )
    op.create_index("ix_blob_touched_at", "blob", ["touched_at"])
    op.create_table(
        "version_blob",
        sa.Column("version_id", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "digest", name="pk_version_blob"),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name="fk_version_blob_version_id"),
        sa.ForeignKeyConstraint(["digest"], ["blob.digest"], name="fk_version_blob_digest"),
    )
    op.create_index("ix_version_blob_digest", "version_blob", ["digest"])
    _create_alias_tables()
    _create_record_tables()


def _create_alias_tables() -> None:
    op.create_table(
        "alias",
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("model_id", "name", name="pk_alias"),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_alias_model_id"),
    )
    op.create_table(
        "alias_event",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alias_event"),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_alias_event_model_id"),
        sa.UniqueConstraint("model_id", "alias", "generation", name="uq_alias_event_model_id_alias_generation"),
    )


def _create_record_tables() -> None:
    op.create_table(
        "evidence",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("statistics", sa.Text, nullable=False),
        sa.Column("window", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_evidence"),
    )
    op.create_index("ix_evidence_digest", "evidence", ["digest"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_next_at", "outbox", ["next_at"])
    op.create_table(
        "answer",
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_answer"),
    )
    op.create_index("ix_answer_at", "answer", ["at"])


def downgrade() -> None:
    """Drop every table; refused while there is a model, which an older Windlass could not keep."""
    if op.get_bind().execute(sa.text("SELECT count(*) FROM model")).scalar():
        raise errors.Conflict("the registry holds models: it cannot go back to before there was one.")
    for table in (
        "answer",
        "outbox",
        "evidence",
        "alias_event",
        "alias",
        "version_blob",
        "blob",
        "tag",
        "version",
        "model",
    ):
        op.drop_table(table)

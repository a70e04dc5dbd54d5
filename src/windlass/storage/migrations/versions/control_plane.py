"""The control plane: deployments, rollouts and their steps, jobs, leases, the audit log, revocations, feedback."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from windlass import errors

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables; events are marked when they are delivered, and stay; live versions are counted by an index."""
    op.add_column("outbox", sa.Column("missing", sa.Text))
    op.add_column("outbox", sa.Column("done_at", sa.Double))
    op.drop_index("ix_outbox_next_at", "outbox")
    due = sa.text("done_at IS NULL")
    op.create_index("ix_outbox_next_at_due", "outbox", ["next_at"], sqlite_where=due, postgresql_where=due)
    live = sa.text("status != 'DELETED'")
    columns = ["model_id", "number"]
    op.create_index("ix_version_model_id_number_live", "version", columns, sqlite_where=live, postgresql_where=live)
    _create_deployment_tables()
    _create_work_tables()
    _create_audit_tables()
    _create_feedback_table()


def _create_deployment_tables() -> None:
    op.create_table(
        "deployment",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("removed_at", sa.Double),
        sa.PrimaryKeyConstraint("name", name="pk_deployment"),
    )
    op.create_table(
        "rollout",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("deployment", sa.String(128), nullable=False),
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
        sa.PrimaryKeyConstraint("id", name="pk_rollout"),
        sa.ForeignKeyConstraint(["deployment"], ["deployment.name"], name="fk_rollout_deployment"),
        sa.UniqueConstraint("deployment", "number", name="uq_rollout_deployment_number"),
    )
    under_way = sa.text("ended_at IS NULL")
    op.create_index(
        "uq_rollout_deployment_open",
        "rollout",
        ["deployment"],
        unique=True,
        sqlite_where=under_way,
        postgresql_where=under_way,
    )
    op.create_table(
        "rollout_step",
        sa.Column("rollout_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("wanted", sa.Text, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "number", name="pk_rollout_step"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name="fk_rollout_step_rollout_id"),
    )


def _create_work_tables() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer, nullable=False),
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
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_state_id", "job", ["state", "id"])
    op.create_table(
        "lease",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_lease"),
    )


def _create_audit_tables() -> None:
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_subject", "audit", ["subject"])
    op.create_table(
        "revocation",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_revocation"),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.execute(sa.insert(head).values(id=1, number=0, hash="0" * 64))


def _create_feedback_table() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, nullable=False),
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
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.UniqueConstraint(
            "deployment", "request", "key", "revision", name="uq_feedback_deployment_request_key_revision"
        ),
    )
    op.create_index("ix_feedback_deployment_joined_at", "feedback", ["deployment", "joined_at"])


def downgrade() -> None:
    """Drop the tables; refused while one of them holds what an older Windlass could not keep."""
    for table, what in (("deployment", "deployments"), ("audit", "entries in the audit log"), ("feedback", "feedback")):
        if op.get_bind().execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar():
            raise errors.Conflict(f"there are {what}, which an older Windlass could not keep.")
    for table in (
        "feedback",
        "audit_head",
        "audit",
        "revocation",
        "lease",
        "job",
        "rollout_step",
        "rollout",
        "deployment",
    ):
        op.drop_table(table)
    op.drop_index("ix_version_model_id_number_live", "version")
    op.drop_index("ix_outbox_next_at_due", "outbox")
    op.create_index("ix_outbox_next_at", "outbox", ["next_at"])
    op.drop_column("outbox", "done_at")
    op.drop_column("outbox", "missing")

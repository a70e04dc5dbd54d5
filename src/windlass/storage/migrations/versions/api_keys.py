"""API keys: what a key may, and the HMACs of its secrets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from windlass import errors

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(12), nullable=False),
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
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
    )
    op.create_index(
        "uq_api_key_name_live",
        "api_key",
        ["name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )


def downgrade() -> None:
    """Drop the table; refused while a key is live, which an older Windlass would forget."""
    if op.get_bind().execute(sa.text("SELECT count(*) FROM api_key WHERE revoked_at IS NULL")).scalar():
        raise errors.Conflict("there are live API keys: revoke them before going back.")
    op.drop_table("api_key")

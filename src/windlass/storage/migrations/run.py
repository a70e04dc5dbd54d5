"""Runs the migrations in-process, on a connection whose transaction the caller owns.

Loaded by `storage/database.py` when a schema is behind. Must never commit: schema and revision change together.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command, config, script

from windlass import errors


def _config(connection: sa.Connection | None = None) -> config.Config:
    made = config.Config()
    made.set_main_option("script_location", "windlass:storage/migrations")
    made.attributes["connection"] = connection
    return made


def newest() -> str:
    """The revision that `upgrade` leads to."""
    return script.ScriptDirectory.from_config(_config()).get_current_head() or ""


def check_known(revision: str) -> None:
    """Refuse a schema that a newer Windlass wrote."""
    known = {step.revision for step in script.ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision and revision not in known:
        raise errors.Unsupported(
            f"the registry's schema is '{revision}', newer than this Windlass knows.",
            hint="Use the Windlass that wrote it, or a newer one.",
        )


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Bring the schema up to `revision`."""
    command.upgrade(_config(connection), revision)


def downgrade(connection: sa.Connection, revision: str) -> None:
    """Bring the schema down to `revision`; a step that would lose data refuses with `Conflict`."""
    command.downgrade(_config(connection), revision)

"""What Alembic runs for each command: the migrations, on the connection that `run.py` hands over.

Must never open a connection of its own or configure logging: it runs inside other programs.
"""

from __future__ import annotations

from alembic import context

from windlass.storage import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    # The caller's transaction holds schema and revision together, on SQLite too.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()

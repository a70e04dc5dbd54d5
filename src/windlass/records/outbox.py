"""The outbox: what the world is to be told, written in the transaction that made it true.

Called by the registry inside its transactions; read by whoever delivers webhooks. Must never send anything itself.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from windlass.storage import tables
from windlass.types import strict_json


def add(connection: sa.Connection, event: str, payload: dict[str, Any], *, now: float) -> None:
    """Note an event (`version.created`, `alias.moved`, ...), due at once."""
    connection.execute(
        sa.insert(tables.outbox).values(
            event=event, payload=strict_json.canonical(payload).decode(), attempts=0, next_at=now, created_at=now
        )
    )

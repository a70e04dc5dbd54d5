"""The audit log of the home, with the methods that `remote.audit.Audit` has for a control plane's.

Opened by `planes.py`. Must never write an entry: whoever changes something does, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.records import audit
from windlass.storage import database

_PAGE = 1_000


class Journal:
    """The audit log in one database."""

    def __init__(self, rows: database.Database) -> None:
        self._rows = rows

    def entries(
        self,
        *,
        subject: str = "",
        actor: str = "",
        action: str = "",
        since: float | None = None,
        until: float | None = None,
        limit: int = 100,
    ) -> tuple[audit.Entry, ...]:
        """Entries, the oldest first."""
        found: list[audit.Entry] = []
        with self._rows.read() as connection:
            while len(found) < limit or not limit:
                part = audit.entries(
                    connection,
                    subject=subject,
                    actor=actor,
                    action=action,
                    since=since,
                    until=until,
                    after=found[-1].number if found else 0,
                    limit=min(_PAGE, limit - len(found)) if limit else _PAGE,
                )
                found += part
                if not part:
                    break
        return tuple(found)

    def verify(self, heads: Sequence[audit.Head] = ()) -> audit.Verified:
        """Whether every entry follows from the one before, and the chain holds these heads."""
        with self._rows.read() as connection:
            return audit.verify(connection, heads)

    def head(self) -> audit.Head:
        """Where the chain ends now."""
        with self._rows.read() as connection:
            return audit.head(connection)

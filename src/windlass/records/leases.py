"""Leases: which one of several processes may act, for a time, and a number by which a later one is told apart.

Called by the controller. Must never give two holders the same token, nor a lower one than before.
"""

from __future__ import annotations

import sqlalchemy as sa

from windlass.storage import database, tables

# The lease of the one controller that acts.
CONTROLLER = "controller"


def acquire(connection: sa.Connection, name: str, holder: str, *, ttl_s: float, now: float) -> int | None:
    """The fencing token of a lease that is now this holder's for `ttl_s` seconds; None if another has it.

    Each change of hands makes a higher token. `holder` names one life of one process. Clocks of several machines may
    differ: what is written under a lease is guarded by `hold`, whatever the time is.
    """
    table = tables.lease
    fresh = {"name": name, "holder": holder, "token": 1, "expires_at": now + ttl_s}
    if database.insert_absent(connection, table, fresh):
        return 1
    row = connection.execute(sa.select(table).where(table.c.name == name).with_for_update()).one()
    if row.holder != holder and row.expires_at > now:
        return None
    # Whoever let it lapse gets a new token too: it cannot know that nobody had it in between.
    token: int = row.token + (row.holder != holder or row.expires_at <= now)
    _change(connection, name, holder=holder, token=token, expires_at=now + ttl_s)
    return token


def renew(connection: sa.Connection, name: str, token: int, *, ttl_s: float, now: float) -> bool:
    """Keep a lease for `ttl_s` more seconds from now; False if it lapsed or is another's."""
    table = tables.lease
    row = connection.execute(sa.select(table).where(table.c.name == name).with_for_update()).one_or_none()
    if row is None or row.token != token or row.expires_at <= now:
        return False
    _change(connection, name, expires_at=now + ttl_s)
    return True


def hold(connection: sa.Connection, name: str, token: int) -> bool:
    """Whether this token is still the newest; if so, nobody else gets the lease before this transaction ends.

    Called first in each transaction that writes under a lease. It does not ask the time: a holder that was slow may
    write as long as nobody has taken its place.
    """
    table = tables.lease
    found = connection.execute(sa.select(table.c.token).where(table.c.name == name).with_for_update()).scalar()
    return found == token


def release(connection: sa.Connection, name: str, token: int) -> None:
    """Give a lease back, so that the next holder need not wait. Nothing happens if it is another's."""
    table = tables.lease
    connection.execute(
        sa.update(table).where(table.c.name == name, table.c.token == token).values(holder="", expires_at=0.0)
    )


def holder_of(connection: sa.Connection, name: str) -> tuple[str, float]:
    """Who has a lease (empty: nobody) and until when, in seconds since the epoch."""
    table = tables.lease
    row = connection.execute(sa.select(table).where(table.c.name == name)).one_or_none()
    return ("", 0.0) if row is None else (row.holder, row.expires_at)


def _change(connection: sa.Connection, name: str, **values: object) -> None:
    connection.execute(sa.update(tables.lease).where(tables.lease.c.name == name).values(**values))

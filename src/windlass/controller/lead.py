"""The lead: of all controllers on one database, the one that may act.

Used by every file of this room that writes. A lease with a token that only grows is checked inside each transaction,
so that a controller that was paused cannot write after another one took over. Must never act on a memory of the lease.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from windlass import errors
from windlass.records import leases
from windlass.storage import database

# How long a controller that has ended without a word stands in the way of the next.
TTL_S = 10.0


class Lost(errors.Conflict):
    """Another controller leads, or none does: this one may not act."""


class Lead:
    """One controller's claim. Threads may share it."""

    def __init__(
        self, rows: database.Database, clock: Callable[[], float], *, holder: str = "", ttl_s: float = TTL_S
    ) -> None:
        self.holder = holder or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._rows = rows
        self._clock = clock
        self._ttl_s = ttl_s
        self._token: int | None = None

    @property
    def held(self) -> bool:
        """Whether it had the lead when it last looked."""
        return self._token is not None

    def beat(self) -> bool:
        """Take or keep the lead; whether it is ours. To be called several times in `ttl_s`."""
        token = self._token
        with self._rows.write() as connection:
            now = self._clock()
            kept = token is not None and leases.renew(connection, leases.CONTROLLER, token, ttl_s=self._ttl_s, now=now)
            if not kept:
                token = leases.acquire(connection, leases.CONTROLLER, self.holder, ttl_s=self._ttl_s, now=now)
        # Only what is committed counts.
        self._token = token
        return token is not None

    def release(self) -> None:
        """Let another one take over at once."""
        token, self._token = self._token, None
        if token is not None:
            with self._rows.write() as connection:
                leases.release(connection, leases.CONTROLLER, token)

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that cannot be committed unless we lead; `Lost` if we do not."""
        with self._rows.write() as connection:
            self._hold(connection)
            yield connection

    def check(self) -> None:
        """`Lost` if we do not lead at this moment."""
        with self.write():
            pass

    def _hold(self, connection: sa.Connection) -> None:
        if self._token is None or not leases.hold(connection, leases.CONTROLLER, self._token):
            self._token = None
            raise Lost("another controller has taken over", hint="Nothing was changed.")

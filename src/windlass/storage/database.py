"""The database behind the registry: SQLite in the home by default, PostgreSQL by URL, one face for both.

Opened by the registry (later by every room with rows). Must never acknowledge a write that may be lost: SQLite runs
with `synchronous=FULL`, and after an I/O error nothing more is written until a restart.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from windlass import errors
from windlass.storage import tables

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 60.0
_ASK_AGAIN_S = (0.002, 0.02)
# Who only asks whether there is something new does not wait for a writer.
_WATCH_S = 0.05
# Below this, a checkpoint racing a commit can corrupt a WAL (fixed in 3.51.3).
_WAL_SAFE = (3, 51, 3)
_MIGRATION_LOCK = 0x77696E64  # "wind"


def journal_mode(library: tuple[int, int, int]) -> str:
    """The journal for a SQLite library of this version: WAL only where it cannot corrupt."""
    return "WAL" if library >= _WAL_SAFE else "DELETE"


class Database:
    """Transactions on one database. Threads may share it; a forked child must open its own.

    `library` is the version of SQLite, given only by tests.
    """

    def __init__(self, url: str, *, library: tuple[int, int, int] = sqlite3.sqlite_version_info[:3]) -> None:
        target = _parse(url)
        self.sqlite = target.get_backend_name() == "sqlite"
        self._failed = False
        self._watching: sqlite3.Connection | None = None
        self._asking = threading.Lock()
        if self.sqlite:
            self._file = file = Path(str(target.database))
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                # What keys are checked against is nobody else's to read. What cannot be made is said on opening.
                os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            # Opening is cheap and a fork must not inherit a handle, hence no pool.
            self._engine = sa.create_engine(target, poolclass=sa.NullPool, connect_args={"timeout": BUSY_TIMEOUT_S})
            mode = journal_mode(library)
            log.info("SQLite %s: journal_mode=%s, synchronous=FULL", ".".join(map(str, library)), mode)
            sa.event.listen(self._engine, "connect", lambda dbapi, _: _prepare(dbapi, mode))
            sa.event.listen(self._engine, "begin", _begin)
        else:
            options = {"options": f"-c lock_timeout={int(BUSY_TIMEOUT_S * 1000)}"}
            try:
                self._engine = sa.create_engine(target, pool_pre_ping=True, connect_args=options)
            except ModuleNotFoundError:
                raise errors.Unsupported(
                    "PostgreSQL needs the library 'psycopg', which is not installed.",
                    hint="Install it: pip install 'windlass[postgres]'",
                ) from None

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view; what is done in it is not kept."""
        with self._translated(), self._engine.connect() as plain:
            yield plain if self.sqlite else plain.execution_options(isolation_level="REPEATABLE READ")

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction, committed on leaving, rolled back on any error.

        On SQLite it excludes every other writer from its start; on PostgreSQL lock the rows you decide on.
        """
        self.check_writable()
        with self._translated(), self._engine.connect() as plain:
            connection = plain.execution_options(immediate=True)
            with connection.begin():
                yield connection

    def check_writable(self) -> None:
        """`StoreReadOnly` after an I/O error."""
        if self._failed:
            raise errors.StoreReadOnly(
                "the registry's database had an I/O error and takes no more writes.",
                hint="Check the disk, then restart.",
            )

    def stamp(self) -> int | None:
        """Another number than the last time if anybody has committed since; None: only reading would tell.

        It costs a hundredth of a read, on a connection that is kept for it. SQLite only.
        """
        if not self.sqlite:
            return None
        with self._asking:
            try:
                if self._watching is None:
                    self._watching = sqlite3.connect(self._file, timeout=_WATCH_S, check_same_thread=False)
                found: int = self._watching.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error:
                self._unwatch()
                return None
            return found

    def migrate(self) -> None:
        """Bring the schema to this version of Windlass; a database that is newer is refused."""
        with self.read() as connection:
            revision = _revision(connection)
        if revision == tables.REVISION:
            return
        # Loading Alembic costs as much as the rest of a command, and is needed once in a database's life.
        from windlass.storage.migrations import run

        with self.write() as connection:
            if not self.sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            # Another process may have done it while this one waited for the lock.
            revision = _revision(connection)
            if revision != tables.REVISION:
                run.check_known(revision)
                run.upgrade(connection)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()
        with self._asking:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.close()
            self._watching = None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as e:
            raise self._translate(e) from e

    def _translate(self, error: exc.DBAPIError) -> Exception:
        """The tree's error for a driver's; an integrity error is ours, and stays what it is."""
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None:
            if isinstance(error, exc.OperationalError):
                return errors.Unavailable("the registry's database does not answer.", hint="Check that it runs.")
            return error
        primary = code & 0xFF
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return errors.Unavailable("the registry is busy with other writers.", hint="Try again.")
        if primary == sqlite3.SQLITE_FULL:
            return errors.Unavailable("the disk is full: nothing was changed.", hint="Free some space and try again.")
        if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            self._failed = True
            return errors.StoreReadOnly(
                "the registry's database could not be written: nothing was acknowledged.",
                hint="Check the disk and its permissions, then restart.",
            )
        if primary == sqlite3.SQLITE_CANTOPEN:
            return errors.Unavailable("the registry's database cannot be opened.", hint="Check the home's permissions.")
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return errors.CorruptPackage(
                "the registry's database is damaged.",
                hint="Move registry.db away, then run: windlass models rebuild",
            )
        return error


def open_database(url: str) -> Database:
    """The database at an SQLAlchemy URL, created or migrated if need be; `Unavailable` if it does not answer."""
    database = Database(url)
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    return database


def insert_absent(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> bool:
    """Insert a row unless its key is taken; whether it was inserted. Waits for a rival's uncommitted insert."""
    # SQLite undoes a statement that breaks a constraint, PostgreSQL the whole transaction up to the savepoint. After an
    # I/O error SQLite has undone everything, savepoints too: going back to one would hide the error.
    nested = contextlib.nullcontext() if connection.dialect.name == "sqlite" else connection.begin_nested()
    try:
        with nested:
            connection.execute(sa.insert(table).values(**values))
    except exc.IntegrityError:
        return False
    return True


def _parse(url: str) -> sa.URL:
    try:
        target = sa.make_url(url)
        backend = target.get_backend_name()
    except exc.ArgumentError:
        raise errors.UsageError(
            "the registry's database is no SQLAlchemy URL.", hint="Example: sqlite:///x.db"
        ) from None
    if backend in ("postgresql", "postgres"):
        return target.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and target.database and target.database != ":memory:":
        return target.set(drivername="sqlite+pysqlite")
    raise errors.UsageError(
        f"the registry does not keep its rows in '{backend}'.", hint="Use a SQLite file or PostgreSQL."
    )


def _prepare(connection: Any, mode: str) -> None:
    # The driver must not open transactions of its own: `_begin` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA journal_mode={mode}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # A transaction that first reads and then writes would fail with BUSY at the write: take the lock at the start.
    if not connection.get_execution_options().get("immediate", False):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite itself asks ever more rarely the longer it has waited, so that among many writers some wait forever.
    # Asking at one pace gives all the same chance.
    driver: Any = connection.connection.dbapi_connection
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    driver.execute("PRAGMA busy_timeout=0")
    try:
        while _busy(driver) and time.monotonic() < deadline:
            time.sleep(random.uniform(*_ASK_AGAIN_S))
        if not driver.in_transaction:
            # Once more by the way on which SQLAlchemy sees the error.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        driver.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")


def _busy(driver: Any) -> bool:
    """Try to begin; whether somebody else is writing. Without SQLAlchemy, whose errors cost more than the question."""
    try:
        driver.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as e:
        return e.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    return False


def _revision(connection: sa.Connection) -> str:
    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(sa.select(tables.alembic_version.c.version_num)).scalar() or ""

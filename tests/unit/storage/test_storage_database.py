"""The database: journals that cannot corrupt, URLs, transactions, errors."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from windlass import errors
from windlass.storage import database, tables


def pragma(rows: database.Database, name: str) -> object:
    with rows.read() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


@pytest.mark.promise("P-57")
@pytest.mark.parametrize(
    ("library", "mode"),
    [((3, 37, 2), "delete"), ((3, 40, 1), "delete"), ((3, 51, 2), "delete"), ((3, 51, 3), "wal"), ((4, 0, 0), "wal")],
)
def test_the_journal_is_safe_for_the_library(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, library: tuple[int, int, int], mode: str
) -> None:
    caplog.set_level(logging.INFO)
    rows = database.Database(f"sqlite:///{tmp_path}/r.db", library=library)
    rows.migrate()
    assert pragma(rows, "journal_mode") == mode
    assert pragma(rows, "synchronous") == 2
    assert pragma(rows, "foreign_keys") == 1
    assert f"journal_mode={mode.upper()}" in caplog.text


@pytest.mark.promise("P-57")
def test_an_older_library_takes_a_wal_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/r.db"
    newer = database.Database(url, library=(3, 51, 3))
    newer.migrate()
    assert pragma(newer, "journal_mode") == "wal"
    older = database.Database(url, library=(3, 40, 1))
    assert pragma(older, "journal_mode") == "delete"


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://h/d", "oracle://h/d"])
def test_a_url_that_keeps_nothing_is_refused(url: str) -> None:
    with pytest.raises(errors.UsageError):
        database.Database(url)


def test_a_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    rows = database.open_database(f"sqlite:///{tmp_path}/r.db")

    def write_twice() -> None:
        with rows.write() as connection:
            for created_at in (0.0, None):
                connection.execute(sa.insert(tables.model).values(name="a", created_at=created_at))

    with pytest.raises(exc.IntegrityError):
        write_twice()
    with rows.read() as connection:
        assert connection.execute(sa.select(tables.model)).all() == []


def test_a_read_keeps_nothing(tmp_path: Path) -> None:
    rows = database.open_database(f"sqlite:///{tmp_path}/r.db")
    with rows.read() as connection:
        connection.execute(sa.insert(tables.model).values(name="a", created_at=0.0))
    with rows.read() as connection:
        assert connection.execute(sa.select(tables.model)).all() == []


def test_insert_absent(tmp_path: Path) -> None:
    rows = database.open_database(f"sqlite:///{tmp_path}/r.db")
    with rows.write() as connection:
        assert database.insert_absent(connection, tables.model, {"name": "a", "created_at": 0.0})
        assert not database.insert_absent(connection, tables.model, {"name": "a", "created_at": 1.0})
        assert connection.execute(sa.select(tables.model.c.created_at)).scalars().all() == [0.0]


def test_a_second_writer_is_told_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.0)
    rows = database.open_database(f"sqlite:///{tmp_path}/r.db")
    with rows.write(), pytest.raises(errors.Unavailable, match="busy"), rows.write():
        pass


def fault(code: int) -> exc.OperationalError:
    error = sqlite3.OperationalError("at /secret/path/registry.db")
    error.sqlite_errorcode = code
    return exc.OperationalError("SELECT", {}, error)


@pytest.mark.promise("P-08")
@pytest.mark.promise("P-58")
@pytest.mark.parametrize(
    ("code", "kind", "read_only"),
    [
        (sqlite3.SQLITE_BUSY, errors.Unavailable, False),
        (sqlite3.SQLITE_FULL, errors.Unavailable, False),
        (sqlite3.SQLITE_IOERR_FSYNC, errors.StoreReadOnly, True),
        (sqlite3.SQLITE_IOERR_WRITE, errors.StoreReadOnly, True),
        (sqlite3.SQLITE_READONLY, errors.StoreReadOnly, True),
        (sqlite3.SQLITE_CANTOPEN, errors.Unavailable, False),
        (sqlite3.SQLITE_CORRUPT, errors.CorruptPackage, False),
    ],
)
def test_what_the_driver_says_is_translated(tmp_path: Path, code: int, kind: type[Exception], read_only: bool) -> None:
    rows = database.open_database(f"sqlite:///{tmp_path}/r.db")
    with pytest.raises(kind) as caught, rows.write():
        raise fault(code)
    assert "secret" not in str(caught.value)
    if read_only:
        with pytest.raises(errors.StoreReadOnly), rows.write():
            pass
        with rows.read() as connection:
            assert connection.execute(sa.select(tables.model)).all() == []
    else:
        with rows.write():
            pass


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(errors.Unsupported, match=r"windlass\[postgres\]"):
        database.Database("postgresql://h/d")


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_the_stamp_differs_after_each_commit_and_stays_without_one(tmp_path: Path, mode: str) -> None:
    library = (3, 51, 3) if mode == "WAL" else (3, 40, 0)
    with contextlib.ExitStack() as opened:
        here, there = (database.Database(f"sqlite:///{tmp_path}/x.db", library=library) for _ in range(2))
        for one in (here, there):
            opened.callback(one.close)
        with here.write() as connection:
            connection.exec_driver_sql("CREATE TABLE t (n INTEGER)")
        seen = [here.stamp()]
        for writer in (here, there, here):
            # However soon one follows the other.
            with writer.write() as connection:
                connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            seen.append(here.stamp())
        assert None not in seen
        assert all(before != after for before, after in itertools.pairwise(seen))
        with here.read() as connection:
            connection.exec_driver_sql("SELECT * FROM t")
        with pytest.raises(exc.OperationalError), there.write() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (2), (no)")
        assert here.stamp() == seen[-1]


def test_where_nothing_can_be_asked_there_is_no_stamp(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database" * 1000)
    rows = database.Database(f"sqlite:///{tmp_path}/x.db")
    assert rows.stamp() is None
    rows.close()

"""A fresh database for each test of the records: a copy of one that the migrations made once."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from windlass.storage import database


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """In memory if there is such a place: what is tested is the same, and fsync is free."""
    shared = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="windlass-records-", dir=shared if os.access(shared, os.W_OK) else None))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def made_once(folder: Path) -> Path:
    """A database that nobody has written to."""
    file = folder / "empty.db"
    database.open_database(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def fresh(made_once: Path, folder: Path) -> Iterator[Callable[[], database.Database]]:
    """Opens databases, each of its own."""
    opened: list[database.Database] = []

    def make() -> database.Database:
        file = folder / f"{uuid.uuid4().hex}.db"
        shutil.copy(made_once, file)
        opened.append(database.Database(f"sqlite:///{file}"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def rows(fresh: Callable[[], database.Database]) -> database.Database:
    return fresh()

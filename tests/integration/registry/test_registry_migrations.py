"""The schema: made by migrations alone, equal to the tables, up and down again, and never newer than the code."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import autogenerate
from alembic.runtime import migration

from windlass import errors
from windlass.registry import registry as registries
from windlass.storage import database, tables
from windlass.storage.migrations import run


def test_the_migrations_make_the_tables(place: Any) -> None:
    rows = database.open_database(place.url)
    with rows.read() as connection:
        context = migration.MigrationContext.configure(connection, opts={"compare_type": True})
        assert autogenerate.compare_metadata(context, tables.metadata) == []
        assert context.get_current_heads() == (tables.REVISION,)
    rows.close()


def test_the_revision_named_is_the_newest() -> None:
    assert run.newest() == tables.REVISION


@pytest.mark.promise("P-64")
def test_down_and_up_again(place: Any, push: Callable[..., Any]) -> None:
    rows = database.open_database(place.url)
    with rows.write() as connection:
        run.downgrade(connection, "base")
    with rows.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
    rows.migrate()
    rows.close()
    registry = place.open()
    assert push(registry, "w").version == 1
    registry.close()


@pytest.mark.promise("P-64")
def test_a_downgrade_that_would_lose_models_is_refused(place: Any, push: Callable[..., Any]) -> None:
    registry = place.open()
    push(registry, "w")
    before = registry.versions("digits")
    rows = database.open_database(place.url)
    with pytest.raises(errors.Conflict, match="audit log"), rows.write() as connection:
        run.downgrade(connection, "base")
    with rows.write() as connection:
        connection.execute(sa.delete(tables.audit))
    with pytest.raises(errors.Conflict, match="holds models"), rows.write() as connection:
        run.downgrade(connection, "base")
    assert registry.versions("digits") == before
    rows.close()
    registry.close()


@pytest.mark.promise("P-64")
def test_a_newer_schema_is_refused(place: Any) -> None:
    rows = database.open_database(place.url)
    with rows.write() as connection:
        connection.execute(sa.update(tables.alembic_version).values(version_num="9999"))
    with pytest.raises(errors.Unsupported, match="newer"):
        database.open_database(place.url)
    rows.close()


def test_a_fresh_home_is_quick(tmp_path: Path) -> None:
    registries.Registry.open(tmp_path / "to load alembic").close()
    took = []
    for n in range(5):
        # Of this process: a busy machine must not decide.
        started = time.process_time()
        registries.Registry.open(tmp_path / str(n)).close()
        took.append(time.process_time() - started)
    assert min(took) < 0.3

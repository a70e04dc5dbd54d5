"""A reply that is lost after the commit: whoever tries again, with the same key, is answered as the first time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from windlass import errors
from windlass.records import audit, outbox
from windlass.storage import database

Push = Callable[..., Any]


class Cut:
    """Loses the reply of the n-th transaction that is written: it is committed, and its caller is told nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after: set[int] = set()
        self.count = 0
        whole = database.Database.write

        @contextlib.contextmanager
        def write(rows: database.Database) -> Iterator[Any]:
            with whole(rows) as connection:
                yield connection
            self.count += 1
            if self.count in self.after:
                raise errors.Unavailable("the connection was cut")

        monkeypatch.setattr(database.Database, "write", write)

    def insist(self, what: Callable[[], Any]) -> tuple[Any, int]:
        """Ask until there is an answer, each try losing its reply one transaction later; the answer and the tries."""
        for tries in itertools.count(1):
            self.count, self.after = 0, {tries}
            try:
                return what(), tries
            except errors.Unavailable:
                continue
            finally:
                self.after = set()
        raise AssertionError


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    return Cut(monkeypatch)


def noted(place: Any, action: str) -> int:
    rows = database.open_database(place.url)
    with rows.read() as connection:
        entries = audit.entries(connection, action=action)
        assert audit.verify(connection).bad == 0
        assert sum(event.event == action for event in outbox.after(connection, 0)) == len(entries)
    rows.close()
    return len(entries)


@pytest.mark.promise("P-56")
def test_a_push_whose_reply_is_lost_is_one_version(place: Any, registry: Any, push: Push, cut: Cut) -> None:
    answer, tries = cut.insist(lambda: push(registry, "the same bytes", idempotency_key="k"))
    assert tries > 2, "each transaction of a push lost its reply once"
    assert (answer.version, answer.created) == (1, True)
    assert push(registry, "the same bytes", idempotency_key="k") == answer
    assert [v.version for v in registry.versions("digits")] == [1]
    assert noted(place, "version.created") == 1
    with pytest.raises(errors.Conflict, match="another request"):
        push(registry, "other bytes", idempotency_key="k")


@pytest.mark.promise("P-56")
def test_a_move_whose_reply_is_lost_is_one_move(place: Any, registry: Any, push: Push, cut: Cut) -> None:
    for content in "ab":
        push(registry, content)
    for number, key in ((1, "first"), (2, "second")):
        moved, tries = cut.insist(
            lambda number=number, key=key: registry.move_alias(
                "digits", "production", number, actor="ada", expected_generation=number - 1, idempotency_key=key
            )
        )
        assert (moved.generation, moved.to_version, tries) == (number, number, 2)
    back, tries = cut.insist(
        lambda: registry.rollback_alias("digits", "production", actor="ada", idempotency_key="third")
    )
    assert (back.generation, back.to_version, tries) == (3, 1, 2), "a retry does not go back twice"
    assert [e.to_version for e in registry.history("digits", "production")] == [1, 2, 1]
    assert noted(place, "alias.moved") == 3


@pytest.mark.promise("P-56")
def test_what_is_asked_without_a_key_changes_once_too(place: Any, registry: Any, push: Push, cut: Cut) -> None:
    """Deleting, quarantining and revoking lead to a state: asked again, they are there already."""
    first, second = push(registry, "a"), push(registry, "b")
    cut.insist(lambda: registry.delete("digits", 1, actor="ada"))
    cut.insist(lambda: registry.revoke(second.digest, "leaked", actor="ada"))
    assert [v.status for v in registry.versions("digits")] == ["QUARANTINED", "DELETED"]
    assert noted(place, "version.deleted") == 1
    assert first.version == 1

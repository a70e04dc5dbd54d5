"""A crash between a change and its record: repeating the change makes the record right, so no rebuild undoes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from windlass.registry import records
from windlass.registry import registry as registries
from windlass.types import evidence, refs

Push = Callable[..., Any]


class Crash(BaseException):
    """The process dies here."""


def crash(*_: object) -> None:
    raise Crash


def rebuilt_status(place: Any) -> str:
    """What a registry says of the version when only the store is left."""
    fresh = registries.Registry.open_at(f"sqlite:///{place.store}-rebuilt.db", place.store)
    try:
        fresh.rebuild(actor="ada")
        status: str = fresh.show(refs.parse("digits@1")).version.status
        return status
    finally:
        fresh.close()


def delete(registry: registries.Registry, digest: str) -> None:
    registry.delete("digits", 1, actor="ada", reason="licence")


def quarantine(registry: registries.Registry, digest: str) -> None:
    registry.quarantine(digest, "it crashed", actor="ada")


@pytest.mark.promise("P-61")
@pytest.mark.parametrize(("change", "status"), [(delete, "DELETED"), (quarantine, "QUARANTINED")])
def test_a_change_repeated_after_a_crash_is_not_undone_by_a_rebuild(
    place: Any,
    registry: registries.Registry,
    push: Push,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[registries.Registry, str], None],
    status: str,
) -> None:
    first = push(registry, "a")
    with monkeypatch.context() as dying:
        dying.setattr(records.Records, "replace", crash)
        # The bytes outlive a deletion that another version, or a copy that was put back, still needs.
        dying.setattr("windlass.registry.retention.Collector.free", lambda *_, **__: ())
        with pytest.raises(Crash):
            change(registry, first.digest)
    assert registry.show(refs.parse("digits@1")).version.status == status
    assert [r.status for r in records.Records.below(place.store).latest()] == ["READY"]
    change(registry, first.digest)
    assert [r.status for r in records.Records.below(place.store).latest()] == [status]
    assert rebuilt_status(place) == status


@pytest.mark.promise("P-61")
def test_a_release_from_quarantine_repeated_after_a_crash_is_on_record(
    place: Any, registry: registries.Registry, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = push(registry, "a")
    quarantine(registry, first.digest)
    checked = evidence.Evidence(first.digest, "verify", "passed")
    with monkeypatch.context() as dying:
        dying.setattr(records.Records, "replace", crash)
        with pytest.raises(Crash):
            registry.add_evidence(checked, actor="ci")
    registry.add_evidence(checked, actor="ci")
    assert rebuilt_status(place) == "READY"


def test_what_was_in_quarantine_is_not_told_twice(registry: registries.Registry, push: Push) -> None:
    first = push(registry, "a")
    assert [v.version for v in registry.quarantine(first.digest, "it crashed", actor="ada")] == [1]
    assert registry.quarantine(first.digest, "it crashed again", actor="ada") == ()
    assert registry.show(refs.parse("digits@1")).version.reason == "it crashed"

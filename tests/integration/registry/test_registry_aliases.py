"""Aliases: who may move them, where they go back to, what history says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors
from windlass.registry import aliases, records
from windlass.registry import registry as registries
from windlass.storage import blobs, database
from windlass.types import refs

Push = Callable[..., Any]


def test_history_says_who_what_when_and_why(place: Any, push: Push) -> None:
    times = iter([float(second) for second in range(1_000, 100_000)])
    now = [0.0]

    def clock() -> float:
        now[0] = next(times)
        return now[0]

    registry = registries.Registry(
        database.open_database(place.url), blobs.BlobStore(place.store), records.Records.below(place.store), clock
    )
    push(registry, "a")
    push(registry, "b")
    registry.move_alias("digits", "production", 1, actor="ada", reason="first release")
    first = now[0]
    registry.move_alias("digits", "production", 2, actor="bob", reason="better accuracy")
    second = now[0]
    registry.move_alias("digits", "staging", 2, actor="bob")
    history = registry.history("digits", "production")
    assert [(e.from_version, e.to_version, e.actor, e.reason) for e in history] == [
        (None, 1, "ada", "first release"),
        (1, 2, "bob", "better accuracy"),
    ]
    assert [e.generation for e in history] == [1, 2]
    assert all(e.evidence for e in history)
    assert aliases.in_force(registry.history("digits"), first - 0.5) == ()
    assert [e.to_version for e in aliases.in_force(registry.history("digits"), first)] == [1]
    assert [e.to_version for e in aliases.in_force(registry.history("digits"), second)] == [2]
    registry.close()


@pytest.mark.promise("P-65")
def test_a_clock_set_back_does_not_reorder_history(place: Any, push: Push) -> None:
    now = [5_000.0]
    registry = registries.Registry(
        database.open_database(place.url),
        blobs.BlobStore(place.store),
        records.Records.below(place.store),
        lambda: now[0],
    )
    push(registry, "a")
    push(registry, "b")
    registry.move_alias("digits", "production", 1, actor="ada")
    now[0] = 1_400.0
    registry.move_alias("digits", "production", 2, actor="ada")
    history = registry.history("digits")
    assert [e.to_version for e in history] == [1, 2]
    assert [e.at for e in history] == [5_000.0, 5_000.0]
    assert aliases.in_force(history, 5_000.0)[0].to_version == 2
    assert push(registry, "c").version == 3
    registry.close()


def test_rollback_goes_to_what_was_before_and_further(registry: registries.Registry, push: Push) -> None:
    for content in "abc":
        number = push(registry, content).version
        registry.move_alias("digits", "production", number, actor="ada")
    back = registry.rollback_alias("digits", "production", actor="bob", reason="errors")
    assert (back.kind, back.from_version, back.to_version, back.generation) == ("rollback", 3, 2, 4)
    assert registry.rollback_alias("digits", "production", actor="bob").to_version == 1
    with pytest.raises(errors.Conflict, match="nothing to go back to"):
        registry.rollback_alias("digits", "production", actor="bob")
    registry.move_alias("digits", "production", 3, actor="bob")
    assert registry.rollback_alias("digits", "production", actor="bob").to_version == 1


def test_a_move_to_where_it_points_is_no_event(registry: registries.Registry, push: Push) -> None:
    push(registry, "a")
    first = registry.move_alias("digits", "production", 1, actor="ada")
    assert registry.move_alias("digits", "production", 1, actor="bob") == first
    assert registry.history("digits") == (first,)


@pytest.mark.promise("P-55")
def test_a_stale_generation_is_a_conflict(registry: registries.Registry, push: Push) -> None:
    push(registry, "a")
    push(registry, "b")
    registry.move_alias("digits", "production", 1, actor="ada", expected_generation=0)
    for stale in (0, 2):
        with pytest.raises(errors.Conflict):
            registry.move_alias("digits", "production", 2, actor="ada", expected_generation=stale)
        with pytest.raises(errors.Conflict):
            registry.rollback_alias("digits", "production", actor="ada", expected_generation=stale)
    moved = registry.move_alias("digits", "production", 2, actor="ada", expected_generation=1)
    assert moved.generation == 2


def test_promotion_and_rollback_keep_the_signature(registry: registries.Registry, push: Push) -> None:
    push(registry, "a", width=4)
    push(registry, "b", width=5)
    registry.move_alias("digits", "production", 1, actor="ada")
    with pytest.raises(errors.GateRefused, match="axis 1 of input 'x'"):
        registry.move_alias("digits", "production", 2, actor="ada")
    with pytest.raises(errors.UsageError, match="reason"):
        registry.move_alias("digits", "production", 2, actor="ada", force=True)
    registry.move_alias("digits", "production", 2, actor="ada", force=True, reason="callers moved last night")
    with pytest.raises(errors.GateRefused):
        registry.rollback_alias("digits", "production", actor="ada")
    assert (
        registry.rollback_alias("digits", "production", actor="ada", force=True, reason="they moved back").to_version
        == 1
    )


@pytest.mark.promise("P-60")
def test_an_alias_never_goes_to_broken_bytes(registry: registries.Registry, place: Any, push: Push) -> None:
    push(registry, "a")
    push(registry, "b")
    registry.move_alias("digits", "production", 1, actor="ada")
    registry.move_alias("digits", "production", 2, actor="ada")
    blob = next(iter(registry.show(refs.parse("digits@1")).manifest.model.blobs.values()))
    registry.store.quarantine(blob.digest, "test")
    with pytest.raises(errors.CorruptPackage, match="not whole"):
        registry.rollback_alias("digits", "production", actor="ada", force=True, reason="now")
    assert registry.resolve(refs.parse("digits")).version == 2


def test_a_deleted_version_is_no_target(registry: registries.Registry, push: Push) -> None:
    push(registry, "a")
    push(registry, "b")
    registry.move_alias("digits", "production", 1, actor="ada")
    registry.move_alias("digits", "production", 2, actor="ada")
    registry.delete("digits", 1, actor="ada")
    with pytest.raises(errors.NotAllowed, match="DELETED"):
        registry.rollback_alias("digits", "production", actor="ada")

"""What may be promoted, what is revoked, and who has which bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors
from windlass.records import audit, deployments
from windlass.registry import registry as registries
from windlass.registry import versions
from windlass.storage import database
from windlass.types import deployment as types
from windlass.types import evidence, refs

Push = Callable[..., Any]


def strict(place: Any, *kinds: str) -> registries.Registry:
    return registries.Registry.open_at(place.url, place.store, require=kinds)


def release(pushed: Any) -> types.Release:
    return types.Release(pushed.name, pushed.version, pushed.digest)


def entries(place: Any, **filters: Any) -> tuple[audit.Entry, ...]:
    rows = database.open_database(place.url)
    with rows.read() as connection:
        found = audit.entries(connection, **filters)
        assert audit.verify(connection).bad == 0
    rows.close()
    return found


def test_a_version_needs_what_the_policy_asks_for(place: Any, push: Push) -> None:
    registry = strict(place, "parity", "evaluation")
    pushed = push(registry, "a")

    def move(**more: Any) -> Any:
        return registry.move_alias("digits", "production", 1, actor="ada", **more)

    with pytest.raises(errors.GateRefused, match="evaluation") as refused:
        move()
    assert "parity" not in refused.value.message
    assert "windlass check digits@1" in refused.value.hint
    with pytest.raises(errors.GateRefused):
        registry.admit(release(pushed))
    registry.add_evidence(evidence.Evidence(pushed.digest, "evaluation", "passed"), actor="ada")
    assert registry.admit(release(pushed)).version == 1
    assert move().generation == 1
    registry.add_evidence(evidence.Evidence(pushed.digest, "evaluation", "failed"), actor="ada")
    push(registry, "b")
    registry.move_alias("digits", "production", 2, actor="ada", force=True, reason="at night")
    with pytest.raises(errors.GateRefused, match="evaluation"):
        move()
    assert registry.rollback_alias("digits", "production", actor="ada").to_version == 1, "the way back is open"
    registry.close()


def test_a_policy_that_asks_for_nothing_known_is_refused(place: Any) -> None:
    with pytest.raises(errors.UsageError, match="Did you mean 'evaluation'"):
        strict(place, "evalution")


def test_a_release_is_admitted_by_the_rules_of_promotion(registry: Any, push: Push) -> None:
    old, new, narrow = push(registry, "a"), push(registry, "b"), push(registry, "c", width=3)
    assert registry.admit(release(new), over=release(old)).version == 2
    with pytest.raises(errors.GateRefused, match="callers of digits@1"):
        registry.admit(release(narrow), over=release(old))
    assert registry.admit(release(narrow), over=release(old), force=True).version == 3
    registry.quarantine(new.digest, "it crashed", actor="ada")
    with pytest.raises(errors.NotAllowed, match="it crashed"):
        registry.admit(release(new), force=True)
    with pytest.raises(errors.NotFound):
        registry.admit(types.Release("digits", 9, ""))


def test_a_rollout_moves_its_alias_in_its_own_transaction(place: Any, registry: Any, push: Push) -> None:
    for content in "ab":
        push(registry, content)
    rows = database.open_database(place.url)
    with rows.write() as connection:
        moved = registry.move_alias_in(connection, "digits", "production", 2, actor="windlass", reason="promoted")
    assert (moved.generation, moved.to_version) == (1, 2)
    assert registry.history("digits") == (moved,)
    with rows.write() as connection:
        assert registry.move_alias_in(connection, "digits", "production", 2, actor="windlass") is None

    def fail() -> None:
        with rows.write() as connection:
            registry.move_alias_in(connection, "digits", "production", 1, actor="windlass")
            raise errors.Conflict("somebody else took the step")

    with pytest.raises(errors.Conflict):
        fail()
    assert registry.history("digits") == (moved,)
    registry.quarantine(registry.resolve(refs.parse("digits@1")).digest, "it crashed", actor="ada")
    with pytest.raises(errors.NotAllowed), rows.write() as connection:
        registry.move_alias_in(connection, "digits", "production", 1, actor="windlass")
    with rows.read() as connection:
        found = versions.statuses(connection, [("digits", 1), ("digits", 2), ("digits", 3)])
    assert found == {("digits", 1): ("QUARANTINED", "it crashed"), ("digits", 2): ("READY", "")}
    rows.close()


def test_who_has_some_bytes(place: Any, registry: Any, push: Push) -> None:
    one, other = push(registry, "a"), push(registry, "a", name="copy")
    push(registry, "b")
    registry.move_alias("digits", "production", 1, actor="ada")
    rows = database.open_database(place.url)
    with rows.write() as connection:
        wish = types.Desired("endpoint", release(other))
        deployments.put(connection, wish, expected=0, actor="ada", now=0.0)
    rows.close()
    found = registry.users(one.digest)
    assert ([(v.name, v.version) for v in found.versions], found.aliases) == ([("digits", 1)], ("digits:production",))
    weights = registry.show(refs.parse("digits@1")).manifest.model.blobs["model.bin"].digest
    found = registry.users(weights)
    assert [(v.name, v.version) for v in found.versions] == [("copy", 1), ("digits", 1)]
    assert (found.aliases, found.deployments) == (("digits:production",), ("endpoint",))
    nobody = registry.users(f"sha256:{0:064x}")
    assert (nobody.versions, nobody.aliases, nobody.deployments) == ((), (), ())
    with pytest.raises(errors.UsageError):
        registry.users("sha256:1")


def test_revoked_bytes_do_not_come_back(place: Any, registry: Any, push: Push, make_package: Any) -> None:
    push(registry, "a")
    push(registry, "a", name="copy")
    push(registry, "b")
    weights = registry.show(refs.parse("digits@1")).manifest.model.blobs["model.bin"].digest
    with pytest.raises(errors.UsageError):
        registry.revoke(weights, "", actor="ada")
    done = registry.revoke(weights, "it leaks", actor="ada")
    assert sorted((v.name, v.status) for v in done.versions) == [("copy", "QUARANTINED"), ("digits", "QUARANTINED")]
    assert registry.resolve(refs.parse("digits@2")).status == "READY"
    package = make_package("a")
    with pytest.raises(errors.NotAllowed, match="it leaks"):
        registry.push(package, name="third", actor="eve")
    registry.add_evidence(evidence.Evidence(package.digest, "parity", "passed"), actor="eve")
    with pytest.raises(errors.NotAllowed, match="it leaks"):
        registry.resolve(refs.parse("digits@1"))
    (entry,) = entries(place, action="digest.revoked")
    assert (entry.actor, entry.reason, entry.detail["versions"]) == ("ada", "it leaks", ["copy@1", "digits@1"])
    registry.reinstate(weights, "it does not", actor="bob")
    with pytest.raises(errors.NotAllowed):
        registry.resolve(refs.parse("digits@1"))
    registry.add_evidence(evidence.Evidence(package.digest, "parity", "passed"), actor="bob")
    assert registry.resolve(refs.parse("digits@1")).status == "READY"
    for call in (registry.revoke, registry.reinstate):
        with pytest.raises(errors.NotFound):
            call(f"sha256:{0:064x}", "never was", actor="ada")


def test_every_change_is_in_the_audit_log(place: Any, registry: Any, push: Push) -> None:
    first = push(registry, "a")
    push(registry, "b")
    registry.move_alias("digits", "production", 2, actor="bob", reason="better")
    registry.quarantine(first.digest, "it crashed", actor="carl")
    registry.delete("digits", 1, actor="dora", reason="no use")
    said = [(e.actor, e.action, e.subject, e.reason) for e in entries(place)]
    pushed = ["version.created", "evidence.added", "version.status"]
    assert said == [
        *(("ada", action, "model/digits@1", "") for action in pushed),
        *(("ada", action, "model/digits@2", "") for action in pushed),
        ("bob", "alias.moved", "model/digits:production", "better"),
        ("carl", "version.status", "model/digits@1", "it crashed"),
        ("dora", "version.deleted", "model/digits@1", "no use"),
    ]


def test_models_and_versions_are_searched_and_paged(registry: Any, push: Push) -> None:
    for name in ("fraud-a", "fraud-b", "price_c", "pricexc"):
        push(registry, "a", name=name)
    for content in "bcd":
        push(registry, content, name="fraud-b")
    registry.move_alias("fraud-b", "production", 2, actor="ada")
    registry.delete("fraud-b", 4, actor="ada")

    def names(**asked: Any) -> list[str]:
        return [model.name for model in registry.models(**asked)]

    assert names() == ["fraud-a", "fraud-b", "price_c", "pricexc"]
    assert names(search="FRAUD") == ["fraud-a", "fraud-b"]
    assert names(search="_") == ["price_c"]
    assert names(search="%") == []
    assert names(after="fraud-a", limit=2) == ["fraud-b", "price_c"]
    assert names(only=("price*",), limit=1) == ["price_c"]
    assert names(only=("*-?", "pricex[a-d]")) == ["fraud-a", "fraud-b", "pricexc"]
    assert names(only=()) == []
    (found,) = registry.models(search="fraud-b", limit=5)
    assert (found.versions, found.newest, found.aliases) == (3, 3, {"production": 2})
    assert [v.version for v in registry.versions("fraud-b")] == [4, 3, 2, 1]
    assert [v.version for v in registry.versions("fraud-b", after=4, limit=2)] == [3, 2]
    assert registry.versions("fraud-b", after=1) == ()
    with pytest.raises(errors.NotFound, match="fraud-b"):
        registry.versions("fraud-bb")
    with pytest.raises(errors.NotFound, match="its newest is 4"):
        registry.resolve(refs.parse("fraud-b@9"))

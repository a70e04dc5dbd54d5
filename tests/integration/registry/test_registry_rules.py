"""What the registry promises of versions, evidence, references and deletion, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors
from windlass.packaging import archive
from windlass.registry import registry as registries
from windlass.types import evidence, refs

Push = Callable[..., Any]
Make = Callable[..., Any]


def resolve(registry: registries.Registry, text: str) -> registries.Resolved:
    return registry.resolve(refs.parse(text))


def test_versions_are_numbered_from_one(registry: registries.Registry, push: Push) -> None:
    pushed = [push(registry, f"w{i}") for i in range(3)]
    assert [p.version for p in pushed] == [1, 2, 3]
    assert all(p.created and p.status == "READY" for p in pushed)
    assert [v.version for v in registry.versions("digits")] == [3, 2, 1]


def test_every_model_counts_for_itself(registry: registries.Registry, push: Push) -> None:
    push(registry, "a", name="digits")
    push(registry, "b", name="digits")
    assert push(registry, "c", name="cancer").version == 1
    assert [(m.name, m.versions, m.newest) for m in registry.models()] == [("cancer", 1, 1), ("digits", 2, 2)]


def test_the_same_bytes_are_the_same_version(registry: registries.Registry, push: Push) -> None:
    first, other, again = push(registry, "w"), push(registry, "v"), push(registry, "w")
    assert (again.version, again.digest, again.created) == (first.version, first.digest, False)
    assert other.version == 2
    assert len(registry.show(refs.parse("digits@1")).evidence) == 1


@pytest.mark.promise("P-56")
def test_a_retried_push_is_answered_as_the_first(registry: registries.Registry, push: Push) -> None:
    first = push(registry, "w", idempotency_key="k1")
    registry.move_alias("digits", "production", 1, actor="ada")
    assert push(registry, "w", idempotency_key="k1") == first
    assert first.created
    assert len(registry.versions("digits")) == 1
    with pytest.raises(errors.Conflict):
        push(registry, "other", idempotency_key="k1")


@pytest.mark.promise("P-56")
def test_a_retried_move_is_answered_as_the_first(registry: registries.Registry, push: Push) -> None:
    push(registry, "a")
    push(registry, "b")
    first = registry.move_alias("digits", "production", 1, actor="ada", expected_generation=0, idempotency_key="k")
    registry.move_alias("digits", "production", 2, actor="bob")
    again = registry.move_alias("digits", "production", 1, actor="ada", expected_generation=0, idempotency_key="k")
    assert again == first
    assert resolve(registry, "digits:production").version == 2
    rolled = registry.rollback_alias("digits", "production", actor="ada", idempotency_key="r")
    assert registry.rollback_alias("digits", "production", actor="ada", idempotency_key="r") == rolled
    assert len(registry.history("digits")) == 3


def test_without_evidence_a_version_is_new_until_it_is_verified(
    registry: registries.Registry, make_package: Make
) -> None:
    package = make_package("w")
    assert registry.push(package, name="digits", actor="ada").status == "NEW"
    with pytest.raises(errors.NotFound, match="READY"):
        resolve(registry, "digits")
    with pytest.raises(errors.GateRefused):
        registry.move_alias("digits", "production", 1, actor="ada")
    registry.add_evidence(evidence.Evidence(package.digest, "bench", "passed"), actor="ci")
    assert resolve(registry, "digits@1").status == "NEW"
    registry.add_evidence(evidence.Evidence(package.digest, "verify", "passed"), actor="ci")
    assert resolve(registry, "digits").status == "READY"
    shown = registry.show(refs.parse("digits@1"))
    assert [(f.evidence.kind, f.actor) for f in shown.evidence] == [("bench", "ci"), ("verify", "ci")]


def test_failed_evidence_registers_nothing(registry: registries.Registry, make_package: Make) -> None:
    package = make_package("w")
    failed = evidence.Evidence(package.digest, "parity", "failed")
    with pytest.raises(errors.GateRefused):
        registry.push(package, name="digits", actor="ada", evidence=[failed])
    assert registry.models() == ()
    with pytest.raises(errors.InvalidInput):
        registry.push(make_package("v"), name="digits", actor="ada", evidence=[failed])


@pytest.mark.promise("P-60")
def test_a_broken_package_becomes_no_version(registry: registries.Registry, make_package: Make) -> None:
    whole = make_package("w")
    broken = archive.Package(whole.manifest, lambda ref: archive.in_memory(whole.manifest, {}).read(ref))
    with pytest.raises(errors.CorruptPackage):
        registry.push(broken, name="digits", actor="ada")
    assert registry.models() == ()


def test_references(registry: registries.Registry, push: Push) -> None:
    first, second = push(registry, "a"), push(registry, "b")
    assert resolve(registry, "digits").version == 2
    registry.move_alias("digits", "production", 1, actor="ada")
    assert resolve(registry, "digits").version == 1
    assert resolve(registry, "digits:production").digest == first.digest
    assert resolve(registry, f"digits@{second.digest}").version == 2
    assert resolve(registry, "digits@2").digest == second.digest
    for text in ("digits@3", "digits:staging", "digit", f"digits@sha256:{'0' * 64}"):
        with pytest.raises(errors.NotFound):
            resolve(registry, text)
    with pytest.raises(errors.NotFound, match="Did you mean 'digits'"):
        resolve(registry, "digts")
    with pytest.raises(errors.UsageError):
        resolve(registry, "./digits.windlass")


@pytest.mark.threat("V4")
@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", "a..b", "a\0", "-a", "a" * 129, "a\n"])
def test_a_hostile_name_is_refused(registry: registries.Registry, push: Push, make_package: Make, name: str) -> None:
    with pytest.raises(errors.UsageError):
        registry.push(make_package("w"), name=name, actor="ada")
    push(registry, "w")
    with pytest.raises(errors.UsageError):
        registry.move_alias("digits", name, 1, actor="ada")


def test_lineage(registry: registries.Registry, push: Push) -> None:
    parent = push(registry, "fp32")
    child = push(registry, "int8", parent=parent.digest)
    push(registry, "pruned", parent=child.digest)
    unknown = "sha256:" + "1" * 64
    push(registry, "orphan", parent=unknown)
    family = registry.show(refs.parse("digits@2")).family
    assert [(r.name, r.version) for r in family.ancestors] == [("digits", 1)]
    assert [(r.name, r.version) for r in family.children] == [("digits", 3)]
    assert [r.version for r in registry.show(refs.parse("digits@3")).family.ancestors] == [2, 1]
    assert [(r.name, r.digest) for r in registry.show(refs.parse("digits@4")).family.ancestors] == [("", unknown)]


def test_deletion_frees_the_bytes_and_keeps_what_is_shared(registry: registries.Registry, push: Push) -> None:
    first, second = push(registry, "a"), push(registry, "b")
    before = {b.digest: b.size for b in registry.show(refs.parse("digits@1")).manifest.blobs().values()}
    gone = registry.delete("digits", 1, actor="ada", reason="licence")
    own = set(before) - set(gone.kept) | {first.digest}
    assert set(gone.freed) == own
    assert not any(map(registry.store.exists, gone.freed))
    assert all(map(registry.store.exists, gone.kept))
    assert len(gone.kept) == 2
    assert gone.freed_bytes > sum(before[d] for d in own - {first.digest})
    with pytest.raises(errors.NotFound, match="deleted"):
        resolve(registry, "digits@1")
    shown = registry.show(refs.parse("digits@1"))
    assert (shown.version.status, shown.version.reason, shown.manifest) == ("DELETED", "licence", None)
    assert registry.delete("digits", 1, actor="ada").freed == ()
    assert registry.delete("digits", 2, actor="ada").kept == ()
    assert list(registry.store.digests()) == []
    assert not registry.store.exists(second.digest)


def test_a_number_is_never_given_twice(registry: registries.Registry, push: Push) -> None:
    push(registry, "a")
    push(registry, "b")
    registry.delete("digits", 2, actor="ada")
    again = push(registry, "b")
    assert (again.version, again.created) == (3, True)


def test_what_an_alias_shows_is_not_deleted(registry: registries.Registry, push: Push) -> None:
    push(registry, "a")
    registry.move_alias("digits", "production", 1, actor="ada")
    with pytest.raises(errors.Conflict, match="production"):
        registry.delete("digits", 1, actor="ada")
    registry.move_alias("digits", "production", None, actor="ada")
    assert registry.delete("digits", 1, actor="ada").freed != ()


def test_quarantine_and_back(registry: registries.Registry, push: Push) -> None:
    first = push(registry, "a")
    push(registry, "b")
    blob = next(iter(registry.show(refs.parse("digits@1")).manifest.model.blobs.values()))
    assert [v.version for v in registry.quarantine(blob.digest, "it crashed", actor="ada")] == [1]
    with pytest.raises(errors.NotAllowed, match="it crashed"):
        resolve(registry, "digits@1")
    with pytest.raises(errors.NotAllowed):
        registry.move_alias("digits", "production", 1, actor="ada", force=True, reason="I insist")
    assert resolve(registry, "digits").version == 2
    registry.add_evidence(evidence.Evidence(first.digest, "verify", "passed"), actor="ci")
    assert resolve(registry, "digits@1").status == "READY"


def test_tags(registry: registries.Registry, push: Push) -> None:
    push(registry, "a", tags={"stage": "lab", "team": "vision"})
    assert registry.show(refs.parse("digits@1")).tags == {"stage": "lab", "team": "vision"}

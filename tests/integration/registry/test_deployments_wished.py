"""Wishes on SQLite and PostgreSQL: who may store which, what changes nothing, the way back, and what is kept of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from windlass import errors
from windlass.desired import deployments, wishes
from windlass.records import audit, rollouts
from windlass.records import deployments as stored
from windlass.registry import registry as registries
from windlass.storage import database
from windlass.types import deployment, evidence, refs

NOW = 1_000_000.0


class World:
    """A registry with versions of `fraud`, deployments, and the hand of a controller."""

    def __init__(self, registry: registries.Registry, rows: database.Database, push: Callable[..., Any]) -> None:
        self.registry, self.rows, self.push = registry, rows, push
        self.now = NOW
        self.deployments = self.open()
        self.push_version("one")

    def open(self, policy: tuple[str, ...] = ()) -> deployments.Deployments:
        return deployments.Deployments(self.rows, self.registry, policy, lambda: self.now)

    def push_version(self, content: str, **more: Any) -> int:
        return int(self.push(self.registry, content, name="fraud", **more).version)

    def digest(self, version: int) -> str:
        return self.registry.resolve(refs.parse(f"fraud@{version}")).digest

    def deploy(self, version: int, **more: Any) -> stored.Deployment:
        strategy = more.pop("strategy", deployment.Strategy())
        wish = wishes.Wish("fraud", f"fraud@{version}", strategy)
        return self.deployments.deploy(wish, actor=more.pop("actor", "ada"), **more)

    def finish(self, outcome: str = "new") -> None:
        """As a controller would: the wish is taken up and its rollout ended."""
        self.begin()
        found = self.deployments.get("fraud")
        live = found.desired.release if outcome == "new" else found.status.live
        self.now += 10
        with self.rows.write() as connection:
            current = rollouts.current(connection, "fraud")
            assert current is not None
            turn = rollouts.Turn({}, "LIVE", words="because")
            assert rollouts.end(connection, current.id, turn, expected_step=0, outcome=outcome, now=self.now)
            stored.observe(connection, "fraud", deployment.Status(found.generation, "LIVE", live))

    def begin(self) -> None:
        """As a controller would: the wish is taken up and its rollout is running."""
        found = self.deployments.get("fraud")
        with self.rows.write() as connection:
            if rollouts.current(connection, "fraud") is None:
                rollouts.start(
                    connection,
                    wish=found.desired,
                    generation=found.generation,
                    old=found.status.live,
                    turn=rollouts.Turn({}, "RUNNING"),
                    actor=found.actor,
                    reason=found.reason,
                    now=self.now,
                )
            status = deployment.Status(found.generation, "RUNNING", found.status.live)
            stored.observe(connection, "fraud", status)

    def live(self, version: int) -> None:
        self.deploy(version, reason=f"ship {version}")
        self.finish()


@pytest.fixture
def world(registry: registries.Registry, place: Any, push: Callable[..., Any]) -> Iterator[World]:
    rows = database.open_database(place.url)
    yield World(registry, rows, push)
    rows.close()


def test_a_wish_is_resolved_once_and_stored_with_who_and_why(world: World) -> None:
    made = world.deploy(1, actor="ada", reason="first")
    assert (made.generation, made.actor, made.reason) == (1, "ada", "first")
    assert made.desired.release == deployment.Release("fraud", 1, world.digest(1), "fraud@1")
    assert made.desired.salt
    assert world.deployments.get("fraud") == made
    assert world.deployments.every(search="rau") == (made,)
    with world.rows.read() as connection:
        entries = audit.entries(connection, subject="deployment/fraud")
        assert audit.verify(connection).bad == 0
    assert [(entry.actor, entry.action, entry.reason) for entry in entries] == [("ada", "deployment.changed", "first")]


def test_the_same_wish_again_changes_nothing(world: World) -> None:
    made = world.deploy(1)
    world.registry.move_alias("fraud", "blue", 1, actor="ada")
    by_alias = wishes.Wish("fraud", "fraud:blue")
    assert world.deployments.deploy(by_alias, actor="ben", reason="again") == made
    world.finish()
    assert world.deploy(1).generation == 1
    with pytest.raises(errors.Conflict):
        world.deploy(1, expected_generation=0)
    world.push_version("two")
    new = world.deploy(2)
    assert new.generation == 2
    assert new.desired.salt == made.desired.salt


def test_an_aborted_release_is_tried_again_only_when_asked(world: World) -> None:
    world.live(1)
    world.push_version("two")
    world.deploy(2)
    world.begin()
    world.deployments.order("fraud", "abort", actor="ada", reason="slow")
    world.finish("old")
    assert world.deploy(2).generation == 3
    again = world.deploy(2, again=True)
    assert (again.generation, again.desired.order) == (4, "")
    assert world.deploy(2, again=True).generation == 4, "it is under way already"


def test_what_is_not_ready_is_refused_with_the_way_out(world: World, make_package: Callable[..., Any]) -> None:
    world.registry.push(make_package("new", name="fraud"), name="fraud", actor="ada")
    with pytest.raises(errors.GateRefused, match="not READY") as raised:
        world.deploy(2)
    assert raised.value.exit_code == 4
    assert "--force --reason" in raised.value.hint
    with pytest.raises(errors.UsageError, match="give the reason"):
        world.deploy(2, force=True)
    assert world.deploy(2, force=True, reason="a drill").desired.release.version == 2


def test_the_policy_asks_for_evidence(world: World) -> None:
    strict = world.open(("evaluation",))
    wish = wishes.Wish("fraud", "fraud@1")
    with pytest.raises(errors.GateRefused, match="kind 'evaluation', and fraud@1 has none") as raised:
        strict.deploy(wish, actor="ada")
    assert "windlass check fraud@1" in raised.value.hint
    refused = strict.preview(wish)
    assert refused.refused == raised.value.message
    assert refused.hint == raised.value.hint
    world.registry.add_evidence(evidence.Evidence(world.digest(1), "evaluation", "passed"), actor="ada")
    assert strict.deploy(wish, actor="ada").generation == 1


def test_a_failed_check_stands_in_the_way_until_it_passes(world: World) -> None:
    world.registry.add_evidence(evidence.Evidence(world.digest(1), "evaluation", "failed"), actor="ada")
    with pytest.raises(errors.GateRefused, match="failed its last evaluation"):
        world.deploy(1)
    world.registry.add_evidence(evidence.Evidence(world.digest(1), "evaluation", "passed"), actor="ada")
    assert world.deploy(1).generation == 1


def test_what_breaks_callers_of_the_live_release_is_refused(world: World) -> None:
    world.live(1)
    world.push_version("wide", width=5)
    with pytest.raises(errors.GateRefused, match="does not take what callers of fraud@1 send"):
        world.deploy(2)
    assert world.deployments.get("fraud").desired.release.version == 1
    assert world.deploy(2, force=True, reason="the callers know").generation == 2


def test_quarantine_cannot_be_forced(world: World) -> None:
    world.live(1)
    world.push_version("two")
    world.registry.quarantine(world.digest(2), "it is poisoned", actor="ada")
    with pytest.raises(errors.GateRefused, match="poisoned"):
        world.deploy(2, force=True, reason="I insist")


def test_wrong_strategies_targets_and_references_are_named(world: World) -> None:
    with pytest.raises(errors.UsageError, match="canary") as raised:
        world.deploy(1, strategy=deployment.Strategy("canry"))
    assert "canary" in raised.value.message + raised.value.hint
    with pytest.raises(errors.UsageError) as raised:
        world.deploy(1, strategy=deployment.Strategy("canary", {"max": 4}))
    assert "max_s" in raised.value.hint
    with pytest.raises(errors.NotFound):
        world.deploy(9)
    world.live(1)
    with pytest.raises(errors.NotFound, match="no deployment 'frud'") as missing:
        world.deployments.get("frud")
    assert "fraud" in missing.value.hint


def test_two_people_at_once_are_told_of_one_another(world: World) -> None:
    world.push_version("two")
    world.push_version("three")
    world.deploy(1, actor="ada", reason="first")
    with pytest.raises(errors.Conflict) as raised:
        world.deploy(2, actor="ben", expected_generation=0)
    assert "generation 1, written by ada (first); generation 0 was expected" in raised.value.message
    start, outcomes = threading.Barrier(2), []

    def change(version: int, actor: str) -> None:
        start.wait()
        try:
            outcomes.append(world.deploy(version, actor=actor, expected_generation=1))
        except errors.Conflict as e:
            outcomes.append(e)

    threads = [threading.Thread(target=change, args=args) for args in ((2, "ada"), (3, "ben"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [one for one in outcomes if isinstance(one, stored.Deployment)]
    lost = [one for one in outcomes if isinstance(one, errors.Conflict)]
    assert (len(won), len(lost)) == (1, 1)
    assert f"generation 2, written by {won[0].actor}" in lost[0].message


@pytest.mark.promise("P-56")
def test_retries_are_answered_as_the_first_try(world: World) -> None:
    world.live(1)
    world.push_version("two")
    world.live(2)
    wish = wishes.Wish("fraud", "fraud@1")
    first = world.deployments.deploy(wish, actor="ada", idempotency_key="k1")
    world.finish()
    assert world.deployments.deploy(wish, actor="ada", idempotency_key="k1") == first
    with pytest.raises(errors.Conflict, match="another request"):
        world.deployments.deploy(wishes.Wish("fraud", "fraud@2"), actor="ada", idempotency_key="k1")
    world.deploy(2)
    world.finish()
    back = world.deployments.rollback("fraud", actor="ada", idempotency_key="k2")
    world.finish()
    assert world.deployments.rollback("fraud", actor="ada", idempotency_key="k2") == back
    gone = world.deployments.remove("fraud", actor="ada", idempotency_key="k3")
    assert world.deployments.remove("fraud", actor="ada", idempotency_key="k3") == gone


def test_orders_are_generations_with_an_actor_and_need_a_rollout(world: World) -> None:
    world.live(1)
    with pytest.raises(errors.Conflict, match="no rollout of 'fraud' is under way"):
        world.deployments.order("fraud", "pause", actor="ada")
    world.push_version("two")
    world.deploy(2)
    paused = world.deployments.order("fraud", "pause", actor="ada", reason="lunch")
    assert (paused.generation, paused.desired.paused, paused.actor, paused.reason) == (3, True, "ada", "lunch")
    world.begin()
    assert world.deployments.order("fraud", "pause", actor="ben").generation == 3
    assert world.deploy(2).generation == 3, "the file, applied again, does not resume what a person paused"
    assert world.deployments.order("fraud", "resume", actor="ada").desired.paused is False
    ordered = world.deployments.order("fraud", "promote", actor="ada")
    assert (ordered.generation, ordered.desired.order, ordered.desired.release.version) == (5, "promote", 2)
    with pytest.raises(errors.Conflict):
        world.deployments.order("fraud", "abort", actor="ben", expected_generation=4)
    assert world.deployments.order("fraud", "abort", actor="ben", expected_generation=5).desired.order == "abort"


def test_rollback_goes_to_what_was_live_before_and_further_back(world: World) -> None:
    world.live(1)
    with pytest.raises(errors.Conflict, match="nothing to go back to") as raised:
        world.deployments.rollback("fraud", actor="ada")
    assert "--to REF" in raised.value.hint
    world.push_version("two")
    world.live(2)
    # Its callers send something else: what served before needs no contract to be gone back to.
    world.push_version("wide", width=5)
    world.deploy(3, force=True, reason="the callers know")
    world.finish()
    back = world.deployments.rollback("fraud", actor="ada", reason="errors")
    assert (back.desired.release.version, back.desired.strategy, back.reason) == (2, deployment.Strategy(), "errors")
    world.finish()
    assert world.deployments.rollback("fraud", actor="ada").desired.release.version == 1
    world.finish()
    with pytest.raises(errors.GateRefused, match="does not take"):
        world.deployments.rollback("fraud", ref="fraud@3", actor="ada")
    assert world.deployments.rollback("fraud", ref="fraud@2", actor="ada").desired.release.version == 2


def test_rollback_during_a_rollout_aborts_it(world: World) -> None:
    world.live(1)
    world.push_version("two")
    world.deploy(2)
    world.begin()
    said = world.deployments.rollback("fraud", actor="ada", reason="errors")
    assert (said.desired.order, said.desired.release.version, said.reason) == ("abort", 2, "errors")
    world.finish("old")
    settled = world.deployments.rollback("fraud", actor="ada")
    assert settled.desired.release.version == 1, "what is live stays, and is what is wanted now"


def test_rollback_never_goes_to_quarantine(world: World) -> None:
    world.live(1)
    world.push_version("two")
    world.live(2)
    world.registry.quarantine(world.digest(1), "it is poisoned", actor="ada")
    for more in ({}, {"ref": "fraud@1", "force": True, "reason": "I insist"}):
        with pytest.raises(errors.GateRefused, match="poisoned"):
            world.deployments.rollback("fraud", actor="ada", **more)
    assert world.deployments.get("fraud").desired.release.version == 2


def test_what_was_live_at_a_moment_is_known(world: World) -> None:
    world.live(1)
    world.push_version("two")
    world.now += 100
    world.live(2)
    first = world.deployments.live_at("fraud", NOW + 20)
    assert first.release is not None
    assert (first.release.version, first.since, first.until) == (1, NOW + 10, NOW + 120)
    assert (first.actor, first.reason, first.words) == ("ada", "ship 1", "because")
    second = world.deployments.live_at("fraud", NOW + 500)
    assert second.release is not None
    assert (second.release.version, second.until) == (2, 0.0)
    assert world.deployments.live_at("fraud", NOW - 1).release is None
    assert [one.number for one in world.deployments.rollouts("fraud")] == [2, 1]
    assert world.deployments.steps(first.rollout)[-1].words == "because"


def test_a_preview_changes_nothing_and_says_what_would(world: World) -> None:
    world.live(1)
    world.push_version("two")
    wish = wishes.Wish("fraud", "fraud@2", deployment.Strategy("canary"))
    seen = world.deployments.preview(wish, rate=50.0, bad=0.005)
    assert seen.changes == (
        "the release goes from fraud@1 to fraud@2",
        "the strategy goes from recreate to canary",
    )
    assert (seen.generation, seen.refused) == (1, "")
    assert seen.steps
    assert seen.expected[0]
    assert world.deployments.get("fraud").generation == 1
    same = world.deployments.preview(wishes.Wish("fraud", "fraud@1"))
    assert same.changes == ()
    fresh = world.deployments.preview(msgspec.structs.replace(wish, name="other"))
    assert (fresh.generation, fresh.live) == (0, None)


def test_a_removed_deployment_is_gone_and_may_come_again(world: World) -> None:
    made = world.deploy(1)
    with pytest.raises(errors.Conflict):
        world.deployments.remove("fraud", actor="ada", expected_generation=7)
    world.deployments.remove("fraud", actor="ada", reason="over")
    with pytest.raises(errors.NotFound):
        world.deployments.get("fraud")
    assert world.deploy(1, expected_generation=0).generation > made.generation

"""Deployments and rollouts on record: one generation, one writer; one step, one controller."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from windlass import errors
from windlass.records import audit, deployments, outbox, rollouts
from windlass.storage import database
from windlass.types import deployment as types


def release(version: int = 1, name: str = "fraud") -> types.Release:
    return types.Release(name, version, f"sha256:{version:064x}")


def wish(name: str = "fraud", version: int = 1, **more: Any) -> types.Desired:
    return types.Desired(name, release(version), **more)


def put(rows: database.Database, desired: types.Desired, expected: int | None = None, **more: Any) -> Any:
    with rows.write() as c:
        return deployments.put(c, desired, expected=expected, **{"actor": "ada", "now": 1.0, **more})


def test_a_wish_is_kept_as_it_was_said(rows: database.Database) -> None:
    desired = wish(
        strategy=types.Strategy("canary", {"to": [1, 5.5], "guard": {"alpha": 0.01}}),
        against=(release(2),),
        serving=types.Serving(max_batch=8),
        salt="s",
        paused=True,
    )
    put(rows, desired, reason="because")
    with rows.read() as c:
        kept = deployments.get(c, "fraud")
    assert kept is not None
    assert kept == deployments.Deployment(desired, 1, types.Status(), "ada", "because", 1.0, 1.0)
    assert kept.name == "fraud"


def test_of_two_people_the_second_is_told_of_both(rows: database.Database) -> None:
    put(rows, wish(), 0)
    put(rows, wish(version=2), 1, actor="bob", reason="a try")
    with pytest.raises(errors.Conflict) as refused:
        put(rows, wish(version=3), 1, actor="eve")
    assert "generation 2" in refused.value.message
    assert "generation 1" in refused.value.message
    assert "bob" in refused.value.message
    assert "a try" in refused.value.message
    with pytest.raises(errors.Conflict):
        put(rows, wish(), 0)
    with pytest.raises(errors.Conflict):
        put(rows, wish("other"), 1)
    assert put(rows, wish(version=3), None).generation == 3


def test_a_removed_deployment_goes_on_counting(rows: database.Database) -> None:
    put(rows, wish())
    with rows.write() as c:
        gone = deployments.remove(c, "fraud", expected=1, actor="ada", now=2.0)
    assert (gone.generation, gone.removed_at) == (2, 2.0)
    with rows.read() as c:
        assert deployments.get(c, "fraud") is None
        assert deployments.get(c, "fraud", removed=True) == gone
        assert deployments.every(c) == ()
        assert deployments.every(c, removed=True) == (gone,)
    with pytest.raises(errors.NotFound), rows.write() as c:
        deployments.remove(c, "fraud", expected=None, actor="ada", now=2.0)
    assert put(rows, wish(), 0, now=3.0) == msgspec.structs.replace(gone, generation=3, updated_at=3.0, removed_at=None)


def test_what_is_seen_changes_no_generation_and_is_no_news(rows: database.Database) -> None:
    put(rows, wish())
    status = types.Status(1, "LIVE", release(), {"1": 100.0}, 0, "well", 9.0)
    with rows.write() as c:
        deployments.observe(c, "fraud", status)
    with rows.read() as c:
        kept = deployments.get(c, "fraud")
        assert kept is not None
        assert (kept.status, kept.generation) == (status, 1)
        assert len(audit.entries(c)) == len(outbox.after(c, 0)) == 1


def test_lists_are_searched_and_paged(rows: database.Database) -> None:
    for name in ("fraud-a", "fraud-b", "price_c", "pricexc"):
        put(rows, wish(name))
    with rows.read() as c:
        assert [d.name for d in deployments.every(c, search="fraud")] == ["fraud-a", "fraud-b"]
        assert [d.name for d in deployments.every(c, after="fraud-a", limit=2)] == ["fraud-b", "price_c"]
        assert [d.name for d in deployments.every(c, search="_")] == ["price_c"]
        assert "Did you mean 'fraud-a'?" in deployments.missing(c, "fraud-aa").hint


def turn(words: str = "go", **more: Any) -> rollouts.Turn:
    fields: dict[str, Any] = {"state": {"step": words}, "phase": "RUNNING", "verdict": "CONTINUE", "words": words}
    return rollouts.Turn(**{**fields, **more})


def begin(rows: database.Database, **more: Any) -> rollouts.Rollout:
    with rows.write() as c:
        if deployments.get(c, "fraud") is None:
            deployments.put(c, wish(), expected=None, actor="ada", now=1.0)
        given = {"wish": wish(version=2), "generation": 1, "old": release(1), "turn": turn("start"), "now": 10.0}
        return rollouts.start(c, actor="ada", reason="try 2", **{**given, **more})


def test_a_rollout_is_kept_step_by_step(rows: database.Database) -> None:
    begun = begin(rows)
    assert (begun.number, begun.step, begun.outcome, begun.ended_at) == (1, 0, "", None)
    wanted = types.Wanted("fraud", (types.Arm(release(1), 90.0), types.Arm(release(2), 10.0)))
    with rows.write() as c:
        assert rollouts.advance(c, begun.id, turn("10 %", wanted=wanted), expected_step=0, now=11.0)
    with rows.write() as c:
        assert rollouts.refresh(c, begun.id, turn("still", counts={"2": {"ok": 7}}), expected_step=1)
    with rows.write() as c:
        last = turn("it is harmed", phase="LIVE", verdict="ABORT", evidence={"e": 120.5})
        assert rollouts.end(c, begun.id, last, expected_step=1, outcome="old", now=12.0)
    with rows.read() as c:
        kept = rollouts.get(c, begun.id)
        steps = rollouts.steps(c, begun.id)
        assert rollouts.current(c, "fraud") is None
        assert rollouts.of(c, "fraud") == (kept,)
        said = [(e.action, e.actor, e.reason) for e in audit.entries(c, action="rollout.*")]
    assert (kept.step, kept.outcome, kept.ended_at, kept.verdict) == (2, "old", 12.0, "ABORT")
    assert kept.state == {"step": "it is harmed"}
    assert [(s.number, s.at, s.words) for s in steps] == [(0, 10.0, "start"), (1, 11.0, "still"), (2, 12.0, last.words)]
    assert steps[1].counts == {"2": {"ok": 7}}
    assert steps[2].evidence == {"e": 120.5}
    assert said == [
        ("rollout.started", "ada", "try 2"),
        ("rollout.step", "windlass", "10 %"),
        ("rollout.ended", "windlass", "it is harmed"),
    ]


def test_a_step_is_taken_once(rows: database.Database) -> None:
    begun = begin(rows)
    with rows.write() as c:
        assert rollouts.advance(c, begun.id, turn("one"), expected_step=0, now=11.0)
        assert not rollouts.advance(c, begun.id, turn("again"), expected_step=0, now=11.0)
        assert not rollouts.refresh(c, begun.id, turn("again"), expected_step=0)
        assert not rollouts.end(c, begun.id, turn("again"), expected_step=0, outcome="new", now=11.0)
        assert rollouts.end(c, begun.id, turn("two"), expected_step=1, outcome="new", now=12.0)
        assert not rollouts.advance(c, begun.id, turn("after the end"), expected_step=2, now=13.0)
        assert not rollouts.refresh(c, begun.id, turn("after the end"), expected_step=2)
        assert [s.words for s in rollouts.steps(c, begun.id)] == ["start", "one", "two"]
    with rows.read() as c:
        assert len(audit.entries(c, action="rollout.*")) == 3


def test_one_rollout_at_a_time(rows: database.Database) -> None:
    first = begin(rows)
    with pytest.raises(errors.Conflict, match="under way"):
        begin(rows)
    with rows.write() as c:
        rollouts.end(c, first.id, turn("done"), expected_step=0, outcome="new", now=20.0)
    second = begin(rows, old=None, now=30.0)
    assert (second.number, second.old) == (2, None)
    with rows.read() as c:
        assert rollouts.current(c, "fraud") == second
        assert [r.number for r in rollouts.of(c, "fraud")] == [2, 1]
        assert [r.number for r in rollouts.of(c, "fraud", before=2)] == [1]
        found = [rollouts.at(c, "fraud", moment) for moment in (9.9, 10.0, 29.9, 30.0)]
        assert [None if r is None else r.number for r in found] == [None, 1, 1, 2]
    with pytest.raises(errors.NotFound), rows.read() as c:
        rollouts.get(c, 99)


def test_who_runs_a_digest(rows: database.Database) -> None:
    put(rows, wish())
    put(rows, wish("other", version=5))
    put(rows, wish("beside", version=6, against=(release(7),)))
    with rows.write() as c:
        deployments.observe(c, "other", types.Status(1, "LIVE", release(4)))
    begin(rows)

    def holding(version: int) -> list[str]:
        with rows.read() as c:
            return [d.name for d in deployments.holding(c, release(version).digest)]

    assert holding(1) == ["fraud"], "wanted, and where a rollout comes from"
    assert holding(2) == ["fraud"], "where a rollout under way goes"
    assert holding(4) == ["other"], "live still"
    assert holding(5) == ["other"]
    assert holding(7) == ["beside"]
    assert holding(3) == []
    with rows.write() as c:
        deployments.remove(c, "other", expected=None, actor="ada", now=2.0)
    assert holding(4) == []

"""What was live when, where a rollback goes, and what changes between two wishes."""

from __future__ import annotations

import hypothesis
import msgspec
from hypothesis import strategies as st

from windlass.desired import history, previews
from windlass.records import rollouts
from windlass.types import deployment


def release(version: int, ref: str = "") -> deployment.Release:
    return deployment.Release("fraud", version, f"sha256:{version:064x}", ref)


def rollout(number: int, new: int, outcome: str = "new") -> rollouts.Rollout:
    """From second 10n to second 10n + 5; under way if it has no outcome."""
    return rollouts.Rollout(
        id=number,
        deployment="fraud",
        number=number,
        generation=number,
        old=None,
        new=release(new),
        against=(),
        strategy=deployment.Strategy(),
        state={},
        step=1,
        phase="LIVE",
        verdict="",
        words=f"words {number}",
        outcome=outcome,
        actor=f"actor {number}",
        reason=f"reason {number}",
        started_at=10.0 * number,
        ended_at=10.0 * number + 5 if outcome else None,
    )


def test_there_is_nothing_before_the_first() -> None:
    assert history.previous([]) is None
    assert history.previous([release(1), release(1, "fraud:production")]) is None


@hypothesis.given(st.lists(st.one_of(st.none(), st.integers(1, 6)), max_size=14))
def test_going_back_again_goes_further_back_and_never_forth(script: list[int | None]) -> None:
    """None in the script goes back, if there is anything to go back to; a number deploys a version that is new here."""
    live: list[deployment.Release] = []
    stack: list[int] = []
    for at, step in enumerate(script):
        back = history.previous(live)
        assert (back.version if back else None) == (stack[-2] if len(stack) > 1 else None)
        if step is not None:
            number = 10 * at + step
            live.append(release(number))
            stack.append(number)
        elif back is not None:
            live.append(back)
            stack.pop()


def test_what_was_live_who_moved_it_and_why() -> None:
    past = [rollout(1, 1), rollout(2, 2), rollout(3, 3, "old"), rollout(4, 4, "")]
    assert history.live_at("fraud", 5.0, past, ()).release is None
    found = history.live_at("fraud", 17.0, past, ())
    assert (found.release, found.since, found.until) == (release(1), 15.0, 25.0)
    assert (found.actor, found.reason, found.rollout, found.words) == ("actor 1", "reason 1", 1, "words 1")
    assert found.under_way is None
    found = history.live_at("fraud", 33.0, past, ())
    assert (found.release, found.under_way, found.until) == (release(2), release(3), 0.0)
    assert history.live_at("fraud", 38.0, past, ()).under_way is None
    arms = (deployment.Arm(release(2), 90.0), deployment.Arm(release(4), 10.0))
    steps = [
        rollouts.Step(0, 40.0, "PREPARING", "", "", None, {}, {}),
        rollouts.Step(1, 41.0, "RUNNING", "", "", deployment.Wanted("fraud", arms), {}, {}),
        rollouts.Step(2, 50.0, "RUNNING", "", "", deployment.Wanted("fraud", arms[:1]), {}, {}),
    ]
    assert history.live_at("fraud", 40.5, past, steps).shares == {}
    assert history.live_at("fraud", 45.0, past, steps).shares == {"2": 90.0, "4": 10.0}
    assert history.live_at("fraud", 45.0, past, steps).under_way == release(4)


def test_a_release_brought_again_goes_on_being_live() -> None:
    past = [rollout(1, 1), rollout(2, 1), rollout(3, 2)]
    found = history.live_at("fraud", 30.0, past, ())
    assert (found.since, found.until, found.actor) == (15.0, 35.0, "actor 1")


def test_changes_are_said_one_by_one() -> None:
    old = deployment.Desired("fraud", release(3), serving=deployment.Serving(max_batch=8))
    new = deployment.Desired(
        "fraud",
        release(4),
        deployment.Strategy("canary", {"step_s": 30}),
        serving=deployment.Serving(max_queue=5),
        against=(release(5),),
        alias="",
    )
    assert previews.changes(None, new) == ("'fraud' is new, and is to answer with fraud@4",)
    assert previews.changes(old, new) == (
        "the release goes from fraud@3 to fraud@4",
        "it is compared with fraud@5, and was with none",
        "the strategy goes from recreate to canary",
        "strategy.step_s goes from its default to 30",
        "serving.max_batch goes from 8 to its default",
        "serving.max_queue goes from its default to 5",
        "the alias that moves with it is none, and was production",
    )


def test_words_that_are_no_wish_change_nothing() -> None:
    old = deployment.Desired("fraud", release(3, "fraud@3"), salt="s")
    same = msgspec.structs.replace(old, release=release(3, "fraud:production"), paused=True, order="abort", salt="t")
    assert previews.changes(old, same) == ()
    signed = msgspec.structs.replace(old, release=msgspec.structs.replace(old.release, signature="{}"))
    assert previews.changes(old, signed) == ("the release's signature changes",)


def test_the_traffic_of_the_last_rollout_is_read_from_its_steps() -> None:
    def step(number: int, at: float, counts: dict[str, object]) -> rollouts.Step:
        return rollouts.Step(number, at, "RUNNING", "", "", None, counts, {})

    counts = {"3": {"admitted": 900, "failed": 8, "slow": 1}, "4": {"admitted": 100, "expired": 1, "ok": 99}}
    assert previews.traffic([step(0, 0.0, {}), step(1, 5.0, counts), step(2, 100.0, {})]) == (10.0, 0.01)
    assert previews.traffic([step(0, 0.0, counts)]) == (0.0, 0.0)
    assert previews.traffic([step(0, 0.0, {"3": {"admitted": "many"}}), step(1, 9.0, {})]) == (0.0, 0.0)
    assert previews.traffic([]) == (0.0, 0.0)

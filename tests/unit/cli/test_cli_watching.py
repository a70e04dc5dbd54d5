"""What a rollout looks like, when it has ended, and what `deploy` makes of its options."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors, settings
from windlass.cli import deploy, doctor, output, planes, watching
from windlass.records import deployments, rollouts
from windlass.rollout import evidence
from windlass.types import deployment

OLD = deployment.Release("fraud", 3, "sha256:" + "3" * 64)
NEW = deployment.Release("fraud", 4, "sha256:" + "4" * 64)
CANARY = deployment.Strategy("canary")
JUDGED = evidence.Judgement(
    "ABORT",
    "9 of 12 bad events fell on version 4",
    (evidence.Finding("errors", "ABORT", "worse", 9, 3, lower=2.5, upper=40.0),),
    harmed=8,
)


def stored(status: deployment.Status, generation: int = 2, release: deployment.Release = NEW) -> deployments.Deployment:
    wanted = deployment.Desired("fraud", release, CANARY)
    return deployments.Deployment(wanted, generation, status, "ann", "newer", 1.0, 2.0)


def rollout(outcome: str = "", verdict: str = "", words: str = "") -> rollouts.Rollout:
    return rollouts.Rollout(
        id=1,
        deployment="fraud",
        number=7,
        generation=2,
        old=OLD,
        new=NEW,
        against=(),
        strategy=CANARY,
        state={},
        step=3,
        phase="RUNNING",
        verdict=verdict,
        words=words,
        outcome=outcome,
        actor="ann",
        reason="",
        started_at=1.0,
        ended_at=5.0 if outcome else None,
    )


def step() -> rollouts.Step:
    wanted = deployment.Wanted("fraud", (deployment.Arm(OLD, 90.0), deployment.Arm(NEW, 10.0)))
    counts = {"3": {"admitted": 900, "failed": 3, "slow": 9}, "4": {"admitted": 100, "failed": 9}}
    return rollouts.Step(3, 4.0, "RUNNING", "CONTINUE", "", wanted, counts, msgspec.to_builtins(JUDGED))


class Found:
    """Deployments that look as the given views say, one after the other; the last one stays."""

    def __init__(self, *views: watching.View) -> None:
        self.views = list(views)
        self.looks = 0

    @property
    def now(self) -> watching.View:
        return self.views[min(self.looks, len(self.views) - 1)]

    def rollouts(self, name: str) -> tuple[rollouts.Rollout, ...]:
        return () if self.now.rollout is None else (self.now.rollout,)

    def get(self, name: str) -> deployments.Deployment:
        return self.now.deployment

    def steps(self, identity: int) -> tuple[rollouts.Step, ...]:
        self.looks += 1
        return () if self.now.step is None else (self.now.step,)


def context() -> output.Context:
    return output.Context(settings.Settings())


RUNNING = watching.View(
    stored(deployment.Status(2, "RUNNING", OLD, {"3": 90.0, "4": 10.0}, 7, "Version 4 has 10 %.")), rollout(), step()
)
PROMOTED = watching.View(stored(deployment.Status(2, "LIVE", NEW, {"4": 100.0})), rollout("new", "PROMOTE"))
ABORTED = watching.View(
    stored(deployment.Status(2, "LIVE", OLD, {"3": 100.0})), rollout("old", "ABORT", "9 of 12 bad events fell on it")
)


def test_the_picture_shows_shares_counts_intervals_and_the_words_as_they_are() -> None:
    text = "\n".join(watching.picture(RUNNING))
    for part in ("fraud", "RUNNING", "canary to fraud@4", "rollout 7, step 3", "90 %", "10 %", "900", "3 (0.33%)"):
        assert part in text
    for part in ("9 (9.00%)", "2.5 to 40", "relative risk", "9 of 12 bad events fell on version 4", "Version 4 has 10"):
        assert part in text
    assert "##################.." in text


def test_an_interval_is_shown_where_no_bad_event_has_come() -> None:
    found = evidence.Finding("errors", "CONTINUE", "", lower=1 / 64, upper=64.0, difference=0.0049)
    assert "up to +0.49 points" in watching._finding(found)
    assert "not known yet" in watching._finding(msgspec.structs.replace(found, difference=1.0))


@given(st.text(st.characters(categories=["L", "P", "Zs"]), max_size=400), st.integers(20, 120))
def test_long_words_are_wrapped_and_none_is_lost(words: str, width: int) -> None:
    status = deployment.Status(2, "LIVE", NEW, {"4": 100.0}, words=words)
    lines = watching.picture(watching.View(stored(status)), width=width)
    assert words.split() == " ".join(lines).split()[-len(words.split()) :] if words.split() else True


def test_an_end_is_one_only_when_the_rollout_has_ended() -> None:
    early = watching.View(PROMOTED.deployment, rollout())
    assert not early.ended
    assert PROMOTED.ended
    assert PROMOTED.reached
    assert ABORTED.ended
    assert not ABORTED.reached
    assert not watching.View(stored(deployment.Status(1, "LIVE", NEW))).ended


def test_following_ends_where_the_rollout_does() -> None:
    found = Found(RUNNING, RUNNING, PROMOTED)
    slept: list[float] = []
    seen = watching.settle(context(), found, "fraud", until_s=60, clock=lambda: 0.0, sleep=slept.append)
    assert seen == PROMOTED
    assert slept


def test_what_went_back_is_refused_in_the_evidences_words() -> None:
    with pytest.raises(errors.GateRefused) as caught:
        watching.follow(context(), Found(ABORTED), "fraud", until_s=60)
    assert caught.value.exit_code == 4
    for part in ("fraud@4", "ABORT", "9 of 12 bad events fell on it", "fraud@3 answers"):
        assert part in caught.value.message
    assert "rollout history fraud" in caught.value.hint


def test_another_wish_meanwhile_is_a_conflict_that_names_its_author() -> None:
    other = watching.View(stored(RUNNING.deployment.status, 3, OLD), rollout(), step())
    with pytest.raises(errors.Conflict, match="ann wants fraud@3"):
        watching.settle(context(), Found(RUNNING, other), "fraud", until_s=60, sleep=lambda _: None)


def test_nobody_waits_for_what_nobody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "controlled", lambda _: False)
    waiting = watching.View(stored(deployment.Status(1, "LIVE", OLD)), rollout("new"))
    times = iter(range(0, 1_000, 10))
    with pytest.raises(errors.Unavailable, match="no controller") as caught:
        watching.settle(
            context(), Found(waiting), "fraud", until_s=1e9, clock=lambda: next(times), sleep=lambda _: None
        )
    assert "windlass up" in caught.value.hint


def test_waiting_has_an_end() -> None:
    times = iter(range(0, 1_000, 10))
    with pytest.raises(errors.DeadlineExceeded):
        watching.settle(context(), Found(RUNNING), "fraud", until_s=30, clock=lambda: next(times), sleep=lambda _: None)


@pytest.mark.parametrize(
    ("kind", "share", "given_", "expected"),
    [
        ("", "", (), deployment.Strategy("recreate")),
        ("", "10%", (), deployment.Strategy("canary", {"steps": [10.0]})),
        ("canary", "2.5", ("step_s=60",), deployment.Strategy("canary", {"step_s": 60, "steps": [2.5]})),
        (
            "canary",
            "",
            ("steps=[1, 5]", "sticky=caller"),
            deployment.Strategy("canary", {"steps": [1, 5], "sticky": "caller"}),
        ),
        ("shadow", "", ("atol = 0.1",), deployment.Strategy("shadow", {"atol": 0.1})),
    ],
)
def test_options_are_a_strategy(kind: str, share: str, given_: tuple[str, ...], expected: deployment.Strategy) -> None:
    assert deploy._strategy(kind, share, given_) == expected


@pytest.mark.parametrize(
    ("kind", "share", "given_"),
    [
        ("rolling", "10%", ()),
        ("", "0%", ()),
        ("", "101", ()),
        ("", "ten", ()),
        ("", "nan", ()),
        ("canary", "10%", ("steps=[1]",)),
        ("canary", "", ("steps",)),
        ("", "", ("step_s=1",)),
    ],
)
def test_options_that_contradict_are_refused_with_a_way_out(kind: str, share: str, given_: tuple[str, ...]) -> None:
    with pytest.raises(errors.UsageError) as caught:
        deploy._strategy(kind, share, given_)
    assert caught.value.hint


def test_the_doctor_shows_every_setting_and_no_secret() -> None:
    found = settings.load(
        {"registry.db": "postgresql://me:secret@db/x", "client.key": "wl_secret", "up.port": 1}, environ={}
    )
    shown: dict[str, Any] = {s.name: (s.value, s.default) for s in doctor.values(found)}
    assert shown["up.port"] == ("1", "8080")
    assert shown["registry.db"] == ("postgresql://...@db/x", "")
    assert "secret" not in str(shown)
    assert set(settings.keys()) <= set(shown)


@pytest.mark.parametrize("width", [56, 80, 120])
def test_a_narrow_terminal_keeps_shares_counts_and_verdicts(width: int) -> None:
    text = "\n".join(watching.picture(RUNNING, width=width))
    assert max(map(len, text.splitlines())) <= width
    for part in ("90 %", "900", "9 (9.00%)", "2.5 to 40", "ABORT"):
        assert part in text
    assert ("###" in text) == (width >= 80)

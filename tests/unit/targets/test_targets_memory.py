"""The faults that the target in memory can be told to have: rollouts are tested against them."""

from __future__ import annotations

import pytest

from windlass import errors
from windlass.targets import memory
from windlass.types import deployment


def release(version: int) -> deployment.Release:
    return deployment.Release("m", version, f"sha256:{version:064x}")


def wanted(*shares: float) -> deployment.Wanted:
    return deployment.Wanted("m", tuple(deployment.Arm(release(i), share) for i, share in enumerate(shares, 1)))


@pytest.fixture
def target() -> memory.Memory:
    made = memory.Memory(lambda: 5.0)
    made.apply(wanted(100))
    return made


def test_while_an_arm_is_loaded_the_others_serve_on(target: memory.Memory) -> None:
    target.loading.add("2")
    with pytest.raises(errors.Unavailable):
        target.apply(wanted(50, 50))
    seen = target.observe("m")
    assert (seen.at, seen.shares) == (5.0, {"1": 100})
    assert {arm: one.state for arm, one in seen.arms.items()} == {"1": "READY", "2": "LOADING"}
    target.loading.clear()
    assert target.observe("m").shares == {"1": 100}, "it was not asked again"
    target.apply(wanted(50, 50))
    assert target.observe("m").shares == {"1": 50, "2": 50}


def test_away_it_says_nothing_and_deaf_it_does_it_all_the_same(target: memory.Memory) -> None:
    target.away = True
    for ask in (lambda: target.observe("m"), lambda: target.apply(wanted(0, 100)), lambda: target.remove("m")):
        with pytest.raises(errors.Unavailable):
            ask()
    target.away = False
    assert target.observe("m").shares == {"1": 100}
    target.deaf = True
    with pytest.raises(errors.Unavailable):
        target.apply(wanted(0, 100))
    assert target.observe("m").shares == {"1": 0, "2": 100}


def test_blind_it_knows_its_arms_and_no_counts(target: memory.Memory) -> None:
    target.count("m", {"1": deployment.Counts(admitted=3, ok=3)})
    target.blind = True
    seen = target.observe("m")
    assert (seen.measured, seen.segments, seen.shares) == (False, (), {"1": 100})


def test_counts_add_up_and_outlive_its_restart_unless_it_forgets(target: memory.Memory) -> None:
    for _ in range(2):
        target.count("m", {"1": deployment.Counts(admitted=3, ok=2, failed=1, latency=(1, 1), slow=1, first_bad=1)})
        target.mirror("m", deployment.Mirrored(compared=4, rows=2, same=1))
        target.score("m", {"1": (0.5,)})
    target.lose("m")
    seen = target.observe("m")
    assert (seen.arms, seen.shares) == ({}, {})
    total = deployment.Counts(admitted=6, ok=4, failed=2, latency=(2, 2), slow=2, first_bad=2)
    assert seen.segments[-1].counts == {"1": total}
    assert seen.mirrored == deployment.Mirrored(compared=8, rows=4, same=2)
    assert seen.scores == {"1": (0.5, 0.5)}
    target.forget("m")
    seen = target.observe("m")
    assert [one.counts for one in seen.segments] == [{}]
    assert seen.mirrored == deployment.Mirrored()


def test_exposures_are_told_from_a_time_on(target: memory.Memory) -> None:
    for at in (1.0, 2.0, 3.0):
        target.expose("m", memory.Exposure(at, f"r{at:g}", "1"))
    assert [line.request for line in target.exposures("m", 2.0)] == ["r2", "r3"]


@pytest.mark.parametrize(
    "wrong",
    [
        deployment.Wanted("m", ()),
        deployment.Wanted("m", (deployment.Arm(release(1), 50), deployment.Arm(release(1), 50))),
        deployment.Wanted("m", (deployment.Arm(release(1)),), mirror=deployment.Mirror(release(1))),
    ],
)
def test_what_no_target_could_run_is_refused(target: memory.Memory, wrong: deployment.Wanted) -> None:
    with pytest.raises(errors.UsageError):
        target.apply(wrong)

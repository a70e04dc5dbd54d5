"""Error rates of whole judgements under traffic that changes: false aborts, false promotes, and what is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from windlass.rollout import evidence
from windlass.types import deployment

RUNS = 30
LOOKS = 8
# Of 30 at 1 %, more than 4 happen less than once in 10,000 times.
FALSE = 4
SHARES = (1.0, 5.0, 10.0, 25.0, 50.0, 50.0, 50.0, 50.0)
Rates = Callable[[int, np.random.Generator], float]
SHAPES: dict[str, Rates] = {
    "constant": lambda look, rng: 0.005,
    "bursty": lambda look, rng: 0.08 if rng.random() < 0.1 else 0.001,
    "trending": lambda look, rng: 0.002 * (1 + look),
}


def rollout(shape: str, worse: float, slower: float, rng: np.random.Generator) -> str:
    """The first verdict, or CONTINUE, of a ramp with 6,000 requests at each look."""
    guard, segments = evidence.Guard(slow_ms=50.0), []
    for look, share in enumerate(SHARES):
        base, mine = SHAPES[shape](look, rng), int(rng.binomial(6_000, share / 100))
        counts = {}
        for arm, requests, rate, slow in (("1", 6_000 - mine, base, 0.05), ("2", mine, base * worse, 0.05 * slower)):
            failed = int(rng.binomial(requests, rate))
            slowly = int(rng.binomial(requests - failed, slow))
            counts[arm] = deployment.Counts(admitted=requests, ok=requests - failed, failed=failed, slow=slowly)
        segments.append(deployment.Segment(look + 2, {"1": 100 - share, "2": share}, counts))
        verdict = evidence.judge(guard, "1", "2", deployment.Observed(0.0, segments=tuple(segments)), 1).verdict
        if verdict != "CONTINUE":
            return verdict
    return "CONTINUE"


def rollouts(shape: str, worse: float = 1.0, slower: float = 1.0) -> list[str]:
    rng = np.random.default_rng(11)
    return [rollout(shape, worse, slower, rng) for _ in range(RUNS)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_healthy_release_is_rarely_aborted_and_mostly_promoted(shape: str) -> None:
    found = rollouts(shape)
    assert found.count("ABORT") <= FALSE
    assert found.count("PROMOTE") >= 0.4 * RUNS


@pytest.mark.parametrize("shape", SHAPES)
def test_a_broken_release_is_aborted_and_hardly_ever_promoted(shape: str) -> None:
    found = rollouts(shape, worse=4.0)
    assert found.count("PROMOTE") <= FALSE
    assert found.count("ABORT") >= 0.8 * RUNS


def test_a_slow_release_is_aborted() -> None:
    found = rollouts("constant", slower=2.5)
    assert found.count("ABORT") >= 0.9 * RUNS
    assert "PROMOTE" not in found


def sticky(worse: float, rng: np.random.Generator) -> list[str]:
    """Verdicts at every look where 400 keys stick to a half each, and fail in runs: some keys always, most never."""
    mine = rng.random(400) < 0.5
    often = rng.beta(0.05, 2.0, 400) * np.where(mine, worse, 1.0)
    bad, requests, verdicts = np.zeros(400, dtype=int), np.zeros(400, dtype=int), list[str]()
    for _ in range(LOOKS):
        came = rng.poisson(20, 400)
        requests, bad = requests + came, bad + rng.binomial(came, np.minimum(often, 1.0))
        counts = {
            arm: deployment.Counts(
                admitted=int(requests[of].sum()),
                ok=int((requests - bad)[of].sum()),
                failed=int(bad[of].sum()),
                first_bad=int((bad[of] > 0).sum()),
            )
            for arm, of in (("1", ~mine), ("2", mine))
        }
        observed = deployment.Observed(0.0, segments=(deployment.Segment(2, {"1": 50.0, "2": 50.0}, counts),))
        verdicts.append(evidence.judge(evidence.Guard(sticky=True), "1", "2", observed, 1).verdict)
        verdicts.append(evidence.judge(evidence.Guard(), "1", "2", observed, 1).verdict)
    return verdicts


def test_callers_who_always_fail_are_no_harm_where_callers_are_counted_once() -> None:
    rng = np.random.default_rng(12)
    found = [sticky(1.0, rng) for _ in range(RUNS)]
    assert sum("ABORT" in one[::2] for one in found) <= FALSE
    # Counted request by request, as if each had been drawn alone, the same callers look like harm.
    assert sum("ABORT" in one[1::2] for one in found) > FALSE

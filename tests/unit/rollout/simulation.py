"""Whole rollouts without a server: drawn traffic, the target in memory, the real judge and the real state machine.

Used by the tests beside it and by `benchmarks/rollouts.py`. Counts are drawn once a tick, not once a request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from windlass.rollout import decide, evidence, plan
from windlass.targets import memory
from windlass.types import deployment

# How narrow latencies lie around their median, in the logarithm: 5 % take more than twice as long.
_NARROW = 4.25


Judging = Callable[[plan.Plan, decide.State, deployment.Observed], evidence.Judgement]


class Behaviour(msgspec.Struct, frozen=True):
    """How a release answers: `bad` (of 1) at a time in seconds since the start, and the median latency."""

    bad: Callable[[float], float] = lambda _: 0.005
    latency_s: float = 0.02


class Traffic(msgspec.Struct, frozen=True):
    """`rate` requests a second in all, of which each release answers as it does; counted once in `tick_s`."""

    old: Behaviour = Behaviour()
    new: Behaviour = Behaviour()
    rate: float = 50.0
    tick_s: float = 5.0
    warm_s: float = 300.0


class Outcome(msgspec.Struct, frozen=True):
    """How one rollout ended: `seconds` after its start, with so many bad answers of the new release (`harmed`)."""

    outcome: str
    verdict: str
    words: str
    seconds: float
    asked: int
    harmed: int
    steps: tuple[str, ...]


def run(wished: deployment.Strategy, traffic: Traffic, seed: int, *, judging: Judging = decide.judge) -> Outcome:
    """One rollout from version 1 to version 2. `judging` is what gives the verdict at each tick."""
    rng = np.random.default_rng(seed)
    now = 0.0
    target = memory.Memory(lambda: now)
    old, new = (deployment.Release("m", version, f"sha256:{version:064x}") for version in (1, 2))
    target.apply(deployment.Wanted("m", (deployment.Arm(old),)))
    for _ in range(int(traffic.warm_s / traffic.tick_s)):
        _ask(target, traffic, now, 0.0, rng)
        now += traffic.tick_s
    made = plan.make(deployment.Desired("m", new, wished, salt="s"), old)
    began = now
    state = decide.start(made, target.observe("m"), now)
    said: list[str] = []
    while True:
        observed = target.observe("m")
        judgement = judging(made, state, observed)
        step = decide.decide(made, state, observed, judgement, now)
        if step.state != state:
            said.append(step.words)
        moved = step.state != state
        state = step.state
        if step.wanted is not None:
            target.apply(step.wanted)
        if step.done:
            break
        if not moved:
            _ask(target, traffic, now - began, state.slow_ms, rng)
            now += traffic.tick_s
    counts = [one.counts["2"] for one in target.observe("m").segments if "2" in one.counts]
    return Outcome(
        outcome=step.outcome,
        verdict=step.verdict,
        words=step.words,
        seconds=now - began,
        asked=sum(one.admitted for one in counts),
        harmed=sum(one.failed for one in counts),
        steps=tuple(said),
    )


def bursts(base: float, worse: float, every_s: float, for_s: float) -> Callable[[float], float]:
    """Bad answers at the rate `base`, but `worse` for `for_s` of each `every_s` seconds."""
    return lambda at: worse if at % every_s < for_s else base


def trend(first: float, last: float, over_s: float) -> Callable[[float], float]:
    """Bad answers at a rate that goes from `first` to `last` within `over_s` seconds, and stays there."""
    return lambda at: first + (last - first) * min(max(at, 0.0) / over_s, 1.0)


def _ask(target: memory.Memory, traffic: Traffic, at: float, slow_ms: float, rng: np.random.Generator) -> None:
    observed = target.observe("m")
    total = rng.poisson(traffic.rate * traffic.tick_s)
    arms = [arm for arm, share in observed.shares.items() if share > 0]
    drawn = rng.multinomial(total, [observed.shares[arm] / 100 for arm in arms])
    counts = {}
    for arm, asked in zip(arms, drawn, strict=True):
        behaviour = traffic.old if arm == "1" else traffic.new
        failed = int(rng.binomial(asked, behaviour.bad(at)))
        latency = tuple(map(int, rng.multinomial(asked - failed, _buckets(behaviour.latency_s))))
        ok = int(asked) - failed
        # Thresholds are bounds of buckets here: those above it are slow.
        slow = sum(latency[sum(bound <= slow_ms / 1000 for bound in memory.BOUNDS) :]) if slow_ms else 0
        counts[arm] = deployment.Counts(admitted=int(asked), ok=ok, failed=failed, latency=latency, slow=slow)
    target.count("m", counts)


def _buckets(median_s: float) -> Sequence[float]:
    """How likely an answer falls into each bucket, where latencies have a logistic distribution in the logarithm."""
    place = _NARROW * (np.log(memory.BOUNDS) - np.log(median_s))
    below = np.concatenate([[0.0], 1 / (1 + np.exp(-place)), [1.0]])
    found: Sequence[float] = np.diff(below).tolist()
    return found

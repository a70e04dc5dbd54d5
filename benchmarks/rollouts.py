"""How often rollouts are right: healthy and broken canaries under simulated traffic, judged by the real `decide`.

Run by hand: `python benchmarks/rollouts.py [--rollouts 1000] [--jobs 2]`; prints Markdown. Requests are drawn for the
arms at the shares in force, tick by tick; the same traffic is judged by the rules that Flagger and Argo Rollouts
apply. Must never tell a judge what is true.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from windlass.rollout import decide, plan
from windlass.statistics import eprocess
from windlass.targets import memory
from windlass.types import deployment

TICK_S = 20.0
STEPS = (1.0, 5.0, 10.0, 25.0, 50.0)
STEP_S = 60.0
LIMIT = 0.99
BASES = (0.001, 0.005, 0.02)
WORSE = (2.0, 3.0, 5.0, 10.0)
SLOW = 0.05
HEAD = (
    "traffic",
    "judge",
    "aborted",
    "promoted",
    "inconclusive",
    "median s to promotion",
    "median s to abort",
    "median bad at abort",
    "median harmed",
)
HEALTHY = 5
JUDGES = ("windlass", "flagger 1", "flagger 5", "argo")


class Traffic(NamedTuple):
    """What comes: `rate` requests a second, failing at `errors` (of 1), `worse` times that on the new version."""

    errors: float
    worse: float = 1.0
    shape: str = "constant"
    rate: float = 100.0
    slower: float = 1.0

    def failing(self, tick: int, rng: Generator) -> float:
        """The baseline's rate in a tick. The shapes have about the same mean."""
        if self.shape == "bursty":
            return self.errors * (10.0 if rng.random() < 0.05 else 0.53)
        if self.shape == "trending":
            return self.errors * min(4.0, 0.25 + 0.05 * tick)
        return self.errors


class Outcome(NamedTuple):
    """How a rollout ended, after how long, and how many requests failed that would not have on the old version."""

    end: str
    seconds: float
    harmed: float
    bad: int


def release(version: int) -> deployment.Release:
    """A made-up one."""
    return deployment.Release("m", version, f"sha256:{version:064d}")


def counts(requests: int, failing: float, slow: float, rng: Generator) -> deployment.Counts:
    """What came of requests of one arm."""
    failed = int(rng.binomial(requests, min(failing, 1.0)))
    ok = requests - failed
    return deployment.Counts(admitted=requests, ok=ok, failed=failed, slow=int(rng.binomial(ok, min(slow, 1.0))))


def windlass(traffic: Traffic, seed: int, max_s: float = 7_200.0) -> Outcome:
    """Through the real `decide`, with a target in memory."""
    rng, now = np.random.default_rng(seed), 0.0
    parameters: dict[str, Any] = {"steps": list(STEPS), "step_s": STEP_S, "max_s": max_s}
    wish = deployment.Desired("m", release(2), deployment.Strategy("canary", parameters))
    target = memory.Memory(clock=lambda: now)
    target.apply(deployment.Wanted("m", (deployment.Arm(release(1)),)))
    before = [0] * len(memory.BOUNDS)
    before[memory.BOUNDS.index(0.05)] = 950
    target.count("m", {"1": deployment.Counts(admitted=1000, ok=1000, latency=(*before, 50))})
    course = plan.make(wish, release(1))
    state = decide.start(course, target.observe("m"), now)
    harmed, bad, tick = 0.0, 0, 0
    while True:
        while True:
            observed = target.observe("m")
            step = decide.decide(course, state, observed, decide.judge(course, state, observed), now)
            if step.wanted is not None:
                target.apply(step.wanted)
            if step.state == state or step.done:
                break
            state = step.state
        # All requests go back, or on, as soon as that is decided.
        if step.done or state.phase in ("PROMOTING", "RETURNING"):
            end = {"PROMOTE": "promoted", "ABORT": "aborted"}.get(state.verdict or step.verdict, "inconclusive")
            return Outcome(end, now, harmed, bad)
        failing = traffic.failing(tick, rng)
        part = target.observe("m").shares.get("2", 0.0) / 100.0
        requests = int(rng.poisson(traffic.rate * TICK_S))
        mine = int(rng.binomial(requests, part))
        told = {
            "1": counts(requests - mine, failing, SLOW, rng),
            "2": counts(mine, failing * traffic.worse, SLOW * traffic.slower, rng),
        }
        target.count("m", told)
        bad += told["2"].failed + (told["2"].slow if traffic.slower > 1.0 else 0)
        harmed += told["2"].failed * (1.0 - 1.0 / traffic.worse) + told["2"].slow * (1.0 - 1.0 / traffic.slower)
        now, tick = now + TICK_S, tick + 1


def flagger(traffic: Traffic, seed: int, threshold: int) -> Outcome:
    """Flagger: each interval (1m) the canary's request-success-rate must be at least 99 %, else the check has failed
    and the weight stays; `threshold` failed checks in all roll back; the last weight's good check promotes."""
    rng, at, failed_checks, harmed, bad, minute = np.random.default_rng(seed), 0, 0, 0.0, 0, 0
    while True:
        good, failures = _minute(traffic, STEPS[at], minute, rng)
        minute, bad, harmed = minute + 1, bad + failures, harmed + failures * (1.0 - 1.0 / traffic.worse)
        if good >= LIMIT:
            at += 1
            if at == len(STEPS):
                return Outcome("promoted", 60.0 * minute, harmed, bad)
        else:
            failed_checks += 1
            if failed_checks >= threshold:
                return Outcome("aborted", 60.0 * minute, harmed, bad)


def argo(traffic: Traffic, seed: int) -> Outcome:
    """Argo Rollouts: a background analysis each minute with successCondition success-rate >= 0.99 and failureLimit 0
    (its default): the first failed measurement aborts; steps are paused 60 s each, then it is promoted."""
    rng, harmed, bad = np.random.default_rng(seed), 0.0, 0
    for minute, share in enumerate(STEPS):
        good, failures = _minute(traffic, share, minute, rng)
        bad, harmed = bad + failures, harmed + failures * (1.0 - 1.0 / traffic.worse)
        if good < LIMIT:
            return Outcome("aborted", 60.0 * (minute + 1), harmed, bad)
    return Outcome("promoted", 60.0 * len(STEPS), harmed, bad)


def _minute(traffic: Traffic, share: float, minute: int, rng: Generator) -> tuple[float, int]:
    """The canary's success rate in one minute, and its failures."""
    requests = failures = 0
    for tick in range(round(60.0 / TICK_S)):
        failing = traffic.failing(minute * round(60.0 / TICK_S) + tick, rng) * traffic.worse
        came = int(rng.binomial(rng.poisson(traffic.rate * TICK_S), share / 100.0))
        requests, failures = requests + came, failures + int(rng.binomial(came, min(failing, 1.0)))
    return (1.0 - failures / requests if requests else 1.0), failures


def outcome(judge: str, traffic: Traffic, seed: int) -> Outcome:
    """One rollout."""
    if judge == "windlass":
        return windlass(traffic, seed)
    return argo(traffic, seed) if judge == "argo" else flagger(traffic, seed, int(judge.split()[1]))


def several(judge: str, traffic: Traffic, seeds: Sequence[int]) -> list[Outcome]:
    """One after the other."""
    return [outcome(judge, traffic, seed) for seed in seeds]


def after_every_event(worse: float, rollouts: int, alpha: float, seed: int) -> tuple[float, float]:
    """The e-process alone, on 100 bad events at each share, 200 at the last, looked at after each.

    How many aborted (of 1), and the median of the candidate's bad events at abort.
    """
    rng = np.random.default_rng(seed)
    shares = np.repeat(np.array(STEPS) / 100.0, [100, 100, 100, 100, 200])
    own = shares * worse / (shares * worse + 1.0 - shares)
    grid = np.exp(np.log(eprocess.WIDEST) * (np.arange(eprocess.GRID) + 0.5) / eprocess.GRID)
    paid = np.cumsum(np.log1p(shares[:, None] * (grid - 1.0)), axis=0)
    stops = []
    for _ in range(rollouts):
        mine = np.cumsum(rng.random(shares.size) < own)
        logs = mine[:, None] * np.log(grid) - paid
        found = np.flatnonzero(eprocess.log_mean(logs) >= -math.log(alpha))
        if found.size:
            stops.append(int(mine[found[0]]))
    return len(stops) / rollouts, statistics.median(stops) if stops else math.nan


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "".join(f"{line(cells)}\n" for cells in (head, ["---"] * len(head), *rows))


def line(cells: Sequence[str]) -> str:
    """One row of a table."""
    return "| " + " | ".join(cells) + " |"


def row(name: str, found: Sequence[Outcome]) -> tuple[str, ...]:
    """How they ended, in percent, and the medians of those that ended so."""

    def part(end: str) -> str:
        return f"{100.0 * sum(one.end == end for one in found) / len(found):.1f} %"

    def middle(end: str, field: str) -> str:
        values = [getattr(one, field) for one in found if one.end == end]
        return f"{statistics.median(values):,.0f}" if values else "-"

    return (
        name,
        part("aborted"),
        part("promoted"),
        part("inconclusive"),
        middle("promoted", "seconds"),
        middle("aborted", "seconds"),
        middle("aborted", "bad"),
        f"{statistics.median(one.harmed for one in found):,.0f}",
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollouts", type=int, default=1000, help="of each kind of healthy release")
    parser.add_argument("--worse", type=int, default=300, help="of each kind of broken one")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    began = time.monotonic()
    kinds = [(Traffic(base), asked.rollouts) for base in BASES]
    kinds += [(Traffic(0.005, shape=shape), asked.rollouts) for shape in ("bursty", "trending")]
    kinds += [(Traffic(base, worse), asked.worse) for base in BASES for worse in WORSE]
    kinds += [(Traffic(0.001, slower=slower), asked.worse) for slower in (2.0, 4.0)]
    with concurrent.futures.ProcessPoolExecutor(asked.jobs) as pool:
        for name, some in (("Healthy", kinds[:HEALTHY]), ("Broken", kinds[HEALTHY:])):
            print(f"## {name} releases, {Traffic(0.0).rate:g} requests a second, {some[0][1]} rollouts each\n")
            print(table(HEAD, ()), end="", flush=True)
            for traffic, number in some:
                parts = [range(start, number, 4 * asked.jobs) for start in range(4 * asked.jobs)]
                for judge in JUDGES:
                    found = pool.map(several, [judge] * len(parts), [traffic] * len(parts), parts)
                    print(line((title(traffic), *row(judge, [one for part in found for one in part]))), flush=True)
            print()
    print("## The e-process alone, looked at after every bad event, alpha 0.01\n")
    alone = [(worse, *after_every_event(worse, asked.rollouts, 0.01, 7)) for worse in (1.0, *WORSE)]
    print(
        table(
            ("relative risk", "aborted", "median bad events on the canary at abort"),
            [(f"{worse:g}", f"{100 * part:.2f} %", f"{middle:g}") for worse, part, middle in alone],
        )
    )
    print(f"Took {time.monotonic() - began:,.0f} s.")


def title(traffic: Traffic) -> str:
    """What comes, in words."""
    kind = "" if traffic.worse == 1.0 else f", new: {traffic.worse:g}x"
    kind += f", new: {traffic.slower:g}x the slow answers" if traffic.slower > 1.0 else ""
    return f"{100 * traffic.errors:g} % errors, {traffic.shape}{kind}"


if __name__ == "__main__":
    main()

"""How often rollouts are right: healthy and broken canaries under simulated traffic, judged by the real `decide`.

Run by hand: `python benchmarks/rollouts.py [--rollouts 1000] [--jobs 2]`; writes results/rollouts.md, the last part of
RESULTS.md. Requests are drawn for the arms at the shares in force, tick by tick; the same traffic is judged by the
rules that Flagger and Argo Rollouts apply. Must never tell a judge what is true.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
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
CALLERS = 3_000
HEAD = (
    "traffic",
    "judge",
    "aborted",
    "mistakes at most",
    "promoted",
    "inconclusive",
    "median s to promotion",
    "median s to abort",
    "median bad at abort",
    "median harmed",
)
JUDGES = ("windlass", "flagger 1", "flagger 5", "argo")
SECTION = Path(__file__).parent / "results" / "rollouts.md"


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


class Drawing:
    """What came of each tick's requests, drawn one by one, or (`sticky`) by callers who differ and stay where they are.

    A caller is on the new version while its place, drawn once, is below the share. Few callers make most errors.
    """

    def __init__(self, traffic: Traffic, rng: Generator) -> None:
        self.traffic, self.rng, self.tick = traffic, rng, -1
        if traffic.shape == "sticky":
            self.place = rng.random(CALLERS)
            self.often = rng.beta(0.05, 0.05 / traffic.errors - 0.05, CALLERS)
            self.bad_before = np.zeros(CALLERS, dtype=bool)

    def counts(self, part: float) -> dict[str, deployment.Counts]:
        """By arm, where the new one has `part` (of 1) of the requests in the next tick."""
        self.tick += 1
        if self.traffic.shape == "sticky":
            return dict(self._callers(part))
        failing = self.traffic.failing(self.tick, self.rng)
        requests = int(self.rng.poisson(self.traffic.rate * TICK_S))
        mine = int(self.rng.binomial(requests, part))
        return {
            "1": counts(requests - mine, failing, SLOW, self.rng),
            "2": counts(mine, failing * self.traffic.worse, SLOW * self.traffic.slower, self.rng),
        }

    def _callers(self, part: float) -> Iterator[tuple[str, deployment.Counts]]:
        mine = self.place < part
        came = self.rng.poisson(self.traffic.rate * TICK_S / CALLERS, CALLERS)
        failing = np.minimum(np.where(mine, self.traffic.worse, 1.0) * self.often, 1.0)
        failed = self.rng.binomial(came, failing)
        slow = self.rng.binomial(came - failed, SLOW / 100.0)
        first = ((failed + slow) > 0) & ~self.bad_before
        self.bad_before |= first
        for arm, of in (("1", ~mine), ("2", mine)):
            asked, bad, slowly = int(came[of].sum()), int(failed[of].sum()), int(slow[of].sum())
            told = deployment.Counts(admitted=asked, ok=asked - bad, failed=bad, slow=slowly)
            yield arm, msgspec.structs.replace(told, first_bad=int(first[of].sum()))


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


def windlass(traffic: Traffic, seed: int) -> Outcome:
    """Through the real `decide`, with a target in memory."""
    drawing, now = Drawing(traffic, np.random.default_rng(seed)), 0.0
    sticky, max_s = ("caller", 1_800.0) if traffic.shape == "sticky" else ("", 7_200.0)
    parameters: dict[str, Any] = {"steps": list(STEPS), "step_s": STEP_S, "max_s": max_s, "sticky": sticky}
    wish = deployment.Desired("m", release(2), deployment.Strategy("canary", parameters))
    target = memory.Memory(clock=lambda: now)
    target.apply(deployment.Wanted("m", (deployment.Arm(release(1)),)))
    before = [0] * len(memory.BOUNDS)
    before[memory.BOUNDS.index(0.05)] = 950
    target.count("m", {"1": deployment.Counts(admitted=1000, ok=1000, latency=(*before, 50))})
    course = plan.make(wish, release(1))
    state = decide.start(course, target.observe("m"), now)
    harmed, bad = 0.0, 0
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
        told = drawing.counts(target.observe("m").shares.get("2", 0.0) / 100.0)
        target.count("m", told)
        bad += told["2"].failed + (told["2"].slow if traffic.slower > 1.0 else 0)
        harmed += told["2"].failed * (1.0 - 1.0 / traffic.worse) + told["2"].slow * (1.0 - 1.0 / traffic.slower)
        now += TICK_S


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


def one_limit(checks: int, rollouts: int) -> float:
    """Of healthy rollouts with so many checks of 60 requests, those in which one fails: 0.5 % errors, 1 % allowed."""
    failed = np.random.default_rng(8).binomial(60, 0.005, (rollouts, checks))
    return float((failed > 0.01 * 60).any(axis=1).mean())


def at_most(found: int, of: int) -> float:
    """The upper end of a one-sided 95 % interval for a rate (Clopper & Pearson)."""

    def seen(rate: float) -> float:
        return sum(math.comb(of, k) * rate**k * (1.0 - rate) ** (of - k) for k in range(found + 1))

    low, high = found / of, 1.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if seen(middle) > 0.05 else (low, middle)
    return high


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
    return "\n".join(lines) + "\n"


def row(found: Sequence[Outcome], mistake: str) -> tuple[str, ...]:
    """How they ended, in percent, and the medians of those that ended so. `mistake`: the end that none should have."""

    def part(end: str) -> str:
        return f"{100.0 * sum(one.end == end for one in found) / len(found):.3g} %"

    def middle(end: str, field: str) -> str:
        values = [getattr(one, field) for one in found if one.end == end]
        return f"{statistics.median(values):,.0f}" if values else "-"

    wrong = sum(one.end == mistake for one in found)
    few = f"{100.0 * at_most(wrong, len(found)):.2g} %" if mistake and wrong <= 0.1 * len(found) else "-"
    return (
        part("aborted"),
        few,
        part("promoted"),
        part("inconclusive"),
        middle("promoted", "seconds"),
        middle("aborted", "seconds"),
        middle("aborted", "bad"),
        f"{statistics.median(one.harmed for one in found):,.0f}",
    )


def measured(
    pool: concurrent.futures.Executor, kinds: Iterable[Traffic], judges: Sequence[str], number: int, mistake: str = ""
) -> str:
    """One table."""
    rows, ours = [], list[Outcome]()
    for traffic, judge in itertools.product(kinds, judges):
        if traffic.shape == "sticky" and judge != "windlass":
            continue
        parts = [range(start, number, 16) for start in range(min(16, number))]
        told = pool.map(several, [judge] * len(parts), [traffic] * len(parts), parts)
        found = [one for part in told for one in part]
        ours += found if judge == "windlass" else []
        rows.append((title(traffic), judge, *row(found, mistake)))
        print(" | ".join(rows[-1]), flush=True)
    if mistake:
        rows.append((f"all {len(ours):,}", "windlass", *row(ours, mistake)))
    return table(HEAD, rows)


def section(healthy: int, worse: int, jobs: int) -> str:
    """All that is published, as Markdown."""
    began = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        shapes = [Traffic(0.005, shape=one) for one in ("bursty", "trending", "sticky")]
        good = measured(pool, [*(Traffic(base) for base in BASES), *shapes], JUDGES, healthy, "aborted")
        edge = [Traffic(0.02, 2.0, shape) for shape in ("constant", "bursty", "trending")]
        false = measured(pool, edge, JUDGES[:1], healthy, "promoted")
        kinds = [Traffic(base, times) for base in BASES for times in WORSE]
        bad = measured(pool, [*kinds, *(Traffic(0.001, slower=slower) for slower in (2.0, 4.0))], JUDGES, worse)
    alone = [(times, *after_every_event(times, healthy, 0.01, 7)) for times in (1.0, *WORSE)]
    events = table(
        ("relative risk", "aborted", "median bad events on the new version at abort"),
        [(f"{times:g}", f"{100 * part:.2f} %", f"{middle:g}") for times, part, middle in alone],
    )
    limits = table(
        ("checks", "aborted", "by calculation"),
        [(f"{n}", f"{100 * one_limit(n, 20_000):.1f} %", f"{100 * (1 - 0.995 ** (60 * n)):.1f} %") for n in (10, 25)],
    )
    command = f"python benchmarks/rollouts.py --rollouts {healthy} --worse {worse}"
    tables = {"good": good, "false": false, "bad": bad, "events": events, "limits": limits}
    return TEXT.format(command=command, took=time.monotonic() - began, healthy=healthy, worse=worse, **tables)


TEXT = """## Rollouts: evidence against rules of thumb

Written by `{command}` in {took:,.0f} s. Simulated, on no server: versions that are no worse, and worse ones, through
the code that decides (`rollout.decide`, strategy canary), with the target in memory. It is no part of `make bench`.

* **Traffic**: 100 requests a second (Poisson), steps of 1, 5, 10, 25 and 50 %, a minute each. The counts are looked at
  each 20 s. 5 % of the answers are slow on either version. Bursty: ten times the errors at every twentieth look.
  Trending: from a quarter to four times. Sticky: 3,000 callers of whom few make most errors, and who stay with their
  version. Rollout n of a row has the seed n.
* **windlass**: `canary` with its defaults: alpha 0.01 for errors, refusals and slow answers together; at least 5
  minutes before a promotion. 2 hours in all (sticky: half an hour).
* **flagger 1**, **flagger 5**: `request-success-rate` at least 99 % each minute, or the weight stays; so many failed
  checks in all roll back. 1 is Flagger's default (no `threshold` given), 5 is in its documents. The check after the
  last step promotes.
* **argo**: a background analysis, `successCondition` at least 99 % each minute, `failureLimit` 0 (the default of Argo
  Rollouts).
* **mistakes at most**: the upper end of a one-sided 95 % interval for the rate of the mistake (Clopper and Pearson).
  **harmed**: requests that failed or were slow and would not have been so on the old version.

### No worse: {healthy:,} rollouts each

{good}
### Worse than what is allowed: {healthy:,} rollouts each

Twice the errors is a relative risk of 1 + 2 delta. Here it is a mistake to promote; its rate, too, is at most alpha.

{false}
### Worse: {worse:,} rollouts each

From 0.1 % errors to 0.2, 0.3 or 0.5 % is within the margin of 0.5 points, which is allowed.

{bad}
### The e-process alone, looked at after every bad event

{events}
### One limit for all

A healthy version with 0.5 % errors, 60 requests a check, 1 % allowed, one failed check aborts:

{limits}"""


def main() -> None:
    """Measures, and writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollouts", type=int, default=1000, help="of each kind of healthy release")
    parser.add_argument("--worse", type=int, default=200, help="of each kind of broken one")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    SECTION.write_text(text := section(asked.rollouts, asked.worse, asked.jobs))
    published = SECTION.parent.parent / "RESULTS.md"
    before = published.read_text().partition(text.splitlines()[0])[0]
    published.write_text(f"{before.rstrip()}\n\n{text}")


def title(traffic: Traffic) -> str:
    """What comes, in words."""
    kind = "" if traffic.worse == 1.0 else f", new: {traffic.worse:g}x"
    kind += f", new: {traffic.slower:g}x the slow answers" if traffic.slower > 1.0 else ""
    return f"{100 * traffic.errors:g} % errors, {traffic.shape}{kind}"


if __name__ == "__main__":
    main()

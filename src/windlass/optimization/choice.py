"""Which of the measured forms keeps the budget, which is best, and why each of the others is not.

Used by `search` to compare and by `outcome` to choose. Pure: it only looks at findings. Must never let through a form
that is slower than the original, unless size or memory is the goal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from windlass.optimization import budget, findings

# Below this gain another version is not worth its changed answers.
LEAST_GAIN = 1.05
# Forms whose speeds are so near are taken to be equally fast: the one that answers better is preferred.
ALIKE = 0.03
Kind = Literal["accuracy", "slower", "latency", "size", "memory", "gain"]


class Fault(msgspec.Struct, frozen=True):
    """What a form does not keep: by how much of what is allowed (0.1: a tenth beyond), and a sentence's part."""

    kind: Kind
    excess: float
    words: str


def faults(asked: budget.Budget, baseline: findings.Candidate, tried: findings.Candidate) -> tuple[Fault, ...]:
    """All that speaks against a form, as far as it was measured; empty for one that may be chosen."""
    found = [*_accuracy(asked, tried), *_slower(asked, tried), *limits(asked, tried)]
    if not found and not _mends(asked, baseline, tried):
        ratio = gain(asked.goal, baseline, tried)
        if ratio < LEAST_GAIN:
            found.append(Fault("gain", LEAST_GAIN - ratio, _no_gain(asked.goal, ratio, tried)))
    return tuple(found)


def excess(found: Iterable[Fault]) -> float:
    """How far a form is from what is asked, in all."""
    return sum(fault.excess for fault in found)


def gain(goal: budget.Goal, baseline: findings.Candidate, tried: findings.Candidate) -> float:
    """How many times better than the original at the goal; for speed the lower end of the interval. 1: not measured."""
    if goal == "size":
        return _ratio(_files(baseline), _files(tried))
    if goal == "memory":
        return _ratio(_peak(baseline), _peak(tried))
    if not tried.timings:
        return 1.0
    return tried.timings[0].low if goal == "latency" else max(tried.timings, key=lambda one: one.rows).low


def gained(asked: budget.Budget, baseline: findings.Candidate, tried: findings.Candidate) -> bool:
    """Whether it is better at the goal as far as was measured, proven or not."""
    if asked.goal in ("latency", "throughput"):
        return any(one.speedup >= LEAST_GAIN for one in tried.timings)
    return gain(asked.goal, baseline, tried) >= LEAST_GAIN


def ranked(
    asked: budget.Budget, baseline: findings.Candidate, tried: Sequence[findings.Candidate]
) -> tuple[findings.Candidate, ...]:
    """Those that keep the budget, the best at the goal first.

    Among forms that are as good as the best within `ALIKE`, the one that loses least is first, then the simplest.
    """
    left = [one for one in tried if one.verdict != "failed" and not faults(asked, baseline, one)]
    found: list[findings.Candidate] = []
    while left:
        best = max(gain(asked.goal, baseline, one) for one in left)
        alike = [one for one in left if gain(asked.goal, baseline, one) >= best * (1 - ALIKE)]
        chosen = min(alike, key=lambda one: (_loss(one), len(one.steps), -gain(asked.goal, baseline, one)))
        found.append(chosen)
        left.remove(chosen)
    return tuple(found)


def better(
    asked: budget.Budget, baseline: findings.Candidate, one: findings.Candidate, other: findings.Candidate
) -> bool:
    """Whether a form is nearer to what is asked than another; of two that keep it, clearly better at the goal."""
    beyond, theirs = (
        excess(fault for fault in faults(asked, baseline, each) if fault.kind != "gain") for each in (one, other)
    )
    if beyond != theirs:
        return beyond < theirs
    return gain(asked.goal, baseline, one) > gain(asked.goal, baseline, other) * (1 + ALIKE)


def nearest(
    asked: budget.Budget, baseline: findings.Candidate, tried: Sequence[findings.Candidate]
) -> tuple[findings.Candidate, tuple[Fault, ...]] | None:
    """The form that misses what is asked by least, and what it misses; None if none was measured."""
    known = [(one, faults(asked, baseline, one)) for one in tried if one.verdict != "failed"]
    known = [(one, found) for one, found in known if found]
    # What was given up before it was judged may lack more than is known of it.
    known = [pair for pair in known if pair[0].judged is not None or not pair[0].timings] or known
    return min(known, key=lambda pair: excess(pair[1]), default=None)


def pareto(tried: Sequence[findings.Candidate]) -> tuple[str, ...]:
    """Digests of the forms (the original among them) that no other beats in speed, size, loss and memory at once."""
    known = [one for one in tried if one.verdict != "failed" and one.timings and one.judged and one.footprint]
    return tuple(one.digest for one in known if not any(_dominates(other, one) for other in known))


def meets(asked: budget.Budget, baseline: findings.Candidate) -> bool:
    """Whether the original itself keeps the limits that were set."""
    return not limits(asked, baseline)


def allowed(asked: budget.Budget, judged: findings.Judged) -> float | None:
    """The most drop in the metric's unit; None: any."""
    return None if asked.drop is None else asked.drop.of(judged.drop.baseline)


def megabytes(count: float) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"


def _accuracy(asked: budget.Budget, tried: findings.Candidate) -> Iterable[Fault]:
    judged = tried.judged
    limit = None if judged is None else allowed(asked, judged)
    if judged is None or limit is None or judged.drop.high <= limit:
        return
    drop = judged.drop
    scale = max(limit, 0.001 * abs(drop.baseline), 1e-9)
    words = f"{told_drop(drop)} (95 % bound): {limit:.3g} is allowed"
    if judged.synthetic:
        like = judged.likeness
        words = "without data nothing shows that its answers are as good: "
        words += f"signal to noise is {like.sqnr_db:.3g} dB, cosine {like.cosine:.4f} on made-up rows"
        if like.agreement is not None:
            words += f", of which {100 * like.agreement:.4g} % are answered alike"
    elif drop.drop <= limit:
        words = f"{words}; {drop.rows} rows are too few to show that it holds"
    yield Fault("accuracy", (drop.high - limit) / scale, words)


def _slower(asked: budget.Budget, tried: findings.Candidate) -> Iterable[Fault]:
    if asked.goal in ("size", "memory"):
        return
    for one in tried.timings:
        if one.low < 1.0:
            how = "it is slower" if one.high < 1.0 else "it is not shown to be as fast"
            words = f"{how}: {one.speedup:.2f}x at {told_rows(one.rows)} ({one.low:.2f} to {one.high:.2f})"
            yield Fault("slower", 1.0 - one.low, words)
            return


def limits(asked: budget.Budget, tried: findings.Candidate) -> tuple[Fault, ...]:
    """The limits of latency, size and memory that a form breaks."""
    return tuple(_broken(asked, tried))


def _broken(asked: budget.Budget, tried: findings.Candidate) -> Iterable[Fault]:
    if asked.latency_ms is not None and tried.timings:
        one = tried.timings[0]
        # The upper end of what a run takes, by the interval of the ratio.
        ms = one.candidate_ms * (one.speedup / one.low if one.low > 0 else 1.0)
        if ms > asked.latency_ms:
            words = f"a run takes up to {ms:.3g} ms: {asked.latency_ms:.3g} ms is asked"
            yield Fault("latency", ms / asked.latency_ms - 1, words)
    if asked.size is not None and tried.footprint and tried.footprint.files > asked.size:
        words = f"it has {megabytes(tried.footprint.files)}: {megabytes(asked.size)} is asked"
        yield Fault("size", tried.footprint.files / asked.size - 1, words)
    if asked.memory is not None and tried.footprint and tried.footprint.peak > asked.memory:
        words = f"it takes {megabytes(tried.footprint.peak)} of memory: {megabytes(asked.memory)} is asked"
        yield Fault("memory", tried.footprint.peak / asked.memory - 1, words)


def _mends(asked: budget.Budget, baseline: findings.Candidate, tried: findings.Candidate) -> bool:
    """Whether it keeps limits that the original breaks: then it need not be better at the goal as well."""
    return tried is not baseline and not meets(asked, baseline) and meets(asked, tried)


def _no_gain(goal: budget.Goal, ratio: float, tried: findings.Candidate) -> str:
    if goal in ("latency", "throughput") and tried.timings:
        one = tried.timings[0] if goal == "latency" else max(tried.timings, key=lambda timing: timing.rows)
        what = "no significant change" if one.verdict != "faster" else "too little is gained"
        return f"{what}: {one.speedup:.2f}x at {told_rows(one.rows)} ({one.low:.2f} to {one.high:.2f})"
    return f"its {goal} is 1/{ratio:.2f} of the original's: too little is gained"


def told_rows(rows: int) -> str:
    """`1 row`, `8 rows`."""
    return f"{rows} row{'' if rows == 1 else 's'}"


def told_drop(drop: findings.Drop, name: str = "") -> str:
    """`accuracy drops by 0.001, at most by 0.004`, or how much better it is."""
    if drop.drop < 0:
        end = f"at most {drop.high:.3g} worse" if drop.high > 0 else f"at least {-drop.high:.3g}"
        return f"{name or drop.name} is {-drop.drop:.3g} better, {end}"
    return f"{name or drop.name} drops by {drop.drop:.3g}, at most by {drop.high:.3g}"


def _dominates(one: findings.Candidate, other: findings.Candidate) -> bool:
    first, second = _merits(one), _merits(other)
    return all(a >= b for a, b in zip(first, second, strict=True)) and first != second


def _merits(one: findings.Candidate) -> tuple[float, ...]:
    """Speed, size, loss and (where both ends measured it) memory, each the higher the better."""
    speed = min(timing.speedup for timing in one.timings)
    return (speed, -_files(one), -_loss(one))


def _loss(one: findings.Candidate) -> float:
    return one.judged.drop.drop if one.judged else 0.0


def _files(one: findings.Candidate) -> int:
    return one.footprint.files if one.footprint else 0


def _peak(one: findings.Candidate) -> int:
    return one.footprint.peak if one.footprint else 0


def _ratio(before: float, after: float) -> float:
    return before / after if before and after else 1.0

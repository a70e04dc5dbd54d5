"""From a plan to what comes of it: the original measured, forms searched, the best one confirmed, or none.

Run by `study`. Must never choose a form on the very rows and timings that it was picked by: they flatter it.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import msgspec

from windlass import errors, plugins
from windlass.optimization import accuracy, choice, findings, phrases, search, search_greedy, trials
from windlass.optimization import form as forms

# Each further form on the same rows must pass a stricter test, so more tries are of little use.
MOST_CONFIRMED = 3


class Outcome(msgspec.Struct, frozen=True):
    """What came of a search: `chosen` is None where the version stays as it is (`kept`) or misses its budget."""

    verdict: Literal["optimized", "kept", "missed"]
    sentence: str
    nearest: str
    baseline: findings.Candidate
    chosen: findings.Candidate | None
    candidates: tuple[findings.Candidate, ...]
    pareto: tuple[str, ...]


def baseline(made: trials.Trials, plan: search.Plan) -> findings.Candidate:
    """The original against itself: its milliseconds, and how far apart two equal forms are measured here.

    Of one batch only: a large model takes minutes for many rows, and every form is timed beside it anyway.
    """
    original = made.original
    return findings.Candidate(
        original.digest,
        "original",
        (),
        "kept",
        "The version as it is.",
        timings=(made.timing(original, plan.batches[0], thorough=True),),
        footprint=made.footprint(original, peak=plan.memory),
        judged=made.judged(original),
    )


def searched(found: search.Search) -> None:
    """Try what the plan asks for, until there is nothing left to try or no time."""
    search_greedy.greedy(found)
    if found.plan.trials:
        plugins.load("searches", "optuna")(found)


def replayed(found: search.Search, steps: tuple[forms.Step, ...]) -> None:
    """Make the one form that a recipe leads to, and measure it like any other. `GateRefused` if a step fails.

    What a recipe leaves to defaults is written out in what comes of it.
    """
    root = found.trials.original
    share = found.trials.left * (1 - search.RESERVE) / len(steps)
    for number, step in enumerate(steps, start=1):
        whole = {**found.defaults(root, step.technique), **step.parameters}
        if number == len(steps):
            last = found.attempt(root, step.technique, whole, seconds=share)
            if last is not None and last.verdict == "failed":
                raise errors.GateRefused(f"the recipe's step {number}, {step.technique}, fails here. {last.why}")
            return
        try:
            root = found.trials.made(root, forms.Step(step.technique, whole), share)
        except trials.Failed as e:
            raise errors.GateRefused(f"the recipe's step {number}, {step.technique}, fails here: {e}.") from None


def decided(found: search.Search, profile: findings.Profile | None = None) -> Outcome:
    """Confirm the best, and say of each candidate what became of it."""
    asked, baseline = found.plan.asked, _with_batches(found)
    chosen = _first_confirmed(found)
    if chosen is not None:
        # Memory was measured of the chosen form, so of the original too.
        with contextlib.suppress(trials.Failed):
            footprint = found.trials.footprint(found.trials.original, peak=True)
            baseline = msgspec.structs.replace(baseline, footprint=footprint)
    tried_all = tuple(found.candidates)
    seen = [one if chosen is None or one.steps != chosen.steps else chosen for one in tried_all]
    front = choice.pareto([baseline, *seen])
    nearest = ""
    verdict: Literal["optimized", "kept", "missed"] = "optimized"
    if chosen is not None:
        sentence = phrases.optimized(asked, baseline, chosen)
    elif choice.meets(asked, baseline):
        verdict, sentence = "kept", phrases.kept(asked, baseline, tried_all, profile)
    else:
        verdict = "missed"
        sentence, nearest = phrases.missed(asked, baseline, tried_all)
    candidates = phrases.explained(asked, baseline, tried_all, chosen, front)
    return Outcome(verdict, sentence, nearest, baseline, chosen, candidates, front)


def _with_batches(found: search.Search) -> findings.Candidate:
    """The original, timed at the other batches too, while there is time to search."""
    made = found.trials
    more = (made.timing(made.original, rows, thorough=False) for rows in found.plan.batches[1:] if not found.time_up)
    return msgspec.structs.replace(found.baseline, timings=(*found.baseline.timings, *more))


def _first_confirmed(found: search.Search) -> findings.Candidate | None:
    """The best that holds when it is measured anew; what is all that failed and more is passed over."""
    failed: list[findings.Candidate] = []
    for tried in found.best():
        base = next((one for one in failed if all(step in tried.steps for step in one.steps)), None)
        if base is not None or len(failed) == MOST_CONFIRMED:
            _reject(found, tried, phrases.passed_over(base, len(failed)))
            continue
        fresh, faults = _confirmed(found, tried, len(failed) + 1)
        if not faults:
            return fresh
        _reject(found, fresh, phrases.unconfirmed(faults))
        failed.append(tried)
    return None


def _reject(found: search.Search, tried: findings.Candidate, why: str) -> None:
    at = next(index for index, one in enumerate(found.candidates) if one.steps == tried.steps)
    found.candidates[at] = msgspec.structs.replace(tried, verdict="rejected", why=why)


def _confirmed(
    found: search.Search, tried: findings.Candidate, number: int
) -> tuple[findings.Candidate, tuple[choice.Fault, ...]]:
    """The candidate measured anew, and what then speaks against it."""
    made = found.made(tried)
    try:
        judged = found.trials.confirmed(made, accuracy.level(number))
        timings = tuple(found.trials.timed_again(made, rows) for rows in found.plan.batches)
        footprint = found.trials.footprint(made, peak=True)
    except trials.Failed as e:
        return tried, (choice.Fault("gain", 1.0, f"it failed: {e}"),)
    fresh = msgspec.structs.replace(tried, timings=timings, footprint=footprint, confirmed=judged)
    on_unseen = msgspec.structs.replace(fresh, judged=judged)
    return fresh, choice.faults(found.plan.asked, found.baseline, on_unseen)

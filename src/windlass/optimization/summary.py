"""The report of a study: what was found, put together, with what is measured of the chosen form alone.

Called by `study` at its end. Must never judge: the verdict is `outcome`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from windlass.client import capacity
from windlass.optimization import choice, findings, instruments, measure, outcome, parity, recipe, search, trials
from windlass.optimization import form as forms
from windlass.packaging import verdicts

_PARITY_S = 60.0
_PARITY_ROWS = 8
_LAYERS_S = 30.0
_LEAST_S = 5.0
T = TypeVar("T")


class Told(msgspec.Struct, frozen=True):
    """What a report is about and was measured with."""

    reference: str
    parent: str
    bench: instruments.Workbench
    made: trials.Trials
    profile: findings.Profile
    plan: search.Plan
    clock: Callable[[], float]


def report(
    told: Told, found: search.Search, came: outcome.Outcome, chosen: forms.Form | None, price: float
) -> findings.Report:
    """The whole report. What there is no time for any more is left empty, and the notes say so."""
    notes = list(found.notes)
    layers = _layers(told, found, came, notes)
    form = chosen or told.bench.original
    settings = _counted(told, notes, "threads and batches", lambda: _settings(told, form)) or ()
    cells: tuple[findings.Parity, ...] = ()
    if chosen is not None:
        cells = _counted(told, notes, "the parity matrix", lambda: _parity(told, chosen)) or ()
    return findings.Report(
        parent=told.parent,
        reference=told.reference,
        verdict=came.verdict,
        sentence=came.sentence,
        chosen=came.chosen.digest if came.chosen is not None else "",
        nearest=came.nearest,
        asked=_asked(told, came),
        baseline=came.baseline,
        candidates=came.candidates,
        pareto=came.pareto,
        profile=told.profile,
        layers=layers,
        parity=cells,
        settings=settings,
        cost=_cost(told, found, came, price),
        recipe=_recipe(told, came),
        machine=measure.machine(),
        data=_data(told),
        seconds=told.made.spent,
        notes=tuple(notes),
    )


def _counted(told: Told, notes: list[str], what: str, work: Callable[[], T]) -> T | None:
    """What tells more of a form and decides nothing: its seconds count, its failure is a note."""
    started = told.clock()
    try:
        return work()
    except trials.Failed as e:
        notes.append(f"{what} could not be measured: {e}")
    except Exception as e:  # noqa: BLE001 - the study is done; a library that fails here must not undo it
        notes.append(f"{what} could not be measured: {type(e).__name__}: {str(e)[:200]}")
    finally:
        told.made.spent += told.clock() - started
    return None


def _layers(told: Told, found: search.Search, came: outcome.Outcome, notes: list[str]) -> tuple[findings.Layer, ...]:
    """The sensitivity of the chosen form's layers, else of the one that was to be mended."""
    if came.chosen is None:
        return next(iter(found.layers.values()), ())
    for step in came.chosen.steps:
        if search.key((step,)) in found.layers:
            return found.layers[search.key((step,))]
    *before, last = came.chosen.steps
    seconds = min(_LAYERS_S, told.made.left)
    technique = told.made.instruments.techniques[last.technique]
    if not hasattr(technique, "nodes") or technique.trains:
        return ()
    if seconds < _LEAST_S:
        notes.append("there was no time to measure how sensitive each layer is")
        return ()
    root = told.made.original
    for one in found.candidates:
        if one.steps == tuple(before):
            root = found.made(one)
    step = msgspec.structs.replace(last, parameters={k: v for k, v in last.parameters.items() if k != "exclude"})
    out = set(last.parameters.get("exclude", ()))
    try:
        layers = told.made.layers(root, step, seconds)
    except trials.Failed as e:
        notes.append(f"how sensitive each layer is could not be measured: {e}")
        return ()
    return tuple(msgspec.structs.replace(one, excluded=one.node in out) for one in layers)


def _settings(told: Told, form: forms.Form) -> tuple[findings.Setting, ...]:
    if told.made.left < _LEAST_S:
        raise trials.Failed("the time was up")
    cores = len(os.sched_getaffinity(0))
    threads = sorted({1, told.bench.threads, cores})
    batches = {rows: told.bench.inputs(rows) for rows in told.plan.batches}
    return measure.settings(form, batches, threads=threads, method=instruments.BRIEF)


def _parity(told: Told, chosen: forms.Form) -> tuple[findings.Parity, ...]:
    seconds = max(_LEAST_S, min(_PARITY_S, told.made.left))
    rows = min(_PARITY_ROWS, told.bench.parent.contract.max_rows)
    return parity.matrix(told.bench.original, chosen, told.bench.inputs(rows), seconds=seconds)


def _asked(told: Told, came: outcome.Outcome) -> dict[str, Any]:
    asked = told.plan.asked
    judged = came.baseline.judged
    return {
        "max_drop": None if judged is None else choice.allowed(asked, judged),
        "max_drop_asked": "any" if asked.drop is None else str(asked.drop),
        "max_latency_ms": asked.latency_ms,
        "max_size": asked.size,
        "max_memory": asked.memory,
        "goal": asked.goal,
        "metric": told.bench.judge.metric,
        "batches": list(told.plan.batches),
        "threads": told.bench.threads,
        "seconds": told.made.seconds,
        "trials": told.plan.trials,
        "seed": told.plan.seed,
        "techniques": [*told.plan.techniques, *told.plan.training],
    }


def _cost(told: Told, found: search.Search, came: outcome.Outcome, price: float) -> dict[str, float]:
    """Money for a million rows at the best of the measured batches, with so many cores, before and after."""
    cost = {"price_per_core_hour": price}
    machine = price * told.bench.threads
    if came.baseline.timings:
        best = max(one.rows / one.baseline_ms for one in came.baseline.timings)
        cost["before"] = capacity.cost_per_million(1000 * best, machine)
    if came.chosen is not None:
        best = max(one.rows / one.candidate_ms for one in came.chosen.timings)
        cost["after"] = capacity.cost_per_million(1000 * best, machine)
    if found.first_verdict_s is not None:
        cost["first_verdict_s"] = found.first_verdict_s
    return cost


def _recipe(told: Told, came: outcome.Outcome) -> str:
    if came.chosen is None:
        return ""
    techniques: Sequence[str] = [step.technique for step in came.chosen.steps]
    return recipe.write(
        recipe.Recipe(
            parent=told.parent,
            seed=told.plan.seed,
            steps=came.chosen.steps,
            result=came.chosen.digest,
            data=_data(told)["digests"],
            software=verdicts.software(),
            isa=verdicts.isa(),
            trains=any(told.made.instruments.techniques[name].trains for name in techniques),
        )
    )


def _data(told: Told) -> dict[str, Any]:
    split = told.bench.split
    parts = {"calibration": split.calibration, "search": split.search, "final": split.final}
    return {
        "digests": {name: rows.digest for name, rows in parts.items()},
        "rows": {name: rows.rows for name, rows in parts.items()},
        "labelled": told.bench.judge.labelled,
        "synthetic": split.search.synthetic,
        "seed": split.seed,
        "notes": list(split.notes),
    }

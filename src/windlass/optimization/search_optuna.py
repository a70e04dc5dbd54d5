"""The search by optuna: so many more trials over all techniques and parameters at once.

Run by `outcome` after the greedy search, where trials were asked for. Its storage is memory: what goes on after an
interruption is the journal of `trials`, for the same seed asks the same. Must never send anything, nor log.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import optuna

from windlass.optimization import choice, findings, search, trials

_FAR = 10.0


def explore(found: search.Search) -> None:
    """Multi-objective search under constraints (Bergstra et al., 2011: TPE; Deb's constrained domination).

    It maximizes the gain at the goal and minimizes the loss; the constraint is what is beyond the budget.
    """
    space = _space(found)
    if not space:
        return
    sampler = optuna.samplers.TPESampler(seed=found.plan.seed, n_startup_trials=5)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(found.plan.trials):
        if found.time_up:
            return
        trial = study.ask()
        name = trial.suggest_categorical("technique", sorted(space))
        parameters = {
            key: json.loads(trial.suggest_categorical(f"{name}.{key}", [json.dumps(choice) for choice in choices]))
            for key, choices in space[name].items()
        }
        root = _root(found, trial, name)
        tried = found.attempt(root, name, parameters) if found.applies(root, name) else None
        trial.set_constraint("beyond the budget", _beyond(found, tried))
        if tried is None or tried.judged is None or not tried.timings:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        study.tell(trial, [choice.gain(found.plan.asked.goal, found.baseline, tried), tried.judged.drop.drop])


def _space(found: search.Search) -> dict[str, dict[str, Sequence[Any]]]:
    """The techniques that need no training and apply, with the choices of their parameters."""
    original = found.trials.original
    return {
        name: {key: choices for key, choices in found.dimensions(original, name).items() if choices}
        for name in found.plan.techniques
        if found.applies(original, name)
    }


def _root(found: search.Search, trial: Any, name: str) -> trials.Made:
    """The original, or one of the forms that hold and can be built on."""
    held = {one.name: one for one in reversed(found.best()) if all(step.technique != name for step in one.steps)}
    roots = {"original": found.trials.original}
    with contextlib.suppress(KeyError):
        roots |= {label: found.made(one) for label, one in held.items()}
    # A categorical's choices must not change from trial to trial: its position is drawn instead.
    at = trial.suggest_float("root", 0.0, 1.0)
    return list(roots.values())[min(int(at * len(roots)), len(roots) - 1)]


def _beyond(found: search.Search, tried: findings.Candidate | None) -> float:
    if tried is None or tried.verdict == "failed":
        return _FAR
    return choice.excess(choice.faults(found.plan.asked, found.baseline, tried))

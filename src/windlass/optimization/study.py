"""A study: from a version and a budget to the best form that was measured and proven, or to leaving it alone.

Run by `windlass optimize` and `windlass.optimize`. Must never choose a form that is slower, out of budget or not
confirmed on rows that no choice has seen, nor register anything.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from windlass import errors, plugins
from windlass.optimization import (
    adversarial,
    budget,
    choice,
    data,
    findings,
    instruments,
    journal,
    lesson,
    live,
    outcome,
    phrases,
    profile,
    recipe,
    search,
    summary,
    trials,
)
from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.packaging import archive, dataset, session, verdicts
from windlass.security import temporary
from windlass.types import refs

# What a form takes to be made, beside being timed and judged, before anything is known of it.
_MAKING_S = 3.0
# Of all the time, what one timing may take; it ends before where all is clear.
_TIMING_SHARE = 1 / 30
_LEAST_TIMING_S = 1.0
PRICE_PER_CORE_HOUR = 0.04
BATCHES = (1, 8)


class Job(msgspec.Struct, frozen=True):
    """What a study is asked.

    `labels` names the column of labels; without `data` the study is label-free on the package's own rows. `techniques`
    are names (empty: all that apply). `trials` above 0 asks for so many more by optuna. `batches` are the rows of one
    run that are measured, the first is the one that budgets are about. `network` is the live torch module behind the
    package, `student` makes an untrained one, `teachers` answer the rows of `train`. `replay` is made without a
    search. `kept` is the folder of journals (None: nothing is kept). `price` is of one core for an hour.
    `adversarial`: what is chosen is judged on rows with noise that unsettles the original, too; they decide nothing.
    """

    parent: archive.Package
    reference: str
    budget: budget.Budget = budget.Budget()
    data: dataset.Dataset | None = None
    labels: str | None = None
    metric: str | None = None
    slices: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    seconds: float = 600.0
    trials: int = 0
    seed: int = 0
    batches: tuple[int, ...] = BATCHES
    threads: int = 1
    network: Any = None
    student: Callable[[], Any] | None = None
    teachers: tuple[archive.Package, ...] = ()
    train: dataset.Dataset | None = None
    replay: recipe.Recipe | None = None
    kept: Path | None = None
    price: float = PRICE_PER_CORE_HOUR
    adversarial: bool = False


class Result(msgspec.Struct, frozen=True):
    """The report, the chosen form (None: keep the version as it is), the rows that confirmed it, the journal's folder.

    Whoever has kept what came of it calls `forget`.
    """

    report: findings.Report
    form: forms.Form | None
    confirmed_on: data.Rows | None = None
    journal: Path | None = None


class Outline(msgspec.Struct, frozen=True):
    """What a study would do: what could be gained at most, what would be tried, how long that takes and why."""

    profile: findings.Profile
    techniques: tuple[str, ...]
    notes: tuple[str, ...]
    estimate: str


class _Setup(NamedTuple):
    """A study before its first candidate."""

    job: Job
    bench: instruments.Workbench
    made: trials.Trials
    kept: journal.Journal
    profile: findings.Profile
    plan: search.Plan
    baseline: findings.Candidate
    each_s: float
    notes: tuple[str, ...]


def run(
    job: Job,
    *,
    progress: Callable[[str], None] = lambda _: None,
    tell: Callable[[findings.Candidate], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """The whole study. `UsageError` if the data do not fit or are too few, `GateRefused` if the version does not load.

    `progress` is told each step as it begins, `tell` each candidate when it is done with. A budget that nothing meets
    is no error here: the report's verdict is `missed`. What was measured before an interruption is taken from the
    journal, so that the same job goes on.
    """
    with _ready(job, progress, clock) as ready:
        found = search.Search(ready.plan, ready.made, ready.baseline, progress, tell)
        found.notes.extend(ready.notes)
        _try(ready, found, progress)
        progress("confirming the best on rows that no choice has seen")
        came = outcome.decided(found, ready.profile)
        chosen = None if came.chosen is None else _form(ready.made, found.made(came.chosen))
        progress("comparing runtimes, and measuring threads and batches")
        told = summary.Told(job.reference, job.parent.digest, ready.bench, ready.made, ready.profile, ready.plan, clock)
        report = summary.report(told, found, came, chosen, job.price)
        rows = ready.bench.split.final if chosen is not None else None
        return Result(report, chosen, rows, None if job.kept is None else ready.kept.folder)


def forget(result: Result) -> None:
    """Remove the journal of a study that came to its end: the same job then measures anew."""
    if result.journal is not None:
        journal.forget(result.journal)


def outline(
    job: Job,
    *,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Outline:
    """What `run` would do: the version is profiled and measured, nothing is made of it."""
    with _ready(job, progress, clock) as ready:
        found = search.Search(ready.plan, ready.made, ready.baseline)
        original = ready.made.original
        names = [*(name for name in ready.plan.techniques if found.worth(name)), *ready.plan.training]
        names = [name for name in names if found.applies(original, name)]
        return Outline(ready.profile, tuple(names), (*ready.notes, *found.notes), _estimate(ready, found, names))


def _form(made: trials.Trials, chosen: trials.Made) -> forms.Form:
    try:
        return made.form(chosen)
    except trials.Failed as e:
        raise errors.GateRefused(f"the chosen form was measured and cannot be made again: {e}.") from None


def _try(ready: _Setup, found: search.Search, progress: Callable[[str], None]) -> None:
    """Search, replay, or nothing at all where nothing can be gained."""
    job = ready.job
    if job.replay is not None:
        outcome.replayed(found, job.replay.steps)
        found.notes.extend(_other_than(job.replay, job, found))
        return
    for_speed = ready.plan.for_speed and choice.meets(job.budget, ready.baseline)
    if not ready.profile.worth and for_speed and not job.techniques:
        return
    names = [name for name in ready.plan.techniques if found.worth(name)]
    progress(f"this takes {_estimate(ready, found, names)}")
    outcome.searched(found)


def _other_than(told: recipe.Recipe, job: Job, found: search.Search) -> list[str]:
    """What is not as it was when the recipe was written."""
    notes = []
    if told.parent != job.parent.digest:
        notes.append(f"The recipe was made for another version, {told.parent}.")
    elif told.result and not told.trains and all(one.digest != told.result for one in found.candidates if one.digest):
        notes.append("The form has other bytes than the recipe's: other software, processor or data made that one.")
    if told.isa and told.isa != verdicts.isa():
        notes.append(f"The recipe was made on another processor: {told.isa}.")
    return notes


def _estimate(ready: _Setup, found: search.Search, names: list[str]) -> str:
    """Each technique's default, and about as many more with other parameters."""
    training = [name for name in ready.plan.training if found.applies(ready.made.original, name)]
    count = max(1, 2 * len([name for name in names if name not in training])) + ready.plan.trials
    return phrases.estimate(count, ready.each_s, ready.made.seconds, training)


@contextlib.contextmanager
def _ready(job: Job, progress: Callable[[str], None], clock: Callable[[], float]) -> Iterator[_Setup]:
    """Everything opened, split, profiled and measured before the first candidate."""
    started = clock()
    _check(job)
    with contextlib.ExitStack() as held:
        progress("opening the version")
        apart = session.carries_code(job.parent.manifest.model.runtime)
        parent = session.open(job.parent, where="apart" if apart else "here")
        held.callback(parent.close)
        job = _fitting(job, parent)
        if job.network is not None:
            progress("asking the network that is said to be behind it")
            live.require(job.network, parent)
        progress("splitting the rows, and asking the original")
        split = _split(job, parent)
        techniques, missing = _techniques(job)
        learned: base.Lesson | None = None
        shared: tuple[str, ...] = ()
        if job.train is not None:
            learned, shared = lesson.of(parent, job.train, job.labels, job.teachers, judged=split, seed=job.seed)
        work = held.enter_context(temporary.folder("windlass-optimize-"))
        folder = instruments.folder(work if job.kept is None else job.kept, _identity(job, split))
        kept = journal.Journal(folder)
        held.callback(kept.close)
        original = _original(job)
        setting = instruments.Setting(
            job.metric,
            job.slices,
            job.threads,
            job.seed,
            job.batches,
            job.adversarial,
            most_s=max(_LEAST_TIMING_S, _TIMING_SHARE * job.seconds),
        )
        materials = base.Materials(
            signature=job.parent.manifest.signature,
            calibration=split.calibration.batches,
            folder=work,
            lesson=learned,
            student=job.student,
            seed=job.seed,
            kept=folder / "training",
            say=progress,
        )
        bench = instruments.Workbench(parent, original, split, setting, materials, techniques)
        held.callback(bench.close)
        if job.budget.drop is not None and not split.search.synthetic:
            bench.require(job.budget.drop.of(bench.judge.baseline.value))
        made = trials.Trials(original, bench.instruments(job.budget), kept, seconds=job.seconds, clock=clock)
        made.count(["setup"], clock() - started)
        yield _measured(job, bench, made, kept, progress)._replace(notes=(*split.notes, *shared, *missing))


def _measured(
    job: Job, bench: instruments.Workbench, made: trials.Trials, kept: journal.Journal, progress: Callable[[str], None]
) -> _Setup:
    """The original, profiled and measured; `GateRefused` if it cannot be, and then nothing is kept of it."""
    try:
        progress("profiling it")
        found = made.ask(["profile"], findings.Profile, lambda: _profiled(bench, job))
        plan = _plan(job, bench.techniques, found)
        progress("measuring the original")
        before = made.spent
        baseline = outcome.baseline(made, plan)
    except trials.Failed as e:
        journal.forget(kept.folder)
        raise errors.GateRefused(f"the version itself cannot be measured: {e}.") from None
    # Another form is timed and judged as the original was.
    return _Setup(job, bench, made, kept, found, plan, baseline, _MAKING_S + made.spent - before, ())


def _check(job: Job) -> None:
    """What can be said before anything is opened."""
    for name in job.techniques:
        plugins.load("techniques", known(name))
    if job.trials:
        plugins.load("searches", "optuna")
    if job.train is not None and job.network is None and job.student is None:
        raise errors.UsageError(
            "there are rows to train on, and no network to train.",
            hint="Name the function that makes the trained network: --model module:factory",
        )
    if job.replay is not None:
        for step in job.replay.steps:
            plugins.load("techniques", known(step.technique))


def _fitting(job: Job, parent: session.Session) -> Job:
    """The job with the batches that the version takes, and the seed of the recipe that is replayed."""
    most = parent.contract.max_rows if parent.contract.signature.batched else 1
    batches = tuple(rows for rows in dict.fromkeys(job.batches) if rows <= most)
    if not batches:
        raise errors.UsageError(
            f"the version takes {choice.told_rows(most)} at once, not {min(job.batches, default=0)}.",
            hint="Give a smaller --batch.",
        )
    if job.adversarial:
        adversarial.inputs(parent.contract.signature)
    seed = job.seed if job.replay is None else job.replay.seed
    return msgspec.structs.replace(job, batches=batches, seed=seed)


def _split(job: Job, parent: session.Session) -> data.Split:
    if job.data is None:
        return data.synthetic(parent, seed=job.seed)
    return data.split(parent, job.data, job.labels, slices=job.slices, seed=job.seed)


def _techniques(job: Job) -> tuple[dict[str, type[base.Technique]], tuple[str, ...]]:
    """Those asked for (all, where none is named) whose libraries are here; and which are not, in words."""
    wanted = job.techniques or tuple(plugins.catalog()["techniques"])
    if job.replay is not None:
        wanted = (*wanted, *(step.technique for step in job.replay.steps))
    found: dict[str, type[base.Technique]] = {}
    missing = []
    for name in dict.fromkeys(wanted):
        try:
            found[name] = plugins.load("techniques", name)
        except errors.Unsupported as e:
            missing.append(f"{name}: {e.message} {e.hint}")
    return found, tuple(missing)


def _identity(job: Job, split: data.Split) -> dict[str, Any]:
    """All that what is measured depends on: a budget is not among them, so another one goes on from the same."""
    networks = [
        "" if job.network is None else live.told(job.network),
        # Each time that it is made its values are others.
        "" if job.student is None else live.told(job.student(), weights=False),
    ]
    return {
        "parent": job.parent.digest,
        "rows": [split.calibration.digest, split.search.digest, split.final.digest],
        "asked": [job.metric, list(job.slices), job.seed, list(job.batches), job.threads, job.labels, job.adversarial],
        "train": None if job.train is None else job.train.digest,
        "networks": [*networks, *(one.digest for one in job.teachers)],
        "machine": [verdicts.software(), verdicts.isa(), os.cpu_count()],
    }


def _original(job: Job) -> forms.Form:
    spec = job.parent.manifest.model
    files = {name: bytes(data) for name, data in job.parent.model_files().items()}
    return forms.Form(files=files, runtime=spec.runtime, precision=spec.precision, network=job.network)


def _profiled(bench: instruments.Workbench, job: Job) -> findings.Profile:
    rows = job.batches[0]
    techniques = tuple(bench.techniques.values())
    return profile.profile(bench.original, bench.inputs(rows), rows=rows, techniques=techniques, threads=job.threads)


def _plan(job: Job, techniques: Mapping[str, type[base.Technique]], found: findings.Profile) -> search.Plan:
    """The techniques by what they can gain; those that aim at the goal first where it is size or memory."""
    bounds = {one.technique: one.speedup for one in found.bounds}
    aim = "latency" if job.budget.goal == "throughput" else job.budget.goal

    def order(name: str) -> tuple[bool, float]:
        return (aim not in techniques[name].aims, -bounds.get(name, 1.0))

    return search.Plan(
        asked=job.budget,
        techniques=tuple(sorted((name for name, one in techniques.items() if not one.trains), key=order)),
        training=tuple(name for name, one in techniques.items() if one.trains),
        bounds=bounds,
        batches=job.batches,
        seed=job.seed,
        trials=job.trials,
    )


def known(name: str) -> str:
    """The technique of that name; `UsageError` names the nearest."""
    names = plugins.catalog()["techniques"]
    if name not in names:
        raise errors.UsageError(
            f"there is no technique '{name[:64]}': there are {', '.join(names)}.", hint=refs.nearest(name, names)
        )
    return name

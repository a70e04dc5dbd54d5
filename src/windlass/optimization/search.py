"""The search: which forms are tried, in which order, and when one is given up.

Run by `study`; greedy unless optuna is asked for (`search_optuna`). Must never measure at length what a cheaper check
has ruled out, start what there is no time for, nor leave a form without the reason for its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from windlass.optimization import budget, choice, findings, trials
from windlass.optimization import form as forms

# A technique that can gain less than this by Amdahl's law is not tried for speed.
LEAST_BOUND = 1.1
# Answers this far from the original's are not judged at length; leaving layers out may still mend them.
LEAST_COSINE = 0.5
_PROMISING = 2
_STACKED = 6
# What is kept of the time for confirming the chosen form and telling of it.
RESERVE = 0.15
_EXCLUDE = "exclude"


class Plan(msgspec.Struct, frozen=True):
    """What is searched within. `techniques` in the order to try them, those that train apart.

    `bounds` is the most that each can gain; `batches` the rows of the timings. `memory`: the peak is measured of every
    candidate, as a limit or the goal is about it.
    """

    asked: budget.Budget
    techniques: tuple[str, ...]
    training: tuple[str, ...]
    bounds: Mapping[str, float]
    batches: tuple[int, ...]
    seed: int = 0
    trials: int = 0

    @property
    def memory(self) -> bool:
        """Whether the peak of memory decides anything."""
        return self.asked.memory is not None or self.asked.goal == "memory"

    @property
    def for_speed(self) -> bool:
        """Whether a form must not be slower."""
        return self.asked.goal in ("latency", "throughput")


class Search:
    """The candidates of one study in the order they were tried; `tell` is told each. `notes` say what was not, and why.

    `layers` is how sensitive each layer is, by the `key` of the step that quantizes them.

    `first_verdict_s`: seconds spent when the first form had been both timed and judged.
    """

    def __init__(
        self,
        plan: Plan,
        made: trials.Trials,
        baseline: findings.Candidate,
        progress: Callable[[str], None] = lambda _: None,
        tell: Callable[[findings.Candidate], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.trials = made
        self.baseline = baseline
        self.candidates: list[findings.Candidate] = []
        self.layers: dict[bytes, tuple[findings.Layer, ...]] = {}
        self.notes: list[str] = []
        self.first_verdict_s: float | None = None
        self._say = progress
        self._tell = tell
        self._made: dict[bytes, trials.Made] = {}
        self._hopeless: set[str] = set()
        self._reserve = RESERVE * made.seconds

    @property
    def time_up(self) -> bool:
        """Whether only what is kept for the end remains."""
        return self.trials.left <= self._reserve

    def made(self, tried: findings.Candidate) -> trials.Made:
        """The form of a candidate that was made."""
        return self._made[key(tried.steps)]

    def attempt(
        self, root: trials.Made, name: str, parameters: Mapping[str, Any], *, seconds: float = 0.0
    ) -> findings.Candidate | None:
        """One more candidate: made, and measured as long as nothing speaks against it. None if there is no time.

        What was tried before is not tried again: its candidate is returned.
        """
        step = forms.Step(name, dict(parameters))
        steps = (*root.steps, step)
        known = next((one for one in self.candidates if one.steps == steps), None)
        if known is not None or self.time_up:
            return known
        started = self.trials.spent
        self._say(" + ".join(one.technique for one in steps))
        # A form of these steps may have no digest yet: what failed is told by its steps.
        tried = findings.Candidate("", " + ".join(one.technique for one in steps), steps, "failed", "")
        try:
            made = self.trials.made(root, step, seconds)
            tried = msgspec.structs.replace(tried, digest=made.digest, left=made.left, notes=made.notes)
            tried = self._measured(made, tried)
        except trials.Failed as e:
            tried = msgspec.structs.replace(tried, verdict="failed", why=f"It failed: {str(e).rstrip('.')}.")
        tried = msgspec.structs.replace(tried, seconds=self.trials.spent - started)
        self.candidates.append(tried)
        self._tell(tried)
        return tried

    def _measured(self, made: trials.Made, tried: findings.Candidate) -> findings.Candidate:
        """The stages, the cheap ones first; a rejected candidate says why."""
        same = self._same(made)
        if same:
            return _rejected(tried, f"it computes the same as {same}, in the same way")
        self._made[key(tried.steps)] = made
        for stage in (self._glanced, self._footprint, self._timed_briefly, self._judged, self._timed):
            if self.trials.left <= self._reserve / 2:
                return _rejected(tried, "the time was up before it was measured")
            tried = stage(made, tried)
            if tried.verdict == "rejected":
                return tried
        found = choice.faults(self.plan.asked, self.baseline, tried)
        return _rejected(tried, found[0].words) if found else msgspec.structs.replace(tried, verdict="kept")

    def _same(self, made: trials.Made) -> str:
        if made.digest == self.baseline.digest:
            return "the original"
        return next((one.name for one in self.candidates if one.digest == made.digest), "")

    def _glanced(self, made: trials.Made, tried: findings.Candidate) -> findings.Candidate:
        alike = self.trials.likeness(made)
        if not alike.cosine >= LEAST_COSINE and self.plan.asked.drop is not None:
            self._hopeless.add(made.digest)
        return tried

    def _footprint(self, made: trials.Made, tried: findings.Candidate) -> findings.Candidate:
        found = self.trials.footprint(made, peak=self.plan.memory)
        return self._unless(msgspec.structs.replace(tried, footprint=found), "size", "memory")

    def _timed_briefly(self, made: trials.Made, tried: findings.Candidate) -> findings.Candidate:
        first = self.trials.timing(made, self.plan.batches[0], thorough=False)
        tried = msgspec.structs.replace(tried, timings=(first,))
        # Not shown to be as fast is no reason yet: the longer timing may show it.
        return self._unless(tried, "slower") if first.high < 1.0 else tried

    def _judged(self, made: trials.Made, tried: findings.Candidate) -> findings.Candidate:
        if made.digest in self._hopeless:
            return _rejected(tried, "its answers do not resemble the original's on the first rows")
        tried = msgspec.structs.replace(tried, judged=self.trials.judged(made))
        if self.first_verdict_s is None:
            self.first_verdict_s = self.trials.spent
        return self._unless(tried, "accuracy")

    def _timed(self, made: trials.Made, tried: findings.Candidate) -> findings.Candidate:
        found = tuple(self.trials.timing(made, rows, thorough=True) for rows in self.plan.batches)
        return msgspec.structs.replace(tried, timings=found)

    def _unless(self, tried: findings.Candidate, *kinds: choice.Kind) -> findings.Candidate:
        found = choice.faults(self.plan.asked, self.baseline, tried)
        return next((_rejected(tried, fault.words) for fault in found if fault.kind in kinds), tried)

    def lost_accuracy(self, tried: findings.Candidate) -> bool:
        """Whether its answers alone speak against it."""
        if tried.digest in self._hopeless:
            return bool(tried.timings)
        found = choice.faults(self.plan.asked, self.baseline, tried)
        return bool(found) and all(fault.kind == "accuracy" for fault in found)

    def dimensions(self, root: trials.Made, name: str) -> Mapping[str, tuple[Any, ...]]:
        """What may be set of a technique: choices by name, the default first (none: it is free)."""
        technique = self.trials.instruments.techniques[name]
        try:
            return {one.name: one.choices for one in technique.dimensions(self.trials.root(root))}
        except trials.Failed:
            return {}

    def defaults(self, root: trials.Made, name: str) -> dict[str, Any]:
        """Every parameter's default."""
        return {key: choices[0] for key, choices in self.dimensions(root, name).items() if choices}

    def applies(self, root: trials.Made, name: str) -> bool:
        """Whether a technique may be put on a form; if it may not on the original, the notes say why."""
        try:
            why = self.trials.instruments.refusal(name, self.trials.root(root))
        except trials.Failed as e:
            why = str(e)
        note = f"{name}: {why}"
        if why and not root.steps and note not in self.notes:
            self.notes.append(note)
        return not why

    def worth(self, name: str) -> bool:
        """Whether a technique can gain enough; if not, the notes say so."""
        bound = self.plan.bounds.get(name)
        if bound is None or bound >= LEAST_BOUND or not self.plan.for_speed:
            return True
        if not choice.meets(self.plan.asked, self.baseline):
            return True
        note = f"{name}: it could gain at most {bound:.2f}x"
        if note not in self.notes:
            self.notes.append(note)
        return False

    def best(self, within: Sequence[findings.Candidate] | None = None) -> tuple[findings.Candidate, ...]:
        """Those that keep the budget, the best first."""
        tried = [one for one in (self.candidates if within is None else within) if one.verdict == "kept"]
        return choice.ranked(self.plan.asked, self.baseline, tried)

    def promising(self) -> tuple[findings.Candidate, ...]:
        """Those that would be best if their answers were not looked at."""
        asked = msgspec.structs.replace(self.plan.asked, drop=None)
        tried = [one for one in self.candidates if one.timings and one.verdict != "failed" and one.digest]
        return choice.ranked(asked, self.baseline, tried)


def greedy(search: Search) -> None:
    """Defaults first, then the promising ones refined, mended and put on top of each other; then what trains."""
    original = search.trials.original
    # What trains later has most of the time.
    end = search.trials.seconds * (0.4 if _trainable(search) else 1.0)
    for name in search.plan.techniques:
        if search.worth(name) and search.applies(original, name):
            search.attempt(original, name, search.defaults(original, name))
    for tried in search.promising()[:_PROMISING]:
        if search.trials.spent < end:
            refine(search, tried)
    rescue(search)
    stack(search)
    rescue(search)
    train(search)


def refine(search: Search, tried: findings.Candidate) -> findings.Candidate:
    """Coordinate descent over the last step's parameters: each choice that is better stays."""
    *before, last = tried.steps
    root = _root(search, tuple(before))
    best = tried
    for name, choices in search.dimensions(root, last.technique).items():
        for value in choices[1:] if len(choices) > 1 else ():
            parameters = {**best.steps[-1].parameters, name: value}
            found = search.attempt(root, last.technique, parameters)
            if found is not None and _nearer(search, found, best):
                best = found
    return best


def rescue(search: Search) -> None:
    """Has the fastest form that lost accuracy leave its worst layers out, where it would beat what is kept."""
    kept = search.best()
    for tried in search.promising():
        if kept and tried.digest == kept[0].digest:
            return
        *before, last = tried.steps
        root = _root(search, tuple(before))
        if key((last,)) in search.layers or search.time_up or not search.lost_accuracy(tried):
            continue
        if _EXCLUDE not in search.dimensions(root, last.technique):
            continue
        try:
            found = search.trials.rescued(root, last, 0.5 * (search.trials.left - RESERVE * search.trials.seconds))
        except trials.Failed as e:
            search.notes.append(f"{tried.name}: no layer was left out: {e}")
            continue
        if found.excluded:
            mended = forms.Step(last.technique, {**last.parameters, _EXCLUDE: list(found.excluded)})
            search.attempt(root, mended.technique, mended.parameters)
            search.layers[key((mended,))] = found.layers
        search.layers[key((last,))] = found.layers
        return


def stack(search: Search) -> None:
    """Puts the techniques that paid on top of the forms that hold."""
    paid = [one for one in search.promising() if len(one.steps) == 1 and not search.made(one).trained]
    steps: dict[str, forms.Step] = {}
    for one in paid:
        steps.setdefault(one.steps[0].technique, one.steps[0])
    count = 0
    for root, step in _pairs(search, steps):
        if search.time_up or count >= _STACKED:
            return
        if search.applies(root, step.technique):
            parameters = {key: value for key, value in step.parameters.items() if key != _EXCLUDE}
            count += search.attempt(root, step.technique, parameters) is not None


def train(search: Search) -> None:
    """Each technique that trains, on the original and then on what held; the others on top of each."""
    original = search.trials.original
    names = _trainable(search)
    for done, name in enumerate(names):
        share = 0.6 * (search.trials.left - RESERVE * search.trials.seconds) / (len(names) - done)
        found = search.attempt(original, name, search.defaults(original, name), seconds=share)
        if found is not None and found.judged is not None:
            _on_top(search, found)
    for tried in search.best():
        if search.time_up:
            return
        if len(tried.steps) == 1 and search.made(tried).trained:
            _further(search, tried, names)


def _trainable(search: Search) -> list[str]:
    return [name for name in search.plan.training if search.applies(search.trials.original, name)]


def _on_top(search: Search, tried: findings.Candidate) -> None:
    """What needs no training, on a form that training made; its layers left out where that mends it."""
    if search.lost_accuracy(tried):
        return
    root = search.made(tried)
    for name in search.plan.techniques:
        if search.time_up:
            return
        if search.worth(name) and search.applies(root, name):
            known = next((one for one in search.promising() if len(one.steps) == 1 and one.name == name), None)
            parameters = dict(known.steps[0].parameters) if known else search.defaults(root, name)
            parameters.pop(_EXCLUDE, None)
            search.attempt(root, name, parameters)


def _further(search: Search, tried: findings.Candidate, names: Sequence[str]) -> None:
    """Another technique that trains, on top of one that held; then its other strengths."""
    root = search.made(tried)
    for name in names:
        share = 0.5 * (search.trials.left - RESERVE * search.trials.seconds)
        if name != tried.steps[-1].technique and not search.time_up and search.applies(root, name):
            search.attempt(root, name, search.defaults(root, name), seconds=share)
    original, last = search.trials.original, tried.steps[-1]
    for key, choices in search.dimensions(original, last.technique).items():
        for value in choices[1:]:
            share = 0.5 * (search.trials.left - RESERVE * search.trials.seconds)
            if search.time_up:
                return
            found = search.attempt(original, last.technique, {**last.parameters, key: value}, seconds=share)
            if found is not None and found.verdict == "kept":
                _on_top(search, found)


def _pairs(search: Search, steps: Mapping[str, forms.Step]) -> Iterator[tuple[trials.Made, forms.Step]]:
    """Forms that hold (or lose nothing), the best first, each with the steps that it has not had."""
    asked = search.plan.asked
    whole = [
        one
        for one in search.candidates
        if one.judged is not None
        and all(fault.kind in ("gain", "slower") for fault in choice.faults(asked, search.baseline, one))
    ]
    for one in sorted(whole, key=lambda each: -choice.gain(asked.goal, search.baseline, each)):
        had = {step.technique for step in one.steps}
        for name, step in steps.items():
            if name not in had:
                yield search.made(one), step


def _root(search: Search, steps: tuple[forms.Step, ...]) -> trials.Made:
    if not steps:
        return search.trials.original
    return search.made(next(one for one in search.candidates if one.steps == steps))


def _nearer(search: Search, found: findings.Candidate, best: findings.Candidate) -> bool:
    """Whether it is better than the best: what was not judged has fewer faults than it deserves."""
    if found.judged is None or not found.timings:
        return False
    return best.judged is None or choice.better(search.plan.asked, search.baseline, found, best)


def _rejected(tried: findings.Candidate, why: str) -> findings.Candidate:
    return msgspec.structs.replace(tried, verdict="rejected", why=f"{why[0].upper()}{why[1:]}.")


def told(tried: findings.Candidate) -> str:
    """A candidate's figures in one line."""
    parts = [f"{one.speedup:.2f}x at {choice.told_rows(one.rows)}" for one in tried.timings]
    if tried.judged is not None:
        parts.append(choice.told_drop(tried.judged.drop))
    if tried.footprint is not None:
        parts.append(choice.megabytes(tried.footprint.files))
    return ", ".join(parts)


def key(steps: tuple[forms.Step, ...]) -> bytes:
    """What tells steps from others."""
    return msgspec.json.encode(steps, order="sorted")

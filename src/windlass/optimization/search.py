"""The candidates of a study as they are tried: made, measured stage by stage, and given up for a reason.

What is tried, and in which order, is told by `search_greedy` and, where it is asked for, by `search_optuna`. Must never
measure at length what a cheaper check has ruled out, start what there is no time for, nor leave a form without the
reason for its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from windlass.optimization import budget, choice, findings, phrases, trials
from windlass.optimization import form as forms

# A technique that can gain less than this by Amdahl's law is not tried for speed.
LEAST_BOUND = 1.1
# Answers this far from the original's are not judged at length; leaving layers out may still mend them.
LEAST_COSINE = 0.5
# What is kept of the time for confirming the chosen form and telling of it.
RESERVE = 0.15


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
        started, named = self.trials.spent, self.name(steps)
        self._say(f"{named}; {phrases.duration(self.trials.left)} left")
        # A form of these steps may have no digest yet: what failed is told by its steps.
        tried = findings.Candidate("", named, steps, "failed", "")
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

    def name(self, steps: tuple[forms.Step, ...]) -> str:
        """What people read: each technique with the parameters that are not the original's defaults."""
        defaults = {step.technique: self.defaults(self.trials.original, step.technique) for step in steps}
        return " + ".join(phrases.step(one, defaults[one.technique]) for one in steps)

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
        hoped = {one.digest: one for one in tried}
        return tuple(hoped[one.digest] for one in choice.ranked(asked, self.baseline, [_hoped(one) for one in tried]))


def _hoped(tried: findings.Candidate) -> findings.Candidate:
    """As fast as it was measured: a brief look shows no more, on a machine that has other work."""
    timings = tuple(msgspec.structs.replace(one, low=one.speedup) for one in tried.timings)
    return msgspec.structs.replace(tried, timings=timings)


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

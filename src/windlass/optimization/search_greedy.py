"""The greedy search: which forms are tried, in which order.

Called by `outcome` for every study that replays no recipe. Must never start what there is no time for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from windlass.optimization import choice, findings, trials
from windlass.optimization import form as forms
from windlass.optimization import search as searches

_PROMISING = 2
_STACKED = 6
_EXCLUDE = "exclude"


def greedy(search: searches.Search) -> None:
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


def refine(search: searches.Search, tried: findings.Candidate) -> findings.Candidate:
    """Coordinate descent over the last step's parameters: each choice that is better stays."""
    *before, last = tried.steps
    root = _root(search, tuple(before))
    best = tried
    for name, choices in search.dimensions(root, last.technique).items():
        for value in choices[1:] if len(choices) > 1 else ():
            parameters = {**best.steps[-1].parameters, name: value}
            found = search.attempt(root, last.technique, parameters)
            if found is None:
                return best
            if _nearer(search, found, best):
                best = found
            elif _number(value) and search.lost_accuracy(found):
                # Numbers are in the order of their strength.
                break
    return best


def rescue(search: searches.Search) -> None:
    """Has the fastest form that lost accuracy leave its worst layers out, where it would beat what is kept."""
    kept = search.best()
    for tried in search.promising():
        if kept and tried.digest == kept[0].digest:
            return
        *before, last = tried.steps
        root = _root(search, tuple(before))
        if searches.key((last,)) in search.layers or search.time_up or not search.lost_accuracy(tried):
            continue
        if _EXCLUDE not in search.dimensions(root, last.technique):
            continue
        try:
            share = 0.5 * (search.trials.left - searches.RESERVE * search.trials.seconds)
            found = search.trials.rescued(root, last, share, str(search.plan.asked.drop))
        except trials.Failed as e:
            search.notes.append(f"{tried.name}: no layer was left out: {e}")
            continue
        if found.excluded:
            mended = forms.Step(last.technique, {**last.parameters, _EXCLUDE: list(found.excluded)})
            search.attempt(root, mended.technique, mended.parameters)
            search.layers[searches.key((mended,))] = found.layers
        search.layers[searches.key((last,))] = found.layers
        return


def stack(search: searches.Search) -> None:
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


def train(search: searches.Search) -> None:
    """Each technique that trains, on the original and then on what held; the others on top of each."""
    original = search.trials.original
    names = _trainable(search)
    for done, name in enumerate(names):
        share = 0.6 * (search.trials.left - searches.RESERVE * search.trials.seconds) / (len(names) - done)
        found = search.attempt(original, name, search.defaults(original, name), seconds=share)
        if found is not None and found.judged is not None:
            _on_top(search, found)
    for tried in search.best():
        if search.time_up:
            return
        if len(tried.steps) == 1 and search.made(tried).trained:
            _further(search, tried, names)


def _trainable(search: searches.Search) -> list[str]:
    return [name for name in search.plan.training if search.applies(search.trials.original, name)]


def _on_top(search: searches.Search, tried: findings.Candidate) -> None:
    """What needs no training, on a form that training made; its layers left out where that mends it."""
    if search.lost_accuracy(tried):
        return
    root = search.made(tried)
    for name in search.plan.techniques:
        if search.time_up:
            return
        if search.worth(name) and search.applies(root, name):
            known = next((one for one in search.promising() if [step.technique for step in one.steps] == [name]), None)
            parameters = dict(known.steps[0].parameters) if known else search.defaults(root, name)
            parameters.pop(_EXCLUDE, None)
            search.attempt(root, name, parameters)


def _further(search: searches.Search, tried: findings.Candidate, names: Sequence[str]) -> None:
    """Another technique that trains, on top of one that held; then its other strengths."""
    root = search.made(tried)
    for name in names:
        share = 0.5 * (search.trials.left - searches.RESERVE * search.trials.seconds)
        if name != tried.steps[-1].technique and not search.time_up and search.applies(root, name):
            search.attempt(root, name, search.defaults(root, name), seconds=share)
    original, last = search.trials.original, tried.steps[-1]
    for key, choices in search.dimensions(original, last.technique).items():
        for value in choices[1:]:
            share = 0.5 * (search.trials.left - searches.RESERVE * search.trials.seconds)
            if search.time_up:
                return
            found = search.attempt(original, last.technique, {**last.parameters, key: value}, seconds=share)
            if found is not None and found.verdict == "kept":
                _on_top(search, found)
            elif found is not None and _number(value) and search.lost_accuracy(found):
                break


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pairs(search: searches.Search, steps: Mapping[str, forms.Step]) -> Iterator[tuple[trials.Made, forms.Step]]:
    """Forms that gain and hold (or may), the best first, each with the steps that it has not had."""
    asked = search.plan.asked
    whole = [
        one
        for one in search.candidates
        if one.judged is not None
        and choice.gained(asked, search.baseline, one)
        and all(fault.kind in ("gain", "slower") for fault in choice.faults(asked, search.baseline, one))
    ]
    for one in sorted(whole, key=lambda each: -choice.gain(asked.goal, search.baseline, each)):
        had = {step.technique for step in one.steps}
        for name, step in steps.items():
            if name not in had:
                yield search.made(one), step


def _root(search: searches.Search, steps: tuple[forms.Step, ...]) -> trials.Made:
    if not steps:
        return search.trials.original
    return search.made(next(one for one in search.candidates if one.steps == steps))


def _nearer(search: searches.Search, found: findings.Candidate, best: findings.Candidate) -> bool:
    """Whether it is better than the best: what was not judged has fewer faults than it deserves."""
    if found.judged is None or not found.timings:
        return False
    return best.judged is None or choice.better(search.plan.asked, search.baseline, found, best)

"""The sentences of a study: its verdict, why each form was kept or rejected, what it will take.

Called by `study`. Pure: made from findings alone. Must never say more than was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from windlass.optimization import budget, choice, findings, form

# So many layers are named, of more only the number is.
_NAMED = 2


def optimized(asked: budget.Budget, baseline: findings.Candidate, chosen: findings.Candidate) -> str:
    """What the chosen form is, in one sentence."""
    parts = [_speed(chosen.timings[0])]
    if baseline.footprint and chosen.footprint:
        parts.append(_size(baseline.footprint.files, chosen.footprint.files))
    parts.append(_answers(asked, chosen))
    return f"{chosen.name} is {'; '.join(parts)}."


def kept(
    asked: budget.Budget,
    baseline: findings.Candidate,
    tried: Sequence[findings.Candidate],
    profile: findings.Profile | None,
) -> str:
    """Why the version stays as it is, in one sentence."""
    if not tried and profile is not None and not profile.worth:
        return f"Keep it as it is: {_inside(profile.words)}."
    measured = [one for one in tried if one.timings]
    if not measured:
        how = f"none of {len(tried)} forms could be measured" if tried else "no technique applies to it"
        return f"Keep it as it is: {how}{f' ({tried[0].name}: {_inside(tried[0].why)})' if tried else ''}."
    # What is faster or smaller tells more than what changes nothing.
    gained = [one for one in measured if one.judged is not None and choice.gained(asked, baseline, one)]
    near = choice.nearest(asked, baseline, gained or measured)
    best = near[0] if near is not None else measured[0]
    return f"Keep it as it is: of {len(tried)} forms the nearest is {best.name}: {_inside(best.why)}."


def missed(asked: budget.Budget, baseline: findings.Candidate, tried: Sequence[findings.Candidate]) -> tuple[str, str]:
    """The sentence of a budget that nothing meets, and what comes nearest and by how much."""
    own = choice.limits(asked, baseline)
    near = choice.nearest(asked, baseline, tried)
    theirs = choice.excess(own)
    if near is None or (own and theirs <= choice.excess(near[1])):
        nearest = f"the original: {'; '.join(fault.words for fault in own)}"
    else:
        nearest = f"{near[0].name}: {'; '.join(fault.words for fault in near[1])}"
    return f"Nothing meets the budget; nearest is {nearest}.", nearest


def explained(
    asked: budget.Budget,
    baseline: findings.Candidate,
    tried: Sequence[findings.Candidate],
    chosen: findings.Candidate | None,
    front: Sequence[str],
) -> tuple[findings.Candidate, ...]:
    """Every candidate with its verdict and the reason for it."""
    found = []
    for one in tried:
        if chosen is not None and one.steps == chosen.steps:
            found.append(msgspec.structs.replace(chosen, verdict="chosen", why=_why_chosen(asked)))
        elif one.why or one.verdict != "kept" or chosen is None:
            found.append(one)
        else:
            found.append(_beside(asked, baseline, one, chosen, one.digest in front))
    return tuple(found)


def unconfirmed(found: Sequence[choice.Fault]) -> str:
    """Why a form that kept the budget is not chosen after all."""
    return f"When it was measured anew, on rows that no choice had seen: {'; '.join(one.words for one in found)}."


def passed_over(base: findings.Candidate | None, count: int) -> str:
    """Why a form that kept the budget was not measured anew: others had failed there."""
    if base is not None:
        return f"It was not measured anew: {base.name}, which it is made of, failed there."
    return f"It was not measured anew: {count} better ones failed there, and each try asks for more proof."


def estimate(count: int, each_s: float, most_s: float, training: Sequence[str]) -> str:
    """How long a study takes, and why, before it begins."""
    total = min(count * each_s, most_s)
    text = f"about {duration(total)}: some {count} forms, each about {duration(each_s)} to make, time and judge"
    if training:
        text = f"up to {duration(most_s)}, as {', '.join(training)} train{'s' if len(training) == 1 else ''}; {text}"
    return f"{text}; at most {duration(most_s)}, and then what is chosen is packaged and checked"


def step(one: form.Step, defaults: Mapping[str, Any]) -> str:
    """A technique with the parameters that are not its defaults."""
    told = [f"{name} {_told(value)}" for name, value in one.parameters.items() if value != defaults.get(name)]
    return f"{one.technique} ({', '.join(told)})" if told else one.technique


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        named = [str(each) for each in value]
        return ", ".join(named) if len(named) <= _NAMED else f"{len(named)} layers"
    return str(value)


def _why_chosen(asked: budget.Budget) -> str:
    best = {"latency": "the fastest", "throughput": "the fastest at its largest batch", "size": "the smallest"}
    what = best.get(asked.goal, "what takes the least memory")
    return f"It is {what} of those that keep the budget, confirmed on rows that no choice had seen."


def _beside(
    asked: budget.Budget,
    baseline: findings.Candidate,
    one: findings.Candidate,
    chosen: findings.Candidate,
    in_front: bool,
) -> findings.Candidate:
    ours, theirs = (choice.gain(asked.goal, baseline, each) for each in (one, chosen))
    words = f"the chosen form is as good at the goal, {asked.goal}, and loses no more"
    if ours < theirs:
        words = f"the chosen form is better at the goal, {asked.goal}: {theirs:.2f}x against {ours:.2f}x"
    if not in_front:
        return msgspec.structs.replace(one, verdict="rejected", why=f"{words[0].upper()}{words[1:]}.")
    return msgspec.structs.replace(one, why=f"It keeps the budget and is in the Pareto set; {words}.")


def _speed(one: findings.Timing) -> str:
    words = f"{one.speedup:.2f} times as fast at {choice.told_rows(one.rows)}"
    if one.low < 1.0 <= one.high:
        words = f"about as fast at {choice.told_rows(one.rows)}, though that was not proven, which the goal allows"
    words = f"{words} (95 %: {one.low:.2f} to {one.high:.2f}; {one.baseline_ms:.3g} to {one.candidate_ms:.3g} ms)"
    return f"{words}, so slower, which the goal allows" if one.high < 1.0 else words


def _size(before: int, after: int) -> str:
    share = 100 * (1 - after / before)
    if abs(share) < 1:
        return "as large"
    return f"{abs(share):.0f} % {'smaller' if share > 0 else 'larger'} ({choice.megabytes(after)})"


def _answers(asked: budget.Budget, chosen: findings.Candidate) -> str:
    judged = chosen.confirmed or chosen.judged
    if judged is None:
        return "its answers were not judged"
    drop = judged.drop
    what = drop.name if judged.labelled else f"{drop.name} with the original (there are no labels)"
    seen = f"on {drop.rows} rows that no choice had seen"
    if judged.synthetic:
        seen = f"on {drop.rows} made-up rows, as no data was given"
    limit = choice.allowed(asked, judged)
    text = f"{choice.told_drop(drop, what)} {seen}"
    text = f"{text} ({'no limit was set' if limit is None else f'{limit:.3g} is allowed'})"
    if judged.attacked is not None:
        text = f"{text}; on the same rows with adversarial noise {choice.told_drop(judged.attacked)}"
    return text


def _inside(why: str) -> str:
    text = why.rstrip(".")
    return f"{text[:1].lower()}{text[1:]}"

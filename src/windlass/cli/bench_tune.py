"""`windlass bench --tune`: tries other settings of an endpoint against its own, in turn, and says which pays.

Used by `bench`. Must never recommend what lies within the spread of the rounds: then it says to leave it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from windlass import references, settings
from windlass.cli import bench_subjects, output
from windlass.client import capacity, figures, processes, report
from windlass.types import spec

_UNDER_WAY = 64


class Trial(msgspec.Struct, frozen=True):
    """A setting that was tried: its rounds' answers a second, and their ratio to the settings in force."""

    settings: dict[str, float | str]
    rounds: tuple[float, ...]
    gain: figures.Figure

    @property
    def told(self) -> str:
        """The setting as text."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items()) or "as it is"


def candidates(endpoint: spec.Endpoint, cores: int) -> list[dict[str, float | str]]:
    """Settings to try, one thing at a time: workers (that of the spec), threads, placement, batch limits.

    The first is as it is: a worker for each of `cores`.
    """
    found: list[dict[str, float | str]] = [{}]
    found += [{"workers": count} for count in sorted({1, cores // 2}) if 0 < count < cores]
    found += [{"threads": count} for count in sorted({1, cores}) if count != endpoint.threads]
    found += [{"placement": where} for where in ("inline", "thread") if where != endpoint.placement]
    found += [{"max_batch": rows} for rows in (8, 32, 128) if rows != endpoint.max_batch]
    return found


def tune(
    configuration: settings.Settings,
    ref: str,
    asking: bench_subjects.Asking,
    method: capacity.Method,
    say: Callable[[str], None],
) -> list[Trial]:
    """Every candidate, measured in turn; the first is the endpoint as it is."""
    where = bench_subjects.cores(method.generators)
    endpoint = references.endpoints(configuration, [ref])[0]
    tried = candidates(endpoint, max(1, len(where.server)))
    came: list[list[float]] = [[] for _ in tried]
    for turn in range(method.rounds):
        for wanted, rounds in zip(tried, came, strict=True):
            changed, workers = changed_by(endpoint, wanted)
            with bench_subjects.started(configuration, ref, asking, where, changed, workers) as subject:
                planned = capacity.planned(subject, "closed", _UNDER_WAY, method.seconds)
                done = processes.run(planned, generators=method.generators, cores=method.cores)
            _sound(done)
            rounds.append(done.throughput)
            say(f"{wanted or 'as it is'}, round {turn + 1}: {done.throughput:,.0f} answers/s")
    return [
        Trial(wanted, tuple(rounds), figures.ratio(rounds, came[0])) for wanted, rounds in zip(tried, came, strict=True)
    ]


def changed_by(endpoint: spec.Endpoint, wanted: dict[str, float | str]) -> tuple[spec.Endpoint, int]:
    """The endpoint with these settings, and the number of workers (0: as it is)."""
    fields = {name: value for name, value in wanted.items() if name != "workers"}
    changed = msgspec.convert({**msgspec.to_builtins(endpoint), **fields}, spec.Endpoint)
    return changed, int(wanted.get("workers", 0))


def _sound(done: report.Report) -> None:
    """`GateRefused` if it was the generator that was measured."""
    if done.doubt:
        raise capacity.refusal(done.doubt)


def best(trials: list[Trial]) -> Trial | None:
    """The setting whose gain is certain: even its worst round beats the best one of the settings in force."""
    sure = [trial for trial in trials[1:] if min(trial.rounds) > max(trials[0].rounds) and trial.gain.low > 1]
    return max(sure, key=lambda trial: trial.gain.value, default=None)


def told(trials: list[Trial]) -> tuple[dict[str, Any], str]:
    """The result for programs, and for people."""
    found = best(trials)
    lines = [
        (
            t.told,
            f"{figures.over(t.rounds).value:,.0f}",
            f"{min(t.rounds):,.0f}-{max(t.rounds):,.0f}",
            f"{t.gain.value:.2f}",
        )
        for t in trials
    ]
    text = output.table(("setting", "answers/s", "spread", "gain"), lines)
    if found is None:
        text += "\nLeave it: no setting is better than the spread of the rounds."
    else:
        gain = found.gain
        text += f"\nSet {found.told}: {gain.value:.2f} times the answers ({gain.low:.2f}-{gain.high:.2f})."
    return {"trials": trials, "best": None if found is None else found.settings}, text

"""The outcomes of each arm as one document: what a rollout decides on.

Made for the operator's listener from the counters of one worker or of all. Must never mix what was drawn with what was
chosen: pinned and named requests are not evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from windlass import telemetry
from windlass.serving.metrics import counters
from windlass.types import spec

_OURS = telemetry.SHADOWED, telemetry.SHADOW_ROWS, telemetry.EXPOSURES


class Drawn(msgspec.Struct, frozen=True):
    """What was in force under one generation of an endpoint's weights.

    `shares` are the arms' in percent; `remembered`: the first bad events of its sticky keys are counted.
    """

    shares: dict[str, float]
    remembered: bool = False


class Known(msgspec.Struct, frozen=True):
    """What is known beside the counts: the endpoints in force and the generations of their weights, and the past ones.

    `drawn(endpoint)` has what was in force by generation; `first_bad(endpoint, arm, generation)` counts sticky keys.
    `instance` is the server's life, over which all counts are cumulative; `generation` is the spec's.
    """

    instance: str
    generation: int
    endpoints: Iterable[spec.Endpoint]
    weights: Mapping[str, int]
    drawn: Callable[[str], Mapping[int, Drawn]]
    first_bad: Callable[[str, str, int], int]


def document(series: counters.Counters, known: Known) -> dict[str, Any]:
    """Per endpoint: its shares, the outcomes by arm and generation of the weights, its shadow's and its log's counts.

    All counts are cumulative over the `instance`. Those under `chosen` (pins, names, versions) have no generation and
    are no evidence; `alone` is what a version answered while it had the endpoint to itself; `earlier` is what was drawn
    under generations that are told apart no more. `bounds` are the upper ends of the latencies' buckets in seconds.
    """
    return {
        "instance": known.instance,
        "generation": known.generation,
        "bounds": list(counters.SECONDS),
        "endpoints": {endpoint.name: _endpoint(series, endpoint, known) for endpoint in known.endpoints},
    }


def _endpoint(series: counters.Counters, endpoint: spec.Endpoint, known: Known) -> dict[str, Any]:
    name, drawn = endpoint.name, known.drawn(endpoint.name)
    found: dict[str, dict[tuple[str, int], list[counters.Requests]]]
    found = {"outcomes": {}, "chosen": {}, "alone": {}, "earlier": {}}
    for (model, version, _, arm, text), one in series.requests.items():
        if model == name:
            generation = int(text)
            told_apart = generation in drawn
            kind = "outcomes" if told_apart else "earlier" if generation else "chosen" if arm else "alone"
            found[kind].setdefault((arm or version, generation if told_apart else 0), []).append(one)
    said = {
        kind: [{"arm": arm, **_counts(every)} for (arm, _), every in sorted(arms.items(), key=_by_name)]
        for kind, arms in found.items()
        if kind != "outcomes"
    }
    said["outcomes"] = [
        {
            "arm": arm,
            "generation": generation,
            "share": drawn[generation].shares.get(arm, 0.0),
            **_counts(every),
            "first_bad": known.first_bad(name, arm, generation) if drawn[generation].remembered else None,
        }
        for (arm, generation), every in sorted(found["outcomes"].items(), key=_by_name)
    ]
    shadowed, rows, exposures = (_labelled(series.single["counter"], metric, name) for metric in _OURS)
    shares = drawn[known.weights[name]].shares if known.weights.get(name) in drawn else {}
    return {
        "shares": shares,
        "weights": known.weights.get(name, 0),
        **said,
        "shadow": shadowed | rows,
        "exposures": exposures,
    }


def _by_name(item: tuple[tuple[str, int], Any]) -> tuple[str, int]:
    return item[0]


def _counts(every: Sequence[counters.Requests]) -> dict[str, Any]:
    """Over all protocols. Latencies (of the ok ones) are counted up to each bound, the last above all of them."""
    outcomes = [sum(counts) for counts in zip(*(one.outcomes for one in every), strict=True)]
    latencies = [sum(counts) for counts in zip(*(one.latency.counts for one in every), strict=True)]
    return {
        "admitted": sum(one.admitted[0] for one in every),
        **dict(zip(counters.OUTCOMES, outcomes, strict=True)),
        "slow": sum(one.slow[0] for one in every),
        "latency_s": {"bounds": list(counters.SECONDS), "counts": latencies},
    }


def _labelled(single: Mapping[tuple[str, ...], memoryview], metric: telemetry.Metric, endpoint: str) -> dict[str, int]:
    """Counts of an endpoint by their last label, over all others."""
    found: dict[str, int] = {}
    for key, slot in single.items():
        if key[:2] == (metric.name, endpoint):
            found[key[-1]] = found.get(key[-1], 0) + slot[0]
    return found

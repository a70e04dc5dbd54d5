"""The outcomes of each arm as one document: what a rollout decides on.

Made for the operator's listener from the counters of one worker or of all. Must never mix what was drawn with what was
chosen: pinned and named requests are not evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from windlass import telemetry
from windlass.serving.metrics import counters
from windlass.types import spec


def document(series: counters.Counters, endpoints: Iterable[spec.Endpoint], generation: int) -> dict[str, Any]:
    """Per endpoint: its shares, the outcomes by arm and generation of the weights, its shadow's and its log's counts.

    All counts are cumulative. `generation` is the spec's. Counts under `chosen` (pins, names, versions) have no
    generation and are no evidence; those of the last few generations are told apart, all before are under `earlier`.
    """
    return {"generation": generation, "endpoints": {e.name: _endpoint(series, e) for e in endpoints}}


def _endpoint(series: counters.Counters, endpoint: spec.Endpoint) -> dict[str, Any]:
    several = len(endpoint.arms) > 1 or endpoint.shadow is not None
    shares = {arm.name: arm.share if len(endpoint.arms) > 1 else 100.0 for arm in endpoint.arms} if several else {}
    found = series.arms(endpoint.name)
    keys = sorted(key for key in found if key[0])
    single = series.single["counter"]
    return {
        "shares": shares,
        "outcomes": [_arm(*key, found[key]) for key in keys if key[1] > 0],
        "chosen": [_arm(*key, found[key]) for key in keys if not key[1]],
        "earlier": [_arm(*key, found[key]) for key in keys if key[1] < 0],
        "shadow": _labelled(single, telemetry.SHADOWED, endpoint.name)
        | _labelled(single, telemetry.SHADOW_ROWS, endpoint.name),
        "exposures": _labelled(single, telemetry.EXPOSURES, endpoint.name),
    }


def _arm(arm: str, generation: int, every: Sequence[counters.Requests]) -> dict[str, Any]:
    """Over all protocols. Latencies (of the ok ones) are counted up to each bound, the last above all of them."""
    outcomes = [sum(counts) for counts in zip(*(one.outcomes for one in every), strict=True)]
    latencies = [sum(counts) for counts in zip(*(one.latency.counts for one in every), strict=True)]
    return {
        "arm": arm,
        "generation": generation,
        "admitted": sum(one.admitted[0] for one in every),
        **dict(zip(counters.OUTCOMES, outcomes, strict=True)),
        "latency_s": {"bounds": list(counters.SECONDS), "counts": latencies},
    }


def _labelled(single: Mapping[tuple[str, ...], memoryview], metric: telemetry.Metric, endpoint: str) -> dict[str, int]:
    """Counts of an endpoint by their last label, over all others."""
    found: dict[str, int] = {}
    for key, slot in single.items():
        if key[:2] == (metric.name, endpoint):
            found[key[-1]] = found.get(key[-1], 0) + slot[0]
    return found

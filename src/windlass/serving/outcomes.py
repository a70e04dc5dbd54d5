"""The outcomes of each arm as one document: what a rollout decides on.

Made for the operator's listener from the counters of one worker or of all. Must never mix what was drawn with what was
chosen: pinned and named requests are not evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from windlass import telemetry
from windlass.serving import counters
from windlass.types import spec


def document(series: counters.Counters, endpoints: Iterable[spec.Endpoint], generation: int) -> dict[str, Any]:
    """Per endpoint: its shares, the outcomes by arm and generation of the weights, its shadow's and its log's counts.

    All counts are cumulative. `generation` is the spec's. Counts under `chosen` (pins, names, versions) have no
    generation and are no evidence.
    """
    return {"generation": generation, "endpoints": {e.name: _endpoint(series, e) for e in endpoints}}


def _endpoint(series: counters.Counters, endpoint: spec.Endpoint) -> dict[str, Any]:
    drawn: dict[tuple[str, str, int], dict[str, Any]] = {}
    chosen: dict[tuple[str, str, int], dict[str, Any]] = {}
    for (model, version, _, arm, weights), found in series.requests.items():
        if model == endpoint.name and arm:
            kept = drawn if int(weights) else chosen
            _add(kept, (arm, version, int(weights)), found)
    several = len(endpoint.arms) > 1 or endpoint.shadow is not None
    shares = {arm.name: arm.share if len(endpoint.arms) > 1 else 100.0 for arm in endpoint.arms} if several else {}
    single = series.single["counter"]
    return {
        "shares": shares,
        "outcomes": [drawn[key] for key in sorted(drawn)],
        "chosen": [chosen[key] for key in sorted(chosen)],
        "shadow": _labelled(single, telemetry.SHADOWED, endpoint.name)
        | _labelled(single, telemetry.SHADOW_ROWS, endpoint.name),
        "exposures": _labelled(single, telemetry.EXPOSURES, endpoint.name),
    }


def _add(kept: dict[tuple[str, str, int], dict[str, Any]], key: tuple[str, str, int], found: counters.Requests) -> None:
    """Over all protocols."""
    one = kept.setdefault(
        key,
        {
            "arm": key[0],
            "version": key[1],
            "generation": key[2],
            "admitted": 0,
            **dict.fromkeys(counters.OUTCOMES, 0),
            "latency_s": {"bounds": list(counters.SECONDS), "counts": [0] * (len(counters.SECONDS) + 1)},
        },
    )
    one["admitted"] += found.admitted[0]
    for name, count in zip(counters.OUTCOMES, found.outcomes, strict=True):
        one[name] += count
    spread = one["latency_s"]
    spread["counts"] = [a + b for a, b in zip(spread["counts"], found.latency.counts, strict=True)]


def _labelled(single: Mapping[tuple[str, ...], memoryview], metric: telemetry.Metric, endpoint: str) -> dict[str, int]:
    """Counts of an endpoint by their last label, over all others."""
    found: dict[str, int] = {}
    for key, slot in single.items():
        if key[:2] == (metric.name, endpoint):
            found[key[-1]] = found.get(key[-1], 0) + slot[0]
    return found

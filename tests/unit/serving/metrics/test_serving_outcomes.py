"""The document that a rollout decides on: drawn apart from chosen, over all protocols."""

from __future__ import annotations

from windlass import telemetry
from windlass.serving.metrics import counters, outcomes
from windlass.types import spec


def test_outcomes_are_told_by_arm_and_generation() -> None:
    series = counters.Counters()
    for protocol, arm, generation, ok, failed in (
        ("oip", "old", 3, 5, 1),
        ("oip-grpc", "old", 3, 2, 0),
        ("oip", "old", 4, 7, 0),
        ("oip", "new", 4, 1, 1),
        ("oip", "new", 0, 9, 0),
        ("oip", "old", 2, 30, 0),
        ("oip", "old", counters.EARLIER, 3, 0),
        ("oip", "", 0, 4, 0),
    ):
        found = series.requests_of("m", "1", protocol, arm, generation)
        found.outcomes[counters.OK] += ok
        found.outcomes[counters.FAILED] += failed
        found.admitted[0] += ok + failed
        found.slow[0] += failed
        found.latency.observe(0.003)
    series.requests_of("other", "1", "oip", "old", 3).outcomes[counters.OK] += 100
    series.counter(telemetry.EXPOSURES, "m", "noted")[0] += 26
    series.counter(telemetry.SHADOWED, "m", "s", "compared")[0] += 2
    arms = (spec.Arm("d", "1", id="old", share=90), spec.Arm("e", "2", id="new", share=10))
    single = spec.Endpoint("single", arms[:1])
    # What was in force under generation 2 is forgotten; under 3, one arm was mirrored.
    drawn = {
        "m": {3: outcomes.Drawn({"old": 100.0}), 4: outcomes.Drawn({"old": 90.0, "new": 10.0}, remembered=True)},
        "single": {2: outcomes.Drawn({"old": 100.0})},
    }
    known = outcomes.Known(
        "life", 7, (spec.Endpoint("m", arms), single), {"m": 4, "single": 2}, drawn.__getitem__, lambda *_: 5
    )
    told = outcomes.document(series, known)
    assert (told["instance"], told["generation"], told["bounds"]) == ("life", 7, list(counters.SECONDS))
    assert told["endpoints"]["single"] == {
        "shares": {"old": 100.0},
        "weights": 2,
        "outcomes": [],
        "chosen": [],
        "alone": [],
        "earlier": [],
        "shadow": {},
        "exposures": {},
    }
    found_m = told["endpoints"]["m"]
    assert (found_m["shares"], found_m["weights"]) == ({"old": 90, "new": 10}, 4)
    fields = ("arm", "generation", "share", "first_bad", "admitted", "ok", "failed", "slow")
    assert [tuple(one[field] for field in fields) for one in found_m["outcomes"]] == [
        ("new", 4, 10.0, 5, 2, 1, 1, 1),
        ("old", 3, 100.0, None, 8, 7, 1, 1),
        ("old", 4, 90.0, 5, 7, 7, 0, 0),
    ]
    assert [(o["arm"], o["ok"]) for o in found_m["chosen"]] == [("new", 9)]
    assert [(o["arm"], o["ok"]) for o in found_m["alone"]] == [("1", 4)]
    assert [(o["arm"], o["ok"]) for o in found_m["earlier"]] == [("old", 33)]
    assert sum(found_m["outcomes"][1]["latency_s"]["counts"]) == 2
    assert (found_m["exposures"], found_m["shadow"]) == ({"noted": 26}, {"compared": 2})

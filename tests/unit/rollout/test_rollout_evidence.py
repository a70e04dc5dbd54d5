"""What a judgement says of counts: harm, no harm or nothing, in words, and never success of silence."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.rollout import evidence
from windlass.types import deployment

Counts = deployment.Counts
GUARD = evidence.Guard(slow_ms=50.0)


def segment(share: float, old: Counts, new: Counts, generation: int = 2) -> deployment.Segment:
    return deployment.Segment(generation, {"3": 100.0 - share, "4": share}, {"3": old, "4": new})


def seen(*segments: deployment.Segment, **more: object) -> deployment.Observed:
    return msgspec.structs.replace(deployment.Observed(1.0, segments=segments), **more)


def arm(admitted: int, **bad: int) -> Counts:
    ended = sum(bad.get(name, 0) for name in ("failed", "expired", "rejected", "cancelled"))
    return msgspec.structs.replace(Counts(admitted=admitted, ok=admitted - ended), **bad)


def judge(observed: deployment.Observed, guard: evidence.Guard = GUARD, began: int = 1) -> evidence.Judgement:
    return evidence.judge(guard, "3", "4", observed, began)


def finding(judgement: evidence.Judgement, metric: str) -> evidence.Finding:
    return next(found for found in judgement.findings if found.metric == metric)


HEALTHY = segment(50.0, arm(10_000, failed=5, slow=500), arm(10_000, failed=5, slow=500))


def test_harm_is_told_with_its_numbers() -> None:
    found = judge(seen(segment(10.0, arm(900, failed=3), arm(100, failed=9))))
    assert found.verdict == "ABORT"
    assert found.words.startswith("9 of 12 errors fell on version 4, which got 10 % of requests (1.2 expected)")
    assert "at most once in 569,652 times" in found.words
    assert found.harmed == 9
    errors = finding(found, "errors")
    assert errors.log_e > errors.needed == pytest.approx(math.log(300))
    assert errors.lower > 1.0


@pytest.mark.parametrize("bad", ["failed", "expired", "rejected", "cancelled", "slow"])
def test_each_kind_of_bad_event_aborts(bad: str) -> None:
    assert judge(seen(segment(10.0, arm(9_000), arm(1_000, **{bad: 40})))).verdict == "ABORT"


@pytest.mark.parametrize("bad", ["failed", "expired", "rejected", "cancelled", "slow"])
def test_none_promotes_while_one_is_not_proven(bad: str) -> None:
    assert judge(seen(HEALTHY)).verdict == "PROMOTE"
    more = {"failed": 5, "slow": 500} | {bad: {"slow": 650}.get(bad, 90)}
    worse = segment(50.0, HEALTHY.counts["3"], arm(10_000, **more))
    assert judge(seen(worse)).verdict != "PROMOTE"


@pytest.mark.parametrize(
    "observed",
    [
        seen(),
        seen(segment(10.0, arm(0), arm(0))),
        seen(segment(10.0, arm(50_000), arm(0))),
        seen(segment(100.0, arm(0), arm(90_000))),
        seen(segment(0.0, arm(90_000), arm(0))),
        seen(msgspec.structs.replace(HEALTHY, generation=1)),
        seen(HEALTHY, measured=False),
        seen(segment(10.0, arm(90), arm(10))),
    ],
)
def test_silence_is_never_success(observed: deployment.Observed) -> None:
    found = judge(observed)
    assert found.verdict == "CONTINUE"
    assert found.words


def test_requests_that_are_still_open_are_no_success() -> None:
    hanging = Counts(admitted=10_000, ok=9_700, slow=480)
    found = judge(seen(segment(50.0, arm(10_000, slow=500), hanging)))
    assert found.verdict == "CONTINUE"
    assert finding(found, "errors").verdict == "CONTINUE"


def test_requests_open_on_both_make_no_errors_look_alike() -> None:
    old, new = Counts(admitted=5_000, ok=3_950, failed=50), Counts(admitted=5_000, ok=3_920, failed=80)
    assert finding(judge(seen(segment(50.0, old, new))), "errors").verdict != "PROMOTE"


def test_refusals_speak_for_harm_only_of_an_arm_with_at_most_half_of_the_load() -> None:
    heavy = judge(seen(segment(90.0, arm(1_000), arm(9_000, rejected=400))))
    assert finding(heavy, "refused").verdict == "CONTINUE"
    crowded = judge(seen(segment(10.0, arm(9_000, rejected=900), arm(1_000, failed=30))))
    assert crowded.verdict == "ABORT"


def test_a_mismatch_of_requests_promotes_nothing() -> None:
    fewer = segment(50.0, arm(10_000, failed=5, slow=500), arm(9_000, failed=4, slow=450))
    found = judge(seen(fewer))
    assert found.verdict == "CONTINUE"
    assert "cannot be trusted" in found.words


def test_more_requests_than_announced_are_no_harm_by_themselves() -> None:
    tripled = segment(10.0, arm(7_000, failed=70), arm(3_000, failed=30))
    found = judge(seen(tripled))
    assert found.verdict == "CONTINUE"
    assert judge(seen(segment(10.0, arm(7_000, failed=70), arm(3_000, failed=300)))).verdict == "ABORT"


def test_segments_of_other_shares_are_weighed_by_their_own() -> None:
    first = segment(1.0, arm(9_900, failed=99), arm(100, failed=1), generation=2)
    then = segment(50.0, arm(500, failed=5), arm(500, failed=5), generation=3)
    found = finding(judge(seen(first, then)), "errors")
    assert found.verdict != "ABORT"
    assert found.lower < 1.0 < found.upper
    assert "1 % to 50 % of requests" in found.words


def test_sticky_callers_count_once() -> None:
    guard = evidence.Guard(sticky=True)
    one = Counts(admitted=1_000, ok=900, failed=100, first_bad=1)
    calm = Counts(admitted=9_000, ok=8_999, failed=1, first_bad=1)
    assert judge(seen(segment(10.0, calm, one)), guard).verdict == "CONTINUE"
    many = Counts(admitted=1_000, ok=900, failed=100, first_bad=20)
    assert judge(seen(segment(10.0, calm, many)), guard).verdict == "ABORT"
    uncounted = Counts(admitted=1_000, ok=900, failed=100)
    found = judge(seen(segment(10.0, calm, uncounted)), guard)
    assert (found.verdict, "not counted" in found.words) == ("CONTINUE", True)


def test_sticky_callers_who_all_had_something_prove_nothing() -> None:
    guard = evidence.Guard(sticky=True, slow_ms=50.0)
    old = Counts(admitted=50_000, ok=49_500, failed=500, first_bad=450)
    equal = Counts(admitted=50_000, ok=49_500, failed=500, first_bad=450)
    worse = Counts(admitted=50_000, ok=48_000, failed=2_000, first_bad=450)
    assert judge(seen(segment(50.0, old, equal)), guard).verdict == "PROMOTE"
    found = judge(seen(segment(50.0, old, worse)), guard)
    assert found.verdict == "CONTINUE"
    assert "4 % were bad there, 1 % elsewhere" in found.words


def test_without_a_threshold_nothing_is_promoted_but_where_latency_is_not_judged() -> None:
    observed = seen(segment(50.0, arm(20_000), arm(20_000)))
    found = judge(observed, evidence.Guard())
    assert found.verdict == "CONTINUE"
    assert "latency is not judged" in found.words
    assert judge(observed, evidence.Guard(latency=False)).verdict == "PROMOTE"
    assert judge(observed, evidence.Guard(sticky=True)).verdict == "CONTINUE"
    given_up = seen(segment(10.0, arm(9_000), arm(1_000, cancelled=40)))
    assert judge(given_up, evidence.Guard()).verdict == "ABORT"


def test_a_threshold_that_came_late_promotes_on_what_was_drawn_under_it() -> None:
    before = segment(50.0, arm(50_000, failed=5), arm(50_000, failed=5), generation=2)
    few = segment(50.0, arm(100, slow=5), arm(100, slow=5), generation=3)
    many = segment(50.0, arm(10_000, slow=500), arm(10_000, slow=500), generation=3)
    for late, verdict in ((few, "CONTINUE"), (many, "PROMOTE")):
        assert evidence.judge(GUARD, "3", "4", seen(before, late), 1, 2).verdict == verdict
    # Counted as if the threshold had been there all the time, the few would say that hardly any are slow.
    assert evidence.judge(GUARD, "3", "4", seen(before, few), 1).verdict == "PROMOTE"
    slow = segment(50.0, arm(1_000, slow=50), arm(1_000, slow=200), generation=3)
    assert evidence.judge(GUARD, "3", "4", seen(before, slow), 1, 2).verdict == "ABORT"


def test_what_says_the_same_is_said_once() -> None:
    allowed = "(allowed: 0.5 points or 1.5 times)"
    few = judge(seen(segment(10.0, arm(900), arm(100)))).words
    assert few == f"undecided: beside version 3 at most 8.2 points more errors, refusals and slow answers {allowed}"
    none = judge(seen(segment(1.0, arm(99), arm(1)))).words
    assert none == f"undecided: nothing is known of errors, refusals and slow answers {allowed}"
    assert judge(seen(HEALTHY)).words == (
        "no harm: beside version 3 at most 0.18 points more errors, 0.082 points more refusals, 1.31 times as many "
        "slow answers"
    )


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        ((0, 900, 50, 45, 5), 20.0),  # 5 % above 20 ms
        ((0, 930, 0, 70, 0), 10.0),  # 7 % is as near as there is, from 10 ms on
        ((0, 1000, 0, 0, 0), 10.0),  # no bound is exceeded by some: the lowest that all keep
        ((0, 0, 0, 0, 1000), 0.0),  # all above the last bound
        ((0, 90, 5, 4, 0), 0.0),  # fewer than 100
        ((), 0.0),
    ],
)
def test_the_threshold_is_the_bound_nearest_to_the_95th_percentile(latency: tuple[int, ...], expected: float) -> None:
    before = deployment.Segment(1, {"3": 100.0}, {"3": Counts(admitted=1_000, ok=1_000, latency=latency)})
    observed = seen(before, bounds=(0.005, 0.01, 0.02, 0.05))
    assert evidence.slow_ms(evidence.Guard(), "3", observed) == pytest.approx(expected)
    assert evidence.slow_ms(GUARD, "3", observed) == 50.0


def test_the_whole_distribution_informs() -> None:
    bounds = (0.01, 0.1)
    old = msgspec.structs.replace(HEALTHY.counts["3"], latency=(9_000, 995, 0))
    new = msgspec.structs.replace(HEALTHY.counts["4"], latency=(5_000, 4_995, 0))
    found = judge(seen(segment(50.0, old, new), bounds=bounds))
    latency = finding(found, "latency")
    assert not latency.decides
    assert latency.lower > 0.2
    assert latency.words.startswith("latencies differ most at 10 ms: 50 % of answers took longer on version 4, 9.95 %")


def test_scores_promote_what_is_better() -> None:
    guard = msgspec.structs.replace(GUARD, by="scores")
    rng = np.random.default_rng(4)

    def scored(rate: float) -> evidence.Judgement:
        scores = {arm: tuple((rng.random(2_000) < p).astype(float)) for arm, p in (("3", 0.6), ("4", rate))}
        return judge(seen(HEALTHY, scores=scores), guard)

    assert scored(0.8).verdict == "PROMOTE"
    assert scored(0.6).verdict == "CONTINUE"
    assert scored(0.4).verdict == "ABORT"
    assert judge(seen(HEALTHY), guard).verdict == "CONTINUE"


def mirrored(**counts: int) -> evidence.Judgement:
    return judge(seen(mirrored=deployment.Mirrored(**counts)), evidence.Guard(by="mirror"))


def labelled(told: deployment.Labelled, **counts: int) -> evidence.Judgement:
    observed = seen(mirrored=deployment.Mirrored(**counts), labelled=told)
    return judge(observed, evidence.Guard(by="mirror", labels=True))


def test_a_mirror_is_judged_by_labels() -> None:
    told, many = deployment.Labelled, {"compared": 3_000, "disagreed": 3_000, "classed": 3_000}
    other = {**many, "class_differed": 300}
    # All answers differ, and nobody knows yet which is right.
    assert labelled(told(), **other).verdict == "CONTINUE"
    assert labelled(told(old=40, new=5, neither=9), **other).verdict == "ABORT"
    assert labelled(told(old=5, new=40), **other).verdict == "PROMOTE"
    assert labelled(told(old=20, new=20), **other).verdict == "CONTINUE"
    assert labelled(told(neither=300), **other).verdict == "CONTINUE"
    # Whatever the few that differ are, no more than these can be worse.
    assert labelled(told(), **many, class_differed=4).verdict == "PROMOTE"
    assert labelled(told(old=40), **many, class_differed=4).verdict == "ABORT"


def test_labels_excuse_no_failures_and_silence_is_no_success() -> None:
    better = deployment.Labelled(new=900)
    counts = {"compared": 3_000, "classed": 3_000, "class_differed": 900}
    assert labelled(better, **counts).verdict == "PROMOTE"
    assert labelled(better, **counts, failed=90).verdict == "ABORT"
    assert labelled(better, **counts, failed=28).verdict == "CONTINUE"
    assert labelled(better).verdict == "CONTINUE"
    nothing = labelled(better, compared=3_000)
    assert (nothing.verdict, nothing.words) == (
        "CONTINUE",
        "no request of one row was given a class by both versions yet",
    )


def test_labels_are_told_with_their_numbers() -> None:
    found = labelled(deployment.Labelled(40, 5, 9), compared=3_000, classed=3_000, class_differed=300)
    assert found.words.startswith(
        "300 of 3,000 requests were given another class by version 4; of 54 of them that have a label, version 3 was "
        "right about 40, version 4 about 5; were it no worse, that would come at most once in "
    )
    last = finding(found, "labels")
    assert last.log_e > last.needed == pytest.approx(math.log(200))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400))
def test_more_labels_for_the_candidate_never_speak_against_it(old: int, new: int, differed: int) -> None:
    order = ("ABORT", "CONTINUE", "PROMOTE")
    counts = {"compared": 400, "classed": 400, "class_differed": differed}
    first, second = (labelled(deployment.Labelled(old, new + more), **counts).verdict for more in (0, 1))
    assert order.index(second) >= order.index(first)


def _shadowed(rng: np.random.Generator, wrong: float, differ: float) -> str:
    """The verdict of 3,000 mirrored requests that are labelled one by one, looked at after every 200."""
    other = rng.random(3_000) < differ
    fell = rng.random(3_000) < wrong
    for at in range(200, 3_001, 200):
        told = deployment.Labelled(int((other & fell)[:at].sum()), int((other & ~fell)[:at].sum()))
        counts = {"compared": at, "classed": at, "class_differed": int(other[:at].sum())}
        verdict = labelled(told, **counts).verdict
        if verdict != "CONTINUE":
            return verdict
    return "CONTINUE"


def test_looking_often_deceives_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(5)
    # No worse: 1 % may be aborted. 1.2 points worse: 1 % may be promoted. 2 of 30 come less than once in 20 times.
    assert [_shadowed(rng, 0.5, 0.06) for _ in range(30)].count("ABORT") <= 2
    assert [_shadowed(rng, 0.6, 0.06) for _ in range(30)].count("PROMOTE") <= 2
    assert {_shadowed(rng, 0.1, 0.06) for _ in range(5)} == {"PROMOTE"}
    assert {_shadowed(rng, 0.9, 0.06) for _ in range(5)} == {"ABORT"}


def test_a_mirror_is_judged_by_agreement() -> None:
    assert mirrored(compared=3_000, disagreed=4).verdict == "PROMOTE"
    assert mirrored(compared=3_000, disagreed=90).verdict == "ABORT"
    assert mirrored(compared=3_000, failed=90).verdict == "ABORT"
    assert mirrored(compared=3_000, disagreed=28).verdict == "CONTINUE"
    assert mirrored().verdict == "CONTINUE"
    assert mirrored(dropped=5_000).verdict == "CONTINUE"


NUMBER = st.integers(0, 5_000)
ARM = st.builds(
    Counts,
    admitted=NUMBER,
    ok=NUMBER,
    rejected=NUMBER,
    expired=NUMBER,
    cancelled=NUMBER,
    failed=NUMBER,
    slow=NUMBER,
    first_bad=st.none() | NUMBER,
)
SEGMENT = st.builds(segment, st.floats(0.0, 100.0), ARM, ARM, st.integers(0, 5))
OBSERVED = st.builds(
    lambda segments, measured: seen(*segments, measured=measured), st.lists(SEGMENT, max_size=4), st.booleans()
)


@settings(max_examples=40)
@given(OBSERVED, st.sampled_from([GUARD, evidence.Guard(sticky=True), evidence.Guard(r0=2.0, delta=0.25)]))
def test_whatever_was_counted_is_judged_in_words_that_survive_json(
    observed: deployment.Observed, guard: evidence.Guard
) -> None:
    found = judge(observed, guard)
    assert found.words
    assert found.harmed >= 0
    assert msgspec.json.decode(msgspec.json.encode(found), type=evidence.Judgement) == found
    if not observed.measured:
        assert found.verdict == "CONTINUE"
    for one in found.findings:
        assert math.isfinite(one.log_e)
    if found.verdict == "PROMOTE":
        assert sum(s.counts["4"].admitted for s in observed.segments if s.generation > 1) > 0

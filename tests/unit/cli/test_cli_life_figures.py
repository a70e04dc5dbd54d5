"""What the figures of `windlass demo --life` say, from answers and rows that are written down here."""

from __future__ import annotations

from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from windlass.cli import life_figures, life_plane
from windlass.client import account, witness
from windlass.records import rollouts
from windlass.rollout import evidence
from windlass.types import deployment

TRUTHS = ["3", "7"]


def answer(number: int, version: str, label: str, *, at: float = 100.0, outcome: int = account.OK) -> witness.Answer:
    return witness.Answer(number, at, 0.25, outcome, 200 if outcome == account.OK else 500, version, label)


def rollout(outcome: str) -> rollouts.Rollout:
    old, new = (deployment.Release("digits", version, f"sha256:{version:064x}") for version in (1, 2))
    fields: dict[str, Any] = dict.fromkeys(rollouts.Rollout.__struct_fields__)
    known = {"id": 4, "number": 2, "old": old, "new": new, "verdict": "ABORT", "words": "so", "outcome": outcome}
    return rollouts.Rollout(**(fields | known | {"started_at": 90.0, "ended_at": 101.5}))


def step(share: float, harmed: int | None) -> rollouts.Step:
    judged = None if harmed is None else evidence.Judgement("CONTINUE", "so far", harmed=harmed)
    release = deployment.Release("digits", 2, f"sha256:{2:064x}")
    wanted = deployment.Wanted("digits", (deployment.Arm(release, share),))
    fields: dict[str, Any] = dict.fromkeys(rollouts.Step.__struct_fields__)
    told = {} if judged is None else msgspec.to_builtins(judged)
    return rollouts.Step(**(fields | {"wanted": wanted, "evidence": told}))


def test_answers_are_counted_by_version_from_a_time_on() -> None:
    found = life_figures.by_version(
        [
            answer(0, "1", "3"),
            answer(1, "1", "3"),
            answer(2, "2", "7"),
            answer(3, "2", "", outcome=account.FAILED),
            answer(4, "1", "3", at=99.0),
            answer(5, "", "", outcome=account.BROKEN),
        ],
        TRUTHS,
        since=100.0,
    )
    assert found == {"1": life_figures.Asked(2, 0, 1), "2": life_figures.Asked(2, 1, 1)}
    assert found["1"].wrong_rate == 0.5
    assert life_figures.Asked(1, 1, 0).wrong_rate == 0.0


@hypothesis.given(
    theirs=st.tuples(st.integers(0, 500), st.integers(0, 500)), mine=st.tuples(st.integers(0, 500), st.integers(0, 500))
)
def test_what_the_old_version_would_have_got_wrong_too_is_no_harm(
    theirs: tuple[int, int], mine: tuple[int, int]
) -> None:
    old, new = (life_figures.Asked(right + wrong, 0, wrong) for right, wrong in (theirs, mine))
    harmed = life_figures.more_wrong({"1": old, "2": new}, "1", "2")
    assert 0 <= harmed <= new.wrong
    assert life_figures.more_wrong({"1": new, "2": new}, "1", "2") == 0
    assert life_figures.more_wrong({"2": new}, "1", "2") == new.wrong


def test_the_last_answer_of_a_version_says_when_it_is_gone() -> None:
    answers = [answer(0, "2", "3", at=99.9), answer(1, "2", "3", at=100.5), answer(2, "1", "3", at=103.0)]
    assert life_figures.until_gone(answers, "2", 100.0) == pytest.approx(0.75)
    assert life_figures.until_gone(answers[:1], "2", 100.0) == pytest.approx(0.15)
    assert life_figures.until_gone(answers, "2", 102.0) == 0.0
    assert life_figures.until_gone([], "2", 100.0) == 0.0


def test_a_rollout_that_ended_is_told_with_its_harm() -> None:
    steps = [step(0.0, None), step(1.0, 2), step(5.0, 3), step(5.0, 9), step(100.0, None)]
    seen = {"1": life_figures.Asked(90, 0, 9), "2": life_figures.Asked(20, 0, 12)}
    back = life_figures.ended("canary", rollout("old"), steps, seen, 30.0)
    assert (back.version, back.live, back.verdict, back.took_s) == (2, 1, "ABORT", 11.5)
    assert back.shares == (1.0, 5.0)
    assert (back.asked, back.bad, back.wrong, back.harmed, back.budget) == (20, 9, 10, 19, 30.0)
    assert life_figures.ended("canary", rollout("new"), steps, seen).live == 2


def test_labels_are_told_by_the_ids_of_requests_that_were_answered() -> None:
    answers = [answer(6, "1", "3"), answer(7, "1", "3"), answer(8, "1", "", outcome=account.EXPIRED)]
    given = life_plane.scored(answers, TRUTHS, "life9")
    assert [(one.request, one.score, one.label) for one in given] == [("life9-6", 1.0, "3"), ("life9-7", 0.0, "7")]

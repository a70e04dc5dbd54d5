"""Scores to labels: order, ties, binary models, extremes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from windlass import errors
from windlass.transforms import classify


def apply(output: Any, **parameters: Any) -> Any:
    return classify.Classify.load({"output": "y", **parameters}, {}).apply({"y": np.asarray(output)})


def test_the_best_label_first() -> None:
    made = apply(np.array([[1, 3, 2]], np.float32), labels=["a", "b", "c"], top_k=2)
    assert made["label"].tolist() == ["b"]
    assert list(made["scores"][0]) == ["b", "c"]
    assert made["scores"][0]["b"] == pytest.approx(np.exp(3) / np.exp([1, 2, 3]).sum(), rel=1e-6)
    assert made["score"][0] == made["scores"][0]["b"]
    assert set(made) == {"label", "score", "scores"}


def test_equal_scores_keep_the_order_of_the_classes() -> None:
    made = apply([[0.25, 0.25, 0.5, 0.25]], activation="none")
    assert list(made["scores"][0]) == ["2", "0", "1", "3"]


@pytest.mark.parametrize("output", [[0.0, 3.0], [[0.0], [3.0]]])
def test_one_column_is_the_second_of_two_classes(output: Any) -> None:
    made = apply(output, activation="sigmoid", labels=["no", "yes"])
    assert made["label"].tolist() == ["no", "yes"]
    assert made["score"][1] == pytest.approx(1 / (1 + np.exp(-3)), rel=1e-6)
    assert made["scores"][1]["no"] == pytest.approx(1 - made["score"][1], rel=1e-6)


def test_scores_are_shown_as_fp32_holds_them() -> None:
    assert apply(np.array([[0.1, 0.9]], np.float32), activation="none")["scores"][0] == {"1": 0.9, "0": 0.1}


def test_no_score_overflows() -> None:
    for activation in ("softmax", "sigmoid"):
        made = apply([[3e38, -3e38], [-1000.0, -1001.0]], activation=activation)
        assert np.isfinite(made["score"]).all()
        assert made["label"].tolist() == ["0", "0"]


def test_other_outputs_pass() -> None:
    transform = classify.Classify.load({"output": "y"}, {})
    assert "z" in transform.apply({"y": np.ones((1, 2)), "z": np.ones(1)})


@pytest.mark.parametrize(
    ("output", "parameters"),
    [
        (np.ones((1, 3)), {"labels": ["a", "b"]}),
        (np.ones((1, 1)), {"activation": "softmax"}),
        (np.ones((1, 2, 2)), {}),
        (np.array(["a"], object), {}),
    ],
)
def test_an_output_that_does_not_fit_is_refused(output: Any, parameters: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidInput):
        apply(output, **parameters)


@pytest.mark.parametrize(
    "parameters", [{"labels": ["a", "a"]}, {"labels": ["a"]}, {"top_k": 0}, {"activation": "tanh"}, {"outputs": "y"}]
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidInput):
        apply(np.ones((1, 2)), **parameters)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.floats(-50, 50, width=32)))
def test_softmax_is_a_distribution_and_the_label_is_its_peak(output: Any) -> None:
    made = apply(output, top_k=9)
    assert made["label"].tolist() == [str(i) for i in output.argmax(axis=1)]
    for scores in made["scores"]:
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_numbers_that_round_to_one_score_keep_their_order() -> None:
    assert apply(np.array([[0, 6e-18]], np.float32))["label"].tolist() == ["1"]

"""Parity: what agrees, what is refused, and what the refusal says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from windlass import errors
from windlass.packaging import draft, parity
from windlass.types import signature, tensor

X = signature.TensorSpec("x", "FP32", ("batch", 2))
Y = signature.TensorSpec("y", "FP32", ("batch", 2))


class Model:
    """A loaded model that is a function."""

    inputs = (X,)
    outputs = (Y,)

    def __init__(self, function: Any) -> None:
        self.function = function

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        return {name: value for name, value in self.function(inputs).items() if outputs is None or name in outputs}

    def unload(self) -> None: ...


def trial(values: Any, answer: Any, name: str = "batch 2") -> draft.Trial:
    return draft.Trial(name, {"x": np.asarray(values, np.float32)}, {"y": np.asarray(answer)})


def drafted(*trials: draft.Trial, outputs: tuple[signature.TensorSpec, ...] = (Y,), **more: Any) -> draft.Draft:
    return draft.Draft(
        files={}, signature=signature.Signature((X,), outputs), trials=trials, framework="torch 2.13", **more
    )


def answers(array: Any) -> Model:
    return Model(lambda _: {"y": np.asarray(array)})


ONES = np.ones((2, 2), np.float32)


@pytest.mark.promise("P-28")
def test_what_agrees_is_counted_and_measured() -> None:
    tried = drafted(trial(ONES, ONES * 4), trial(ONES[:1], ONES[:1] * 4, "batch 1"), synthetic=True)
    found = parity.check(Model(lambda i: {"y": i["x"] * np.float32(4.001)}), tried)
    assert found["rows"] == 3
    assert found["batch_sizes"] == [1, 2]
    assert found["trials"] == ["batch 2", "batch 1"]
    assert found["worst_difference"]["y"]["absolute"] == pytest.approx(0.001, rel=1e-2)
    assert found["worst_difference"]["y"]["relative"] == pytest.approx(0.00025, rel=1e-2)
    assert found["synthetic"] is True
    assert (found["rtol"], found["atol"]) == (1e-3, 1e-5)
    assert found["framework"] == "torch 2.13"
    assert found["isa"]
    assert found["versions"]["onnxruntime"]


@pytest.mark.promise("P-28")
def test_a_refusal_shows_the_worst_input_both_outputs_and_the_tolerance() -> None:
    right = np.array([[1, 2], [3, 4]], np.float32)
    wrong = right.copy()
    wrong[1, 0] = 3.5
    with pytest.raises(errors.GateRefused) as caught:
        parity.check(answers(wrong), drafted(trial([[0, 0], [7, 8]], right, "zeros")))
    text = caught.value.message
    assert caught.value.exit_code == 4
    for part in ("row 1 of 'zeros'", "'x' [2] [7, 8]", "torch 2.13 gives [2] [3, 4]", "package gives [2] [3.5, 4]"):
        assert part in text
    assert "0.001 relative + 1e-05" in text
    assert caught.value.hint


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([[np.nan, 1]], [[1, 1]]),
        ([[1, 1]], [[np.nan, 1]]),
        ([[np.inf, 1]], [[-np.inf, 1]]),
        ([[1, 1, 1]], [[1, 1]]),
        ([[0.0, 1.0]], [[1e-3, 1.0]]),
    ],
)
def test_what_differs_in_kind_is_refused(ours: Any, theirs: Any) -> None:
    with pytest.raises(errors.GateRefused, match="parity"):
        parity.check(answers(np.array(ours, np.float32)), drafted(trial(np.ones((1, 2)), np.array(theirs, np.float32))))


@pytest.mark.parametrize("answer", [[[np.nan, 1]], [[np.inf, -np.inf]], [[0, 0]]])
def test_nan_infinities_and_zeros_agree_with_themselves(answer: Any) -> None:
    theirs = np.array(answer, np.float32)
    assert parity.check(answers(theirs.copy()), drafted(trial(np.ones((1, 2)), theirs)))["rows"] == 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(np.array([[1, 2]]), np.array([[1, 3]])), (np.array([[b"a"]], object), np.array([[b"b"]], object))],
)
def test_integers_and_text_must_be_equal(ours: tensor.Array, theirs: tensor.Array) -> None:
    tried = drafted(trial(np.ones((1, 2)), theirs))
    with pytest.raises(errors.GateRefused, match="parity"):
        parity.check(answers(ours), tried)
    assert parity.check(answers(theirs.copy()), tried)["worst_difference"]["y"]["absolute"] == 0.0


def test_a_saturated_row_is_held_to_the_usual_scale_of_its_output() -> None:
    tiny = np.full((1, 2), 9e-11, np.float32)

    def saturates(inputs: tensor.Tensors) -> tensor.Tensors:
        return {
            "y": np.zeros((1, 2), np.float32) if len(inputs["x"]) == 1 else ONES * np.float32(0.9 - inputs["x"][0, 0])
        }

    model = Model(saturates)
    rows = [trial(np.zeros((2, 2)), ONES * np.float32(0.9)), trial(np.full((2, 2), 0.1), ONES * np.float32(0.8))]
    assert parity.check(model, drafted(*rows, trial(ONES[:1], tiny, "large")))["rows"] == 5
    with pytest.raises(errors.GateRefused, match="'large'"):
        parity.check(model, drafted(trial(ONES[:1], tiny, "large")))


def test_a_few_large_answers_do_not_excuse_the_usual_ones() -> None:
    def slightly_wrong(inputs: tensor.Tensors) -> tensor.Tensors:
        return {"y": inputs["x"] + np.float32(1e-3 if inputs["x"].max() < 2 else 0)}

    cases = [trial(ONES * size, ONES * size, f"{size}") for size in (0.01, 0.01, 0.01, 1000, 1000)]
    with pytest.raises(errors.GateRefused, match=r"'0\.01'"):
        parity.check(Model(slightly_wrong), drafted(*cases))


def test_for_a_classifier_the_share_of_equal_labels_is_counted() -> None:
    theirs = np.array([[1.0, 2.0], [2.0, 2.0], [5.0, 1.0], [0.0, 1.0]], np.float32)
    ours = theirs + np.array([[0, 0], [0, 1e-6], [0, 0], [0, 0]], np.float32)
    classify = draft.TransformDraft("classify", {"output": "y"})
    tried = drafted(trial(np.ones((4, 2)), theirs), transforms=(classify,))
    assert parity.check(answers(ours), tried)["same_label"] == 0.75
    assert "same_label" not in parity.check(answers(ours), drafted(trial(np.ones((4, 2)), theirs)))


def test_a_float64_answer_for_a_float32_one_is_refused() -> None:
    with pytest.raises(errors.GateRefused, match="float64"):
        parity.check(answers(ONES.astype(np.float64)), drafted(trial(ONES, ONES)))


def test_a_model_that_fails_is_refused_with_the_trial() -> None:
    def fails(_: tensor.Tensors) -> tensor.Tensors:
        raise errors.InternalError("the model's run failed: Gather index out of range")

    with pytest.raises(errors.GateRefused, match=r"fails on 'large': .*Gather"):
        parity.check(Model(fails), drafted(trial(ONES, ONES, "large")))


def test_a_trial_that_serving_would_refuse_proves_nothing() -> None:
    with pytest.raises(errors.GateRefused, match="3 rows"):
        parity.check(answers(ONES), drafted(trial(np.ones((3, 2)), np.ones((3, 2), np.float32)), max_batch=2))


def test_no_trials_are_no_proof() -> None:
    with pytest.raises(errors.GateRefused, match="no trials"):
        parity.check(answers(ONES), drafted())


def test_trees_are_compared_on_a_thousand_rows() -> None:
    tried = drafted(trial(ONES, ONES), trees=True)
    with pytest.raises(errors.GateRefused, match="1000"):
        parity.check(answers(ONES), tried)
    many = np.ones((500, 2), np.float32)
    enough = drafted(trial(many, many), trial(many, many), trees=True, max_batch=500)
    assert parity.check(answers(many), enough)["rows"] == 1000
